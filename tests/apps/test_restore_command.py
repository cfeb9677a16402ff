"""`fewstep restore`: what it writes and prints. Where the prior is sure of grey, the result is A^+ y, known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_priors
from PIL import Image

Fewstep = Callable[..., Any]


@pytest.fixture(scope="module")
def grey_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("priors")
    tiny_priors.grey_prior().save_pretrained(folder / "grey")
    return folder / "grey"


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("priors")
    tiny_priors.random_prior().save_pretrained(folder / "random")
    return folder / "random"


@pytest.fixture
def grey(fewstep: Fewstep, grey_folder: Path) -> Fewstep:
    """`fewstep restore` with the prior of middle grey."""
    return lambda *words: fewstep("restore", *words, "--model", grey_folder, "--device", "cpu", "--steps", 2)


@pytest.fixture
def drawn(fewstep: Fewstep, random_folder: Path) -> Fewstep:
    """`fewstep restore` with the random prior."""
    return lambda *words: fewstep("restore", *words, "--model", random_folder, "--device", "cpu", "--steps", 2)


def values(height: int = 18, width: int = 26, channels: int = 3, low: int = 90, high: int = 166) -> np.ndarray:
    """Not far from middle grey, so that no pseudo-inverse leaves the range of pictures."""
    return np.random.default_rng(0).integers(low, high, (height, width, channels), dtype=np.uint8).squeeze()


def save(array: np.ndarray, name: str, **more: Any) -> str:
    Image.fromarray(array).save(name, **more)
    return name


def read(name: str) -> np.ndarray:
    with Image.open(name) as image:
        return np.asarray(image)


def settings(name: str) -> dict[str, Any]:
    with Image.open(name) as image:
        return json.loads(image.text["fewstep"])  # type: ignore[attr-defined]


def mask(height: int = 18, width: int = 26) -> np.ndarray:
    """White = missing, half of the pixels."""
    return np.where(np.random.default_rng(1).random((height, width)) < 0.5, 255, 0).astype(np.uint8)


def test_enlarging_gives_the_shortest_picture_that_pillow_reduces_to_the_input(grey: Fewstep) -> None:
    small = values()
    said = grey(save(small, "a.png"), "b.png", "--task", "sr2", "--method", "ddnm")
    assert said.code == 0, said.err
    assert said.out.startswith("sr2: 26x18 -> 52x36, ddnm, 2 steps\nData residual: ")
    assert "; 2 network calls, " in said.out
    assert said.out.endswith("Wrote b.png\n")

    def pillow(to: int) -> np.ndarray:
        lines = Image.fromarray(np.eye(2 * to, dtype=np.float32))
        return np.linalg.pinv(np.asarray(lines.resize((2 * to, to), Image.Resampling.BICUBIC)).astype(float))

    y = small / 127.5 - 1
    expected = np.einsum("ij,jkc,lk->ilc", pillow(18), y, pillow(26))
    assert np.abs(read("b.png") - np.clip((expected + 1) * 127.5, 0, 255)).max() < 1
    assert (
        np.abs(np.asarray(Image.open("b.png").resize((26, 18), Image.Resampling.BICUBIC)).astype(int) - small).max()
        <= 2
    )


def test_known_pixels_stay_and_missing_ones_are_what_the_prior_says(grey: Fewstep, drawn: Fewstep) -> None:
    before, missing = values(low=0, high=256), mask() > 0
    words = (save(before, "a.png"), "b.png", "--task", "inpaint", "--mask", save(mask(), "mask.png"))
    said = grey(*words, "--method", "ddnm")
    assert said.code == 0, said.err
    assert (read("b.png")[~missing] == before[~missing]).all()
    assert (np.abs(read("b.png")[missing].astype(int) - 127.5) < 1).all()
    found = settings("b.png")
    assert (found["command"], found["task"], found["method"]) == ("restore", "inpaint", "ddnm")
    assert found["options"]["mask"] == "mask.png"
    said = drawn(*words, "--overwrite")
    assert said.code == 0, said.err
    assert (read("b.png")[~missing] == before[~missing]).all()


def test_colours_are_added_without_changing_the_luma(grey: Fewstep) -> None:
    before = values(channels=1)
    said = grey(save(before, "a.png"), "b.png", "--task", "colorize", "--method", "ddnm")
    assert said.code == 0, said.err
    weights = np.array([0.299, 0.587, 0.114])
    expected = (before / 127.5 - 1)[..., None] * weights / (weights @ weights)
    assert np.abs(read("b.png") - (expected + 1) * 127.5).max() < 0.6
    assert np.abs(read("b.png") @ weights - before).max() < 1.1


def test_a_run_is_that_of_the_library(drawn: Fewstep, random_folder: Path) -> None:
    import torch

    from fewstep.pipelines import load_restoration
    from fewstep.samplers.posterior.operators import Identity

    before = values()
    words = (save(before, "a.png"), "b.png", "--task", "denoise", "--sigma", 20, "--seed", 5)
    assert drawn(*words, "--method", "diffpir", "--zeta", 0.4).code == 0
    pipe = load_restoration(random_folder, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        torch.from_numpy(before / np.float32(127.5) - 1).permute(2, 0, 1)[None],
        Identity(),
        40 / 255,
        method="diffpir",
        method_options={"zeta": 0.4},
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(5)],
        output_type="np",
    )
    assert np.abs(read("b.png") - made.images[0] * 255).max() <= 0.501
    assert settings("b.png")["fields"] == {"zeta": 0.4}


def test_simulation_tells_how_far_the_result_is_from_the_clean_picture(grey: Fewstep) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    clean = values()
    words = (save(clean, "a.png"), "b.png", "--task", "gaussian-deblur", "--blur-sigma", 1, "--simulate", "--sheet")
    said = grey(*words, "--json", "--method", "ddnm")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    result = read("b.png")
    assert result.shape == clean.shape
    assert found["psnr"] == pytest.approx(metrics.peak_signal_noise_ratio(clean, result), abs=0.1)  # of rounded pixels
    expected = metrics.structural_similarity(
        clean, result, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert found["ssim"] == pytest.approx(expected, abs=0.1)  # the border is treated otherwise there
    assert found["psnr_before"] < found["psnr"]
    assert found["files"] == ["b.png", "b-sheet.png"]
    assert found["noise"] == 0
    assert found["residual"] < 2
    assert Image.open("b-sheet.png").width > 3 * 128
    assert grey(*words, "--overwrite").out.splitlines()[1].startswith("PSNR ")


def test_sigma_is_in_the_scale_of_bytes_and_a_grey_picture_stays_grey(grey: Fewstep) -> None:
    clean = np.full((40, 40), 128, np.uint8)
    words = (save(clean, "a.png"), "b.png", "--task", "denoise", "--sigma", 25, "--simulate", "--method", "ddnm")
    said = grey(*words, "--json")
    assert said.code == 0, said.err
    result = read("b.png")
    assert result.shape == (40, 40)  # DDNM takes noise for data, so it is all in the result
    assert abs(np.std(result.astype(float)) / 25 - 1) < 5 / (2 * 1600) ** 0.5
    found = json.loads(said.out)
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=0.8)
    assert found["residual"] < 0.3


def test_several_samples_give_their_mean_and_where_they_differ(drawn: Fewstep) -> None:
    words = (save(values(), "a.png"), "b.png", "--task", "inpaint", "--mask", save(mask(), "mask.png"), "--seed", 7)
    said = drawn(*words, "--samples", 3, "--batch", 2, "--json", "--method", "ddnm")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["files"] == ["b.png", "b-uncertainty.png", "b-3.png", "b-2.png", "b-1.png"]
    assert found["forward"] == 6
    assert len(found["residuals"]) == 3
    draws = np.stack([read(f"b-{i}.png") for i in (1, 2, 3)]).astype(float)
    assert np.abs(read("b.png") - draws.mean(0)).max() <= 1
    deviation = np.sqrt(draws.var(0, ddof=1).mean(2))
    assert np.abs(read("b-uncertainty.png") / 255 * deviation.max() - deviation).max() <= 0.02 * deviation.max() + 0.6
    assert deviation[mask() == 0].max() == 0
    assert "of 255" in settings("b-uncertainty.png")["shows"]
    assert [settings(f"b-{i}.png")["seed"] for i in (1, 2, 3)] == [7, 8, 9]
    assert drawn(*words[:-1], 9, "--method", "ddnm", "--overwrite").code == 0
    assert (read("b.png") == draws[2]).all()


def test_sixteen_bits_and_alpha_come_back(grey: Fewstep) -> None:
    from fewstep.pipelines.editing.pictures import read_picture
    from fewstep.pipelines.sixteen_bits import encode_png

    before = np.random.default_rng(0).integers(0, 65536, (18, 26, 4), dtype=np.uint16)
    Path("a.png").write_bytes(encode_png(before))
    said = grey("a.png", "b.png", "--task", "inpaint", "--mask", save(mask(), "mask.png"), "--method", "ddnm")
    assert said.code == 0, said.err
    found = read_picture("b.png")
    assert found.bits == 16
    known = mask() == 0
    assert found.alpha is not None
    assert (np.rint(found.alpha * 65535) == before[..., 3]).all()
    assert np.abs(found.rgb[known] * 65535 - before[known][:, :3]).max() <= 1
    assert settings("b.png")["task"] == "inpaint"


def test_orientation_and_alpha_of_eight_bits(grey: Fewstep) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    said = grey(save(values(), "a.jpg", exif=exif), "b.png", "--task", "sr2")
    assert said.code == 0, said.err
    with Image.open("b.png") as image:
        assert image.size == (36, 52)
        assert 0x0112 not in image.getexif()
    array = values(channels=4)
    array[..., 3] = np.where(np.arange(26) < 13, 0, 255)
    assert grey(save(array, "c.png"), "d.png", "--task", "sr2").code == 0
    with Image.open("d.png") as image:
        assert (image.mode, image.size) == ("RGBA", (52, 36))
        alpha = np.asarray(image)[..., 3]
    assert (alpha[:, :22] == 0).all()
    assert (alpha[:, -22:] == 255).all()


@pytest.mark.parametrize(
    ("task", "size"), [("sr4", (1, 1)), ("denoise", (1, 1)), ("sr2", (3, 41)), ("colorize", (1, 9))]
)
def test_any_aspect_down_to_one_pixel(grey: Fewstep, task: str, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (120, 130, 140)).save("a.png")
    said = grey("a.png", "b.png", "--task", task, *(["--sigma", 5] if task == "denoise" else []))
    assert said.code == 0, said.err
    factor = {"sr4": 4, "sr2": 2}.get(task, 1)
    assert Image.open("b.png").size == (factor * size[0], factor * size[1])


@pytest.mark.parametrize("tile", ["whole", "canvas", "msr", "hir"])
def test_every_tile_covers_the_picture(grey: Fewstep, tile: str) -> None:
    before, missing = values(40, 52), mask(40, 52) > 0
    words = ("--task", "inpaint", "--mask", save(mask(40, 52), "mask.png"), "--method", "ddnm", "--tile", tile)
    said = grey(save(before, "a.png"), "b.png", *words, "--window", 16, "--overlap", 8)
    assert said.code == 0, said.err
    assert (read("b.png")[~missing] == before[~missing]).all()
    if tile != "hir":  # whose first stage has something to say about missing pixels, too
        assert (np.abs(read("b.png")[missing].astype(int) - 127.5) < 1).all()
    assert settings("b.png")["tile"] == tile


def test_a_panorama_explains_its_input(grey: Fewstep) -> None:
    words = (save(values(8, 16), "a.png"), "b.png", "--task", "sr2", "--panorama", "--json")
    said = grey(*words)
    assert said.code == 0, said.err
    assert json.loads(said.out)["settings"]["planes"] == 18
    reduced = np.asarray(Image.fromarray(read("b.png")).resize((16, 8), Image.Resampling.BICUBIC), dtype=int)
    # half a level of rounding before the reduction, whose weights sum to less than 1.5 in size, and one in each pass
    assert np.abs(reduced - read("a.png")).max() <= 2


def test_cmyk_and_a_folder_for_the_result(grey: Fewstep) -> None:
    Image.fromarray(values()).convert("CMYK").save("a.jpg", quality=95)
    Path("results").mkdir()
    said = grey("a.jpg", "results", "--task", "denoise", "--sigma", 8)
    assert said.code == 0, said.err
    assert Image.open("results/a.png").size == (26, 18)
    assert grey("a.jpg", "new/deep/b.png", "--task", "denoise", "--sigma", 8).code == 0
    assert Path("new/deep/b.png").is_file()


def test_black_pictures_and_thirty_thousand_pixels(grey: Fewstep) -> None:
    Image.new("RGB", (26, 18)).save("black.png")
    words = ("--task", "inpaint", "--mask", save(mask(), "mask.png"), "--method", "ddnm")
    assert grey("black.png", "b.png", *words).code == 0
    assert (read("b.png")[mask() == 0] == 0).all()
    Image.new("RGB", (30_000, 2), (90, 120, 150)).save("wide.png")
    said = grey("wide.png", "c.png", "--task", "denoise", "--sigma", 5, "--method", "ddnm", "--tile", "canvas")
    assert said.code == 0, said.err
    assert Image.open("c.png").size == (30_000, 2)
    said = grey("wide.png", "d.png", "--task", "gaussian-deblur")
    assert said.code == 2
    assert "sides of at most 8192; cut the picture into parts" in said.err.replace("\n", " ")


def test_an_operator_of_ones_own(grey: Fewstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halves.py").write_text(
        "class Halves:\n"
        "    def __init__(self, size): self.size_seen = size\n"
        "    def A(self, x): return x[..., ::2, :] / 1\n"
        "    def A_adjoint(self, y):\n"
        "        x = y.new_zeros(*y.shape[:-2], 2 * y.shape[-2], y.shape[-1])\n"
        "        x[..., ::2, :] = y\n"
        "        return x\n"
        "def lines(size): return Halves(size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = values()
    words = (save(before, "a.png"), "b.png", "--task", "custom", "--operator", "halves:lines", "--method", "ddnm")
    said = grey(*words, "--size", "26x36")
    assert said.code == 0, said.err
    assert (read("b.png")[::2] == before).all()
    assert (np.abs(read("b.png")[1::2].astype(int) - 127.5) < 1).all()
    said = grey(*words[:1], "c.png", *words[2:])
    assert said.code == 2
    assert "say how large the result is" in said.err.replace("\n", " ")


def test_latent_models_read_a_prompt_and_pixel_models_none(fewstep: Fewstep, grey: Fewstep, tiny_folder: Path) -> None:
    save(values(16, 24), "a.png")
    words = ("a.png", "b.png", "--task", "sr2", "--prompt", "a red boot")
    said = grey(*words)
    assert said.code == 2
    assert "reads no prompt" in said.err
    said = fewstep(
        "restore", *words, "--guidance", 3, "--model", tiny_folder, "--device", "cpu", "--steps", 1, "--json"
    )
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["settings"]["method"] == "stsl"
    assert found["settings"]["prompt"] == "a red boot"
    assert found["backward"] > 0
    assert Image.open("b.png").size == (48, 32)


def test_its_results_are_no_pictures_from_nothing(grey: Fewstep, fewstep: Fewstep) -> None:
    assert grey(save(values(), "a.png"), "b.png", "--task", "sr2").code == 0
    assert "made by fewstep restore" in fewstep("generate", "--like", "b.png").err
