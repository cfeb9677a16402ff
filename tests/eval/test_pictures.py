"""Sets of pictures: the same pixels from every kind of file, in batches that do not matter; and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.eval import open_pictures
from fewstep.eval.pictures import PictureSet
from fewstep.eval.prompts import prompts_of


def pixels(count: int = 7, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def read(pictures: PictureSet, batch: int = 3) -> torch.Tensor:
    parts = list(pictures.batches(batch))
    assert [part.first for part in parts] == list(range(0, pictures.count, batch))
    return torch.cat([part.images for part in parts])


def write(folder: Path, array: np.ndarray, ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(array):
        Image.fromarray(picture).save(folder / f"{i:03}.{ending}")
    return folder


def test_every_kind_holds_the_same_pictures(tmp_path: Path) -> None:
    x = pixels()
    expected = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "stored.npz", labels=np.arange(7), arr_0=x)
    np.savez_compressed(tmp_path / "packed.npz", anything=x.transpose(0, 3, 1, 2), labels=np.arange(7))
    np.save(tmp_path / "float.npy", x.astype(np.float32) / 255)
    np.save(tmp_path / "signed.npy", x.astype(np.float64) / 127.5 - 1)
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"pictures": "folder"}, "rows": []}))
    folder = write(tmp_path / "folder", x)
    sources: list[Any] = [folder, str(folder), tmp_path / "run.json", x, torch.from_numpy(x).permute(0, 3, 1, 2)]
    sources += [tmp_path / name for name in ("a.npy", "stored.npz", "packed.npz", "float.npy")]
    for source in sources:
        found = open_pictures(source)
        assert found.count == 7
        for batch in (1, 3, 100):
            assert torch.allclose(read(found, batch), expected, atol=1e-7), source
    assert torch.allclose(read(open_pictures(tmp_path / "signed.npy", signed=True)), expected, atol=1e-6)


def test_grey_pictures_have_three_equal_channels() -> None:
    grey = pixels()[..., 0]
    found = read(open_pictures(grey))
    assert found.shape == (7, 3, 6, 5)
    assert torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(read(open_pictures(grey[..., None])), found)


def test_pictures_of_several_sizes_keep_their_order(tmp_path: Path) -> None:
    for i, width in enumerate([5, 5, 8, 5, 5, 5]):
        write(tmp_path / f"{i}", np.full((1, 4, width, 3), 40 * i, np.uint8))
    parts = list(open_pictures(tmp_path).batches(2))
    assert [(part.first, len(part.images)) for part in parts] == [(0, 2), (2, 1), (3, 2), (5, 1)]
    levels = [round(float(image.mean()) * 255) for part in parts for image in part.images]
    assert levels == [0, 40, 80, 120, 160, 200]


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, pixels(2))
    write(tmp_path / ".trash", pixels(2))
    (tmp_path / "notes.txt").write_text("hello")
    assert open_pictures(tmp_path).count == 2


def test_digest_follows_contents_and_names(tmp_path: Path) -> None:
    one, same = write(tmp_path / "one", pixels()), write(tmp_path / "same", pixels())
    assert open_pictures(one).digest() == open_pictures(same).digest()
    (same / "000.png").rename(same / "zzz.png")
    moved = open_pictures(same).digest()
    assert moved != open_pictures(one).digest()
    Image.fromarray(pixels()[0] // 2).save(same / "zzz.png")
    assert open_pictures(same).digest() != moved


def test_a_large_packed_array_is_streamed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "large.npz", np.zeros((2000, 64, 64, 3), np.uint8))  # 25 MB unpacked
    found = open_pictures(tmp_path / "large.npz")
    tracemalloc.start()
    seen = sum(len(part.images) for part in found.batches(20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == 2000
    assert peak < 4e6


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (np.zeros((3, 4), np.uint8), "shape"),
        (np.zeros((3, 4, 4, 3), np.int64), "int64"),
        (np.zeros((0, 4, 4, 3), np.uint8), "holds no pictures"),
        (np.array([{}], object), "numbers"),
        (np.asfortranarray(np.zeros((3, 4, 5, 3), np.uint8)), "C order"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path: Path, content: np.ndarray, match: str) -> None:
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=match):
        open_pictures(tmp_path / "a.npy")


def test_floats_out_of_range_name_the_way_out() -> None:
    x = pixels().astype(np.float32) / 127.5 - 1
    with pytest.raises(ValueError, match=r"--signed"):
        read(open_pictures(x))
    with pytest.raises(ValueError, match="have"):
        read(open_pictures(x * 100, signed=True))
    x[3] = np.nan
    with pytest.raises(ValueError, match="among pictures 3 to 5 some are NaN or infinite"):
        read(open_pictures(x, signed=True))


def test_broken_files_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        open_pictures(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        open_pictures(tmp_path / "empty")
    folder = write(tmp_path / "folder", pixels(3))
    whole = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"001\.png' cannot be read"):
        read(open_pictures(folder))
    with pytest.raises(ValueError, match="one picture"):
        open_pictures(folder / "000.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "001.png")
    with pytest.raises(ValueError, match="8 bits"):
        read(open_pictures(folder))
    np.savez(tmp_path / "two.npz", a=pixels(), b=pixels())
    with pytest.raises(ValueError, match="one member that is pictures"):
        open_pictures(tmp_path / "two.npz")
    np.save(tmp_path / "cut.npy", pixels())
    data = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:-200])
    with pytest.raises(ValueError, match="cut off after picture 4"):
        read(open_pictures(tmp_path / "cut.npy"))
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(ValueError, match="cannot be read as an array"):
        open_pictures(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not JSON"),
        ("[]", "settings.pictures"),
        ('{"settings": {}}', "settings.pictures"),
        ('{"settings": {"pictures": "gone"}}', "no such folder"),
        ('{"settings": {"pictures": "run.json"}}', "no such folder"),
    ],
)
def test_runs_without_pictures(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        open_pictures(tmp_path / "run.json")


def test_prompts_from_every_kind_of_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", pixels(2))
    found = open_pictures(folder)
    (tmp_path / "a.txt").write_text("a red boot\na blue bag\n")
    (tmp_path / "list.json").write_text('["a red boot", "a blue bag"]')
    (tmp_path / "names.json").write_text('{"001": "a blue bag", "000.png": "a red boot", "other.png": "a hat"}')
    for name in ("a.txt", "list.json", "names.json"):
        assert prompts_of(found, tmp_path / name) == ["a red boot", "a blue bag"]
    (tmp_path / "short.txt").write_text("a red boot\n")
    with pytest.raises(ValueError, match="1 prompts for 2 pictures"):
        prompts_of(found, tmp_path / "short.txt")
    with pytest.raises(ValueError, match="does not hold its prompt"):
        prompts_of(found)
    with pytest.raises(FileNotFoundError, match="no file of prompts"):
        prompts_of(found, tmp_path / "none.txt")
    (tmp_path / "some.json").write_text('{"001": "a blue bag"}')
    with pytest.raises(ValueError, match=r"none for '000\.png'"):
        prompts_of(found, tmp_path / "some.json")
    with pytest.raises(ValueError, match="--prompts FILE"):
        prompts_of(open_pictures(pixels()))
