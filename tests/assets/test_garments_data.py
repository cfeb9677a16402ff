"""The coloured garments: loading, painting and captions, on grey shapes made here."""

from __future__ import annotations

import colorsys
import gzip
import itertools
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.assets.recipes.garments_data import (
    BACKGROUNDS,
    COLOURS,
    GARMENTS,
    PLURALS,
    canonical_caption,
    caption,
    captions,
    colourise,
    load_fashion_mnist,
    with_article,
)


def block(value: int = 200, count: int = 1) -> torch.Tensor:
    """A uniform rectangle, rows 6..21 and columns 8..19, on nothing: (count, 28, 28) uint8."""
    grey = torch.zeros(count, 28, 28, dtype=torch.uint8)
    grey[:, 6:22, 8:20] = value
    return grey


def rgb(picture: torch.Tensor, row: int, column: int) -> tuple[float, float, float]:
    """One pixel of a (3, 32, 32) picture in [-1, 1], in [0, 1]."""
    red, green, blue = ((picture[:, row, column] + 1) / 2).tolist()
    return red, green, blue


def all_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    colour = torch.arange(len(COLOURS)).repeat_interleave(len(BACKGROUNDS))
    background = torch.arange(len(BACKGROUNDS)).repeat(len(COLOURS))
    return colour, background


# ------------------------------------------------------------------------------------------------------------ loading


