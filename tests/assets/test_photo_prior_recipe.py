"""The recipe of the pixel prior, on pictures made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.assets.recipes import photo_prior
from fewstep.assets.recipes.photo_prior_data import (
    HELD_OUT,
    TRAINED,
    Windows,
    centre_windows,
    read_emoji,
    read_photographs,
    shrunk,
)
from fewstep.assets.recipes.photo_prior_measure import best_weight, classical, cut
from fewstep.eval.restoration_classical import WEIGHTS
from fewstep.eval.restoration_problem import degradation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in (*TRAINED, *HELD_OUT):
        pixels = np.full((96, 144, 3), 10 * int(name), np.uint8) + rng.integers(0, 5, (96, 144, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    np.savez(folder / "emoji.npz", rgba=rng.integers(0, 256, (5, 32, 32, 4), np.uint8))
    return folder


def test_photographs_that_are_held_out_are_not_trained_on() -> None:
    assert not set(TRAINED) & set(HELD_OUT)
    assert sorted(TRAINED + HELD_OUT) == [f"{i:02d}" for i in range(1, 25)]


def test_windows_are_repeatable_and_in_range(data: Path) -> None:
    windows = Windows.of(read_photographs(data, TRAINED), read_emoji(data / "emoji.npz"), 64)
    one, two = (windows.batch(32, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (32, 3, 64, 64)
    assert one.min() >= -1
    assert one.max() <= 1
    assert len(windows.pictures) == 2 * len(TRAINED)  # half the size is smaller than a window


def test_a_window_is_a_part_of_its_picture_turned() -> None:
    picture = torch.arange(3 * 70 * 80).reshape(3, 70, 80).remainder(251).byte()
    windows = Windows([picture], torch.zeros(0, 4, 32, 32, dtype=torch.uint8), 64)
    for window in windows.batch(12, torch.Generator().manual_seed(0)):
        values = ((window + 1) * 127.5).round()
        if not torch.allclose((window + 1) * 127.5, values, atol=1e-3):
            continue  # in another light
        places = picture.float().unfold(1, 64, 1).unfold(2, 64, 1)
        turns = [torch.rot90(values, k, (1, 2)) for k in range(4)]
        turns += [t.flip(2) for t in turns]
        assert any(bool((places == t[:, None, None]).all(dim=(0, 3, 4)).any()) for t in turns)


def test_shrinking_is_pillows_bicubic(data: Path) -> None:
    picture = read_photographs(data, ("07",))[0]
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    pillow = np.asarray(image.resize((72, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(shrunk(picture, 0.5).numpy().astype(int) - pillow.astype(int)).max() <= 1


def test_denoising_with_the_exact_velocity_of_one_picture_returns_it() -> None:
    picture = torch.rand(1, 3, 21, 30, generator=torch.Generator().manual_seed(1)) * 2 - 1
    padded = torch.nn.functional.pad(picture, (0, 2, 0, 3), mode="reflect")
    signal = photo_prior.new_scheduler().alphas_cumprod

    def unet(x: torch.Tensor, timestep: int) -> SimpleNamespace:
        alpha, sigma = signal[timestep].sqrt(), (1 - signal[timestep]).sqrt()
        noise = (x - alpha * padded) / sigma
        return SimpleNamespace(sample=alpha * noise - sigma * padded)

    noisy = picture + 0.2 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(photo_prior.denoised(unet, noisy, 0.2), picture, atol=1e-5, rtol=0)


def test_a_smoke_run_makes_a_pipeline_that_draws(data: Path, tmp_path: Path) -> None:
    from diffusers import DDPMPipeline

    photo_prior.run(data, data / "emoji.npz", tmp_path / "models", tmp_path / "work", smoke=True)
    pipeline = DDPMPipeline.from_pretrained(str(tmp_path / "models" / "photo-prior"))
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert drawn.shape == (1, 64, 64, 3)
    assert np.isfinite(drawn).all()
    result = json.loads((tmp_path / "work" / "measure.json").read_text())
    assert [row["task"] for row in result["tasks"]] == ["sr2", "inpaint", "denoise", "gaussian-deblur"]
    for row in result["tasks"]:
        assert row["calls"] >= 1
        assert len(row["each"]) == 1
        assert row["wanted"] >= max(row["rivals"].values()) - 1e-3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"photographs": None, "stage": "prior"}, "needs --photographs"),
        ({"photographs": Path("nowhere"), "stage": "prior"}, "has no photograph 01.png"),
        ({"photographs": None, "stage": "export", "steps": 0}, "must be positive"),
        ({"photographs": None, "stage": "export", "side": 8}, "at least 16"),
    ],
)
def test_bad_input(arguments: dict[str, object], sentence: str, tmp_path: Path) -> None:
    arguments["stage"] = photo_prior.Stage(str(arguments["stage"]))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        photo_prior.run(out=tmp_path, work=tmp_path / "work", **arguments)  # type: ignore[arg-type]


def test_photographs_are_cut_at_their_centre(data: Path) -> None:
    photograph = read_photographs(data, ("20",))[0]
    square, whole = cut([photograph], 64)[0], cut([photograph], 0)[0]
    torch.testing.assert_close(square, photograph[:, 16:80, 40:104].float() / 255)
    assert whole.shape == (3, 96, 144)


def test_of_a_flat_picture_the_heaviest_weight_is_the_best() -> None:
    """Total variation of a flat picture with noise tends to its mean, whose error falls with the weight."""
    flat = [torch.full((3, 24, 24), 0.5)]
    what = degradation("denoise", 25.0, 0.0)
    weight, best = best_weight(flat, what, "total variation", tries=2)
    assert weight == pytest.approx(2 * WEIGHTS["denoise", "total variation"].value)
    assert best > classical(flat, what, "total variation", weight / 4)


def test_windows_on_a_lattice(data: Path) -> None:
    windows = centre_windows(read_photographs(data, HELD_OUT), 64, 4)
    assert windows.shape == (24, 3, 64, 64)
