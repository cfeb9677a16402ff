"""Fidelity of pairs: formulas by hand, another library's SSIM, and names that belong together."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from fewstep.eval import pair_fidelity


def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return folder


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = scipy.ndimage.gaussian_filter(rng.normal(128, 200, (3, 24, 20, 3)), (0, 2, 2, 0)).clip(0, 255)
    noisy = (clean + rng.normal(0, 1, clean.shape) * np.array([5, 10, 20])[:, None, None, None]).clip(0, 255)
    return clean.astype(np.uint8), noisy.astype(np.uint8)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. (2004), a channel at a time, the picture mirrored at its border."""

    def smooth(x: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(x, (1.5, 1.5, 0), truncate=3.4, mode="mirror")

    x, y = a / 255, b / 255
    mx, my = smooth(x), smooth(y)
    vx, vy, cxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def test_psnr_and_ssim_by_hand(tmp_path: Path, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pairs
    psnrs = [10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2)) for a, b in zip(clean, noisy, strict=True)]
    ssims = [ssim(a, b) for a, b in zip(clean, noisy, strict=True)]
    names = ["a.png", "b.png", "deep/c.png"]
    mine = write(tmp_path / "mine", dict(zip(names, noisy, strict=True)))
    its = write(tmp_path / "its", {**dict(zip(names, clean, strict=True)), "extra.png": clean[0]})
    for found in (pair_fidelity(mine, its), pair_fidelity(noisy, clean)):
        assert found[0]["value"] == pytest.approx(np.mean(psnrs), rel=1e-6)
        assert found[0]["median"] == pytest.approx(np.median(psnrs), rel=1e-6)
        assert found[1]["value"] == pytest.approx(np.mean(ssims), rel=1e-6)
        assert found[1]["median"] == pytest.approx(np.median(ssims), rel=1e-6)
        assert [row["count"] for row in found] == [3, 3]


def test_equal_pictures_are_counted_apart(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pairs
    mixed = np.stack([clean[0], noisy[1], noisy[2]])
    psnr, similar = pair_fidelity(mixed, clean)
    assert psnr["identical"] == 1
    assert psnr["value"] == pytest.approx(pair_fidelity(noisy[1:], clean[1:])[0]["value"])
    assert similar["count"] == 3
    assert pair_fidelity(clean, clean)[0]["value"] is None
    assert pair_fidelity(clean, clean)[1]["value"] == pytest.approx(1)


def test_endings_may_differ_where_names_are_one(tmp_path: Path, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pairs
    mine = write(tmp_path / "mine", {"a.png": noisy[0]})
    its = write(tmp_path / "its", {"a.bmp": clean[0]})
    assert pair_fidelity(mine, its, ["psnr"])[0]["count"] == 1
    write(its, {"a.ppm": clean[0]})
    with pytest.raises(ValueError, match="several originals"):
        pair_fidelity(mine, its)


def test_what_cannot_be_paired_is_a_sentence(tmp_path: Path, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    clean, noisy = pairs
    mine, its = write(tmp_path / "mine", {"a.png": noisy[0]}), write(tmp_path / "its", {"b.png": clean[0]})
    with pytest.raises(ValueError, match=r"'a\.png' has no original"):
        pair_fidelity(mine, its)
    write(its, {"a.png": clean[0][:-1]})
    with pytest.raises(ValueError, match="20x24 pixels and its original 20x23"):
        pair_fidelity(mine, its)
    with pytest.raises(ValueError, match="3 and 2 pictures"):
        pair_fidelity(noisy, clean[:2])
    with pytest.raises(ValueError, match="at least 11x11"):
        pair_fidelity(noisy[:, :10], clean[:, :10])
    with pytest.raises(ValueError, match="did you mean 'psnr'"):
        pair_fidelity(noisy, clean, ["psrn"])


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is here")
def test_lpips_without_torchvision_is_a_sentence(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ImportError, match="LPIPS needs the package torchvision"):
        pair_fidelity(*pairs, ["lpips"])
