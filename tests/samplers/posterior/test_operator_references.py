"""Operators against other programs: torch's and Pillow's resizing, SciPy's filters, Pillow's JPEG."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import interpolate

from fewstep.samplers.posterior.operators import (
    AveragePool,
    CircularBlur,
    GaussianBlur,
    Jpeg,
    MirrorBlur,
    Resample,
    gaussian_kernel,
    motion_kernel,
    resampling_matrix,
)

SIZES = [((64, 48), (16, 12)), ((63, 41), (16, 11)), ((50, 50), (7, 23)), ((9, 9), (9, 4))]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("size", "to"), SIZES)
def test_bicubic_is_torch_s_antialiased_resize(size, to):
    x = draw(2, 3, *size)
    expected = interpolate(x, size=to, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(Resample(size, to=to).A(x), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resampling_is_pillow_s(kernel, size, to):
    x = draw(*size).numpy().astype(np.float32)
    method = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}[kernel]
    expected = np.asarray(Image.fromarray(x).resize(to[::-1], method))
    found = Resample(size, to=to, kernel=kernel).A(torch.from_numpy(x).double()[None, None])[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_area_is_the_mean_over_blocks():
    x = draw(1, 3, 24, 36)
    area = Resample((24, 36), 4, "area")
    torch.testing.assert_close(area.A(x), AveragePool(4, (24, 36)).A(x))
    small = x[..., :6, :9]
    torch.testing.assert_close(area.A_dagger(small), small.repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos", "area"])
def test_resampling_keeps_constants_and_the_centre(kernel):
    matrix = resampling_matrix(60, 12, kernel)
    torch.testing.assert_close(matrix.sum(1), torch.ones(12, dtype=torch.float64))
    line = torch.arange(60, dtype=torch.float64)
    inner = slice(3, -3)
    torch.testing.assert_close((matrix @ line)[inner], (torch.arange(12.0).double() * 5 + 2)[inner], rtol=0, atol=1e-9)


def test_singular_values_of_bicubic_reduction():
    """One-dimensional spectrum: 0.35 to 0.50 at a factor of 4, 0.25 to 0.36 at 8."""
    for factor, low, high in ((4, 0.35, 0.50), (8, 0.25, 0.36)):
        s = torch.linalg.svdvals(resampling_matrix(256, 256 // factor))
        assert float(s.min()) == pytest.approx(low, abs=0.01)
        assert float(s.max()) == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize("size", [(15, 22), (40, 31)])
def test_gaussian_blur_is_scipy_s_with_a_mirrored_border(size):
    x, kernel = draw(*size).numpy(), gaussian_kernel(2.0, 6).numpy()
    expected = ndimage.convolve1d(ndimage.convolve1d(x, kernel, 0, mode="reflect"), kernel, 1, mode="reflect")
    found = GaussianBlur(size, 2.0, 13).A(torch.from_numpy(x)[None, None])[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(15, 22), (16, 16)])
@pytest.mark.parametrize(("cls", "mode"), [(MirrorBlur, "reflect"), (CircularBlur, "wrap")])
def test_motion_blur_is_scipy_s(cls, mode, size):
    x, kernel = draw(*size), motion_kernel(9, seed=4)
    expected = ndimage.convolve(x.numpy(), kernel.numpy(), mode=mode)
    np.testing.assert_allclose(cls(kernel, size).A(x[None, None])[0, 0].numpy(), expected, atol=1e-12)


def test_motion_kernels_are_kernels():
    for seed in range(3):
        kernel = motion_kernel(31, seed)
        assert kernel.shape == (31, 31)
        assert float(kernel.sum()) == pytest.approx(1)
        assert (kernel >= 0).all()
        assert (kernel > 1e-4).sum() > 20
    assert not torch.equal(motion_kernel(31, 0), motion_kernel(31, 1))


def photograph(h: int = 70, w: int = 93) -> np.ndarray:
    """Smooth colours with edges, (H, W, 3) uint8."""
    y, x = np.mgrid[:h, :w] / 16
    planes = [128 + 90 * np.sin(x + k) * np.cos(y * (1 + k / 3)) + 30 * (x > 3 + k) for k in range(3)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [10, 40, 90])
@pytest.mark.parametrize("subsample", [False, True])
def test_jpeg_is_pillow_s(quality, subsample):
    pixels = photograph()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if subsample else 0)
    expected = np.asarray(Image.open(file)).astype(float)
    x = torch.from_numpy(pixels.astype(float)).permute(2, 0, 1)[None] / 127.5 - 1
    found = (Jpeg(quality, subsample).A(x)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    off = np.abs(np.clip(found, 0, 255) - expected)
    assert off.mean() < 0.75  # libjpeg rounds the decoded planes and the colours once more
    assert np.quantile(off, 0.9) < 2  # a coefficient in a hundred lies at a tie, and moves its block


def test_jpeg_of_grey_and_its_gradient():
    pixels = photograph()[..., 1]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=30)
    x = (torch.from_numpy(pixels.astype(float))[None, None] / 127.5 - 1).requires_grad_(True)
    found = Jpeg(30).A(x)
    off = np.abs((found.detach()[0, 0].numpy() + 1) * 127.5 - np.asarray(Image.open(file)))
    assert (off < 1.01).mean() > 0.97
    (gradient,) = torch.autograd.grad(found, x, torch.ones_like(found))
    torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=0, atol=0.35)
