"""Classical restoration against Pillow, closed forms and optimality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("skimage")

from fewstep.eval.restoration_classical import (
    bicubic,
    biharmonic,
    restore_classically,
    total_variation,
    total_variation_deblurred,
    wiener,
)
from fewstep.samplers.posterior.operators import GaussianBlur, Identity, Resample


def picture(height=24, width=32, seed=0):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ramp(height, width):
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return ((0.1 + 0.02 * x + 0.01 * y)[None, None]).expand(1, 3, -1, -1)


def test_bicubic_is_pillows():
    small = picture().float()
    large = bicubic(small, (48, 64))
    for row, made in zip(small, large, strict=True):
        for channel, found in zip(row, made, strict=True):
            whole = Image.fromarray(channel.numpy()).resize((64, 48), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(found.numpy(), np.asarray(whole), atol=1e-5)


def test_projected_bicubic_has_the_measurement():
    operator = Resample((48, 64), 2)
    y = picture()
    found = restore_classically("bicubic projected", "sr2", y, operator, 0.0, (48, 64))
    torch.testing.assert_close(operator.A(found), y, atol=1e-9, rtol=0)


def test_biharmonic_filling_keeps_a_ramp():
    whole = ramp(14, 16)
    known = torch.rand(14, 16, generator=torch.Generator().manual_seed(1)) > 0.4
    known[:2], known[-2:], known[:, :2], known[:, -2:] = True, True, True, True  # the stencil reaches two pixels
    found = biharmonic(torch.where(known, whole, 9.0), known.double())
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


def test_every_picture_has_its_own_mask():
    whole = ramp(12, 12).expand(2, -1, -1, -1)
    known = torch.ones(2, 1, 12, 12)
    known[0, 0, 5, 5] = known[1, 0, 7, 3] = 0
    found = biharmonic(whole * known, known)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [0, 2, 9])
def test_wiener_filters_a_wave_by_its_closed_form(k):
    height, width, balance, sigma = 20, 28, 0.3, 1.2
    operator = GaussianBlur((height, width), sigma, 7)
    wave = torch.cos(math.pi * k * (torch.arange(width).double() + 0.5) / width).expand(1, 3, height, width)
    taps = torch.exp(-(torch.arange(-3, 4).double() ** 2) / (2 * sigma**2))
    gain = float((taps / taps.sum() * torch.cos(math.pi * k * torch.arange(-3, 4).double() / width)).sum())
    laplacian = 2 - 2 * math.cos(math.pi * k / width)
    expected = gain / (gain**2 + balance * laplacian**2) * wave
    torch.testing.assert_close(wiener(wave, operator, balance), expected, atol=1e-9, rtol=1e-9)


def objective(x, y, operator, weight):
    down, across = torch.zeros_like(x), torch.zeros_like(x)
    down[..., :-1, :], across[..., :, :-1] = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
    variation = (down.square() + across.square()).sqrt().sum()
    return float(weight * variation + (operator.A(x) - y).square().sum() / 2)


def test_total_variation_deblurring_lowers_its_objective_below_that_of_others():
    """ADMM is stopped after 40 steps of 20 inner ones, hence 1 %."""
    clean = (picture(20, 20)[:1] > 0.5).double()
    clean = torch.nn.functional.interpolate(clean[..., ::5, ::5], scale_factor=5.0)
    operator, weight = GaussianBlur((20, 20), 1.0, 7), 0.02
    y = operator.A(clean) + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3)).double()
    found = total_variation_deblurred(y, operator, weight, steps=40)
    best = objective(found, y, operator, weight)
    for other in (y, clean, total_variation(y, weight), operator.prox_l2(y, y, 10.0), found + 0.02, 0.98 * found):
        assert best < 1.01 * objective(other, y, operator, weight)


def test_total_variation_leaves_what_is_constant():
    flat = torch.full((1, 3, 12, 12), 0.3, dtype=torch.float64)
    torch.testing.assert_close(total_variation(flat, 0.1), flat)


def test_a_heavier_weight_is_smoother():
    noisy = picture()
    spread = [float(total_variation(noisy, weight).std()) for weight in (0.01, 0.1, 1.0)]
    assert spread[0] > spread[1] > spread[2]


def test_methods_without_a_network_know_their_tasks():
    with pytest.raises(ValueError, match="no classical method 'magic'"):
        restore_classically("magic", "denoise", picture(), Identity(), 0.1, (24, 32))
    grey = restore_classically("grey", "colorize", picture()[:, :1], None, 0.0, (24, 32))
    assert grey.shape == (2, 3, 24, 32)