def write_idx(folder: Path, zipped: bool) -> dict[str, np.ndarray]:
    """The four files of the original distribution, as its description says they are laid out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, prefix, count in (("train", "train", 7), ("test", "t10k", 3)):
        x = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        y = rng.integers(0, 10, count).astype(np.uint8)
        arrays |= {f"x_{split}": x, f"y_{split}": y}
        for name, raw in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28) + x.tobytes()),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">II", 2049, count) + y.tobytes()),
        ):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)
    return arrays


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_and_npz_hold_the_same_arrays(tmp_path: Path, zipped: bool) -> None:
    arrays = write_idx(tmp_path, zipped)
    np.savez(tmp_path / "all.npz", **arrays)  # type: ignore[arg-type]
    for source in (tmp_path, tmp_path / "all.npz"):
        loaded = load_fashion_mnist(source)
        assert set(loaded) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(loaded[key], array)
        assert loaded["y_train"].dtype == np.int64


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no Fashion-MNIST"):
        load_fashion_mnist(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load_fashion_mnist(tmp_path)
    np.savez(tmp_path / "half.npz", x_train=np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(ValueError, match=r"half\.npz holds no x_test, y_test, y_train"):
        load_fashion_mnist(tmp_path / "half.npz")
    write_idx(tmp_path, zipped=False)
    file = tmp_path / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="should hold 2352 bytes"):
        load_fashion_mnist(tmp_path)
    file.write_bytes(b"hello, world")
    with pytest.raises(ValueError, match="not an idx file"):
        load_fashion_mnist(tmp_path)
    write_idx(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 3) + bytes([0, 10, 2]))
    with pytest.raises(ValueError, match=r"must be in 0\.\.9"):
        load_fashion_mnist(tmp_path)


# ----------------------------------------------------------------------------------------------------------- painting


def test_colours_and_backgrounds_are_far_apart() -> None:
    for a, b in itertools.combinations([*COLOURS.items(), *BACKGROUNDS.items()], 2):
        apart = max(abs(x - y) for x, y in zip(a[1], b[1], strict=True))
        both_backgrounds = a[0] in BACKGROUNDS and b[0] in BACKGROUNDS
        assert apart >= (0.15 if both_backgrounds else 0.2), (a, b, apart)


def test_an_even_garment_gets_the_hue_of_its_colour_and_the_ground_is_exact() -> None:
    colour, background = all_pairs()
    pictures = colourise(block(count=len(colour)), colour, background)
    for picture, c, b in zip(pictures, colour.tolist(), background.tolist(), strict=True):
        asked, drawn = list(COLOURS.values())[c], rgb(picture, 16, 16)
        hue, saturation, value = colorsys.rgb_to_hsv(*drawn)
        hue_asked, saturation_asked, value_asked = colorsys.rgb_to_hsv(*asked)
        assert saturation == pytest.approx(saturation_asked, abs=1e-3)
        assert 0.9 * value_asked <= value <= value_asked
        if saturation_asked > 0.1:
            assert hue == pytest.approx(hue_asked, abs=1e-3)
        assert rgb(picture, 1, 1) == pytest.approx(list(BACKGROUNDS.values())[b], abs=1e-6)


def test_a_dark_garment_is_painted_like_a_bright_one() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    dark, bright = (colourise(block(value), zero, zero)[0, :, 10:22, 12:20] for value in (60, 250))
    torch.testing.assert_close(dark, bright, atol=1e-5, rtol=0)


def test_pinholes_are_filled_and_wide_gaps_stay_open() -> None:
    grey = block()
    grey[0, 10, 12] = 0  # a pinhole: one pixel
    grey[0, 14:19, 12:17] = 0  # a gap: five by five
    teal, white = torch.tensor([list(COLOURS).index("teal")]), torch.zeros(1, dtype=torch.int64)
    picture = colourise(grey, teal, white)[0]
    hole, gap = rgb(picture, 12, 16), rgb(picture, 18, 16)
    assert hole[0] < 0.1, "teal has almost no red, white has"
    assert gap == pytest.approx(BACKGROUNDS["white"], abs=1e-6)


def test_shading_survives_and_follows_the_grey() -> None:
    grey = block()
    grey[0, 6:22, 8:20] = torch.arange(120, 240, 10, dtype=torch.uint8)
    zero = torch.zeros(1, dtype=torch.int64)
    row = colourise(grey, zero + list(COLOURS).index("grey"), zero)[0, 0, 16, 11:21]
    assert bool((row.diff() > 0).all())
    assert float(row[-1] - row[0]) > 0.2


def test_painting_is_repeatable_in_range_and_jittered() -> None:
    colour, background = all_pairs()
    grey = torch.randint(0, 256, (len(colour), 28, 28), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    first, again, other = (
        colourise(grey, colour, background, torch.Generator().manual_seed(seed), flip=0.5) for seed in (1, 1, 2)
    )
    assert first.shape == (len(colour), 3, 32, 32)
    assert first.dtype == torch.float32
    assert float(first.min()) >= -1
    assert float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain = colourise(block(count=50), torch.zeros(50, dtype=torch.int64), torch.zeros(50, dtype=torch.int64))
    moved = colourise(
        block(count=50),
        torch.zeros(50, dtype=torch.int64),
        torch.zeros(50, dtype=torch.int64),
        torch.Generator().manual_seed(0),
    )
    assert 0.005 < float((plain - moved).abs().mean()) < 0.1


def test_bytes_and_floats_paint_the_same() -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    torch.testing.assert_close(colourise(block(180), zero, zero), colourise(block(180).float() / 255, zero, zero))


def test_flip_mirrors_the_garment() -> None:
    grey = block()
    grey[0, 6:10, 8:20] = 0
    grey[0, 6:10, 8:12] = 255
    zero = torch.zeros(1, dtype=torch.int64)
    flipped = colourise(grey, zero, zero, torch.Generator().manual_seed(0), flip=1.0)
    by_hand = colourise(torch.from_numpy(np.ascontiguousarray(np.flip(grey.numpy(), 2))), zero, zero)
    # The jitter of the colours remains; a wrong side would differ by far more.
    assert float((flipped - by_hand).abs().max()) < 0.25
    assert float((flipped - colourise(grey, zero, zero)).abs().max()) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grey": torch.zeros(1, 32, 32)}, r"shape \(B, 28, 28\)"),
        ({"colour": torch.tensor([10])}, r"colour must be in 0\.\.9, got 10"),
        ({"background": torch.tensor([-1])}, r"background must be in 0\.\.4, got -1"),
        ({"colour": torch.tensor([0, 1])}, r"colour must have shape \(1,\)"),
        ({"flip": 0.5}, "flip needs a generator"),
    ],
)
def test_painting_says_what_is_wrong(change: dict, message: str) -> None:
    good = {"grey": block(), "colour": torch.tensor([0]), "background": torch.tensor([0])}
    with pytest.raises(ValueError, match=message):
        colourise(**(good | change))


# ----------------------------------------------------------------------------------------------------------- captions


def test_canonical_captions() -> None:
    assert canonical_caption(9, 0, 0) == "a red ankle boot on a white background"
    assert canonical_caption(1, 1, 3) == "an orange pair of trousers on a light blue background"
    assert caption(8, 4, 1) == "a teal bag on a black background"


def test_articles() -> None:
    assert with_article("ankle boot") == "an ankle boot"
    assert with_article("red ankle boot") == "a red ankle boot"
    assert with_article("orange trousers") == "orange trousers"
    assert with_article("orange pair of trousers") == "an orange pair of trousers"
    assert with_article("pair of pants") == "a pair of pants"


def test_every_caption_is_a_phrase_with_the_right_article() -> None:
    for garment, colour, background in itertools.product(range(10), range(10), range(len(BACKGROUNDS))):
        texts, shares = zip(*captions(garment, colour, background), strict=True)
        assert sum(shares) == pytest.approx(1)
        for text in texts:
            assert re.fullmatch(r"[a-z-]+(,? [a-z-]+)*", text), text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
            assert not re.search(rf"\ban? (\w+ )?({'|'.join(PLURALS)})\b", text), text


def test_captions_name_no_other_colour_and_no_other_background() -> None:
    for garment, colour, background in itertools.product(range(10), range(10), range(len(BACKGROUNDS))):
        for text, _ in captions(garment, colour, background):
            grounds = text.replace("light blue", "sky")
            for name in set(COLOURS) - {list(COLOURS)[colour]}:
                assert not re.search(rf"\b{name}\b", grounds), text
            for name in set(BACKGROUNDS) - {list(BACKGROUNDS)[background]}:
                assert not re.search(rf"\b{name}\b", text), text


def test_drawn_captions_repeat_with_the_seed_and_have_the_stated_shares() -> None:
    def drawn(seed: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed)
        return [caption(3, 2, 1, generator) for _ in range(600)]

    texts = drawn(0)
    assert texts == drawn(0)
    assert texts != drawn(1)
    known = dict.fromkeys((text for text, _ in captions(3, 2, 1)), 0.0)
    for text, share in captions(3, 2, 1):
        known[text] += share
    assert set(texts) <= set(known)
    plain = canonical_caption(3, 2, 1)
    expected = known[plain]
    # Four standard deviations of a binomial.
    assert abs(texts.count(plain) / 600 - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5


def test_garments_are_in_the_order_of_the_labels() -> None:
    assert GARMENTS[0] == "t-shirt"
    assert GARMENTS[5:] == ("sandal", "shirt", "sneaker", "bag", "ankle boot")
    assert len(GARMENTS) == len(set(GARMENTS)) == 10
