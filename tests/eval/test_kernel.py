"""Kernel distances: torchmetrics, sums by hand, a closed form of two Gaussians, no bias."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from fewstep.eval import clip_mmd, kernel_distance
from fewstep.eval import kernel as module


def draws(count: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Flat(nn.Module):
    """The pixels themselves."""

    num_features = 12

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


@pytest.mark.parametrize(("degree", "gamma", "coef"), [(3, None, 1.0), (2, 0.3, 0.5)])
def test_kid_is_that_of_torchmetrics_with_one_whole_subset(degree: int, gamma: float | None, coef: float) -> None:
    x, y = draws(50, 12).view(50, 3, 2, 2), 1.3 * draws(50, 12, 1).view(50, 3, 2, 2) + 0.2
    metric = KernelInceptionDistance(
        feature=Flat(), subsets=1, subset_size=50, degree=degree, gamma=gamma, coef=coef
    ).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    expected = float(metric.compute()[0])
    assert kernel_distance(x.flatten(1), y.flatten(1), degree=degree, gamma=gamma, coef0=coef) == pytest.approx(
        expected, rel=1e-9
    )


def test_sets_of_two_sizes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draws(7), draws(4, seed=1)

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / 6 + 1) ** 3

    expected = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    expected += sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    expected -= 2 * sum(k(a, b) for a in x for b in y) / 28
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(module, "_ROWS", 3)  # block by block
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_of_gaussians_in_closed_form() -> None:
    # in one dimension with k(a, b) = (a b + 1)^2 the mean features are (E a^2, sqrt(2) E a, 1):
    # N(0, 1) and N(m, s^2): (1 - m^2 - s^2)^2 + 2 m^2
    m, s = 0.5, 1.5
    x, y = draws(4000, 1), s * draws(4000, 1, 1) + m
    expected = (1 - m * m - s * s) ** 2 + 2 * m * m
    assert kernel_distance(x, y, degree=2, gamma=1.0) == pytest.approx(expected, rel=0.1)


def test_kernel_distances_have_no_bias() -> None:
    """Means over many small sets of one distribution are zero within three standard errors; with the diagonals (the
    usual CMMD) they would not be."""
    for distance in (kernel_distance, clip_mmd):
        values = torch.tensor([distance(draws(10, seed=i), draws(10, seed=1000 + i)) for i in range(300)])
        assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(300)


def test_cmmd_by_hand() -> None:
    # two points on either side; all of unit length after normalisation
    x = torch.tensor([[2.0, 0.0], [3.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [0.0, 5.0]])
    k = math.exp(-2 / (2 * 10**2))
    assert clip_mmd(x, y) == pytest.approx(1000 * (1 + 1 - 2 * k), rel=1e-9)
    assert clip_mmd(x, 7 * x) == pytest.approx(0, abs=1e-9)


def test_bad_arguments_are_sentences() -> None:
    x = draws(5)
    with pytest.raises(ValueError, match="at least two"):
        kernel_distance(x, x[:1])
    with pytest.raises(ValueError, match="shapes"):
        kernel_distance(x, draws(5, 3))
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(x, x * torch.nan)
    with pytest.raises(ValueError, match="sigma"):
        clip_mmd(x, x, sigma=0)
