"""From files to measurements: scales, noise, grey pictures, transparency, sizes that are too large."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.pipelines.editing.pictures import Picture
from fewstep.pipelines.restoration.measured import bled, check_size, measured, resized, rounding
from fewstep.pipelines.restoration.tasks import TASKS
from fewstep.samplers.posterior.problem import EIGHT_BIT_SIGMA


def picture(height: int = 12, width: int = 16, grey: bool = False, **more: object) -> Picture:
    rgb = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    return Picture(np.repeat(rgb[..., :1], 3, axis=2) if grey else rgb, **more)  # type: ignore[arg-type]


def test_the_noise_of_a_file_is_at_least_that_of_its_rounding() -> None:
    values = np.random.default_rng(1).random(200_000)
    rounded = np.rint(values * 255) / 255
    assert abs(np.std(rounded - values) * 255 / rounding(8) - 1) < 0.01
    assert measured("sr2", picture()).noise_sigma == pytest.approx(EIGHT_BIT_SIGMA)
    assert measured("sr2", picture(bits=16)).noise_sigma == pytest.approx(2 / (65535 * 12**0.5))
    assert measured("sr2", picture(), sigma=5).noise_sigma == pytest.approx(10 / 255)
    assert measured("sr2", picture(), simulate=True).noise_sigma == 0


@pytest.mark.parametrize("task", ["denoise", "sr2", "gaussian-deblur"])
def test_a_grey_picture_says_as_much_in_three_channels_as_in_one(task: str) -> None:
    """The precision of three channels with noise s sqrt(3) along grey, 3 / (3 s^2), is that of one channel, 1 / s^2."""
    found = measured(task, picture(grey=True), sigma=20, simulate=True)
    assert found.grey
    assert (found.y[:, :1] == found.y).all()
    assert 3 / found.noise_sigma**2 == pytest.approx((255 / 40) ** 2)
    y = measured(task, picture(grey=True), sigma=20, simulate=True, channels=1)
    assert torch.equal(y.y, found.y[:, :1])
    assert y.noise_sigma == pytest.approx(40 / 255)


def test_a_simulated_measurement_has_noise_of_its_own_seed() -> None:
    first, again, other = (measured("denoise", picture(), sigma=9, simulate=True, seed=s).y for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    draw = torch.randn(first.shape, generator=torch.Generator().manual_seed(3))
    noise = first - torch.from_numpy(picture().rgb).permute(2, 0, 1)[None] * 2 + 1
    assert abs(torch.corrcoef(torch.stack([draw.flatten(), noise.flatten()]))[0, 1]) < 5 / draw.numel() ** 0.5


def test_real_measurements_are_in_the_scale_of_the_operator() -> None:
    rgb = torch.from_numpy(picture().rgb).permute(2, 0, 1)[None]
    assert torch.allclose(measured("sr4", picture()).y, 2 * rgb - 1)
    assert measured("sr4", picture()).size == (48, 64)
    known = torch.rand(12, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    y = measured("inpaint", picture(), mask=known).y
    assert torch.allclose(y, torch.where(known, 2 * rgb - 1, 0.0))
    luma = picture().rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    assert np.allclose(measured("colorize", picture()).y[0, 0], 2 * luma - 1, atol=1e-6)


def test_the_residual_of_the_clean_picture_is_the_noise() -> None:
    found = measured("denoise", picture(40, 40), sigma=12, simulate=True)
    numbers = found.y.numel()
    assert abs(found.residual(picture(40, 40).rgb) / 12 - 1) < 5 / (2 * numbers) ** 0.5
    known = torch.zeros(40, 40)
    known[:20] = 1
    found = measured("inpaint", picture(40, 40), sigma=12, simulate=True, mask=known)
    assert abs(found.residual(picture(40, 40).rgb) / 12 - 1) < 5 / numbers**0.5


def test_hidden_colours_come_from_around_and_seen_ones_stay() -> None:
    alpha = np.zeros((32, 48), np.float32)
    alpha[10:14, 20:30] = 1
    alpha[10, 20:30] = 0.5
    rgb = np.zeros((32, 48, 3), np.float32)
    rgb[alpha > 0] = (0.9, 0.4, 0.1)
    made = bled(Picture(rgb, alpha))
    assert np.allclose(made, [0.9, 0.4, 0.1], atol=1e-3)
    assert (made[alpha > 0] == rgb[alpha > 0]).all()
    for plain in (Picture(rgb), Picture(rgb, np.zeros_like(alpha)), Picture(rgb, alpha.clip(0.1))):
        assert (bled(plain) == rgb).all()


def test_transparency_grows_with_the_picture() -> None:
    alpha = np.linspace(0.1, 0.9, 16, dtype=np.float32)[None].repeat(12, 0)
    found = measured("sr2", Picture(picture().rgb, alpha))
    assert found.alpha is not None
    assert found.alpha.shape == (24, 32)
    assert found.alpha.min() >= 0.05
    assert resized(alpha, alpha.shape) is alpha


def test_what_is_too_large_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="cut the picture into parts"):
        check_size(TASKS["denoise"], (30_000, 30_000))
    with pytest.raises(ValueError, match=r"sides of at most 8192; cut the picture into parts"):
        check_size(TASKS["sr8"], (16, 30_000))
    check_size(TASKS["denoise"], (16, 30_000))


def test_noise_and_channels_out_of_range_are_refused() -> None:
    for sigma in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma must be"):
            measured("denoise", picture(), sigma=sigma)
    with pytest.raises(ValueError, match="4 channels"):
        measured("denoise", picture(), channels=4)
    with pytest.raises(ValueError, match="colorize is not for a model"):
        measured("colorize", picture(), channels=1)
