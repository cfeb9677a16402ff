"""Precision and recall: sets where they are known."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial import cKDTree

from fewstep.eval import manifold as module
from fewstep.eval import precision_recall


def cloud(count: int, seed: int = 0, dim: int = 5) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_identical_sets_are_all_precision_and_recall() -> None:
    x = 100 * cloud(80) + 1000
    assert precision_recall(x, x[torch.randperm(80)]) == (1.0, 1.0)


def test_repeated_pictures_are_found_in_balls_of_radius_zero() -> None:
    x = cloud(3).repeat(5, 1) * 30 + 400
    assert precision_recall(x, x) == (1.0, 1.0)


def test_disjoint_sets_have_neither() -> None:
    assert precision_recall(cloud(50), cloud(60, 1) + 100) == (0.0, 0.0)


def test_a_part_is_precise_and_a_whole_recalls() -> None:
    # two clusters, of which the fake set has one: all of it is real, and half of the real set is covered
    one, other = 0.01 * cloud(40), 0.01 * cloud(40, 1) + 50
    assert precision_recall(torch.cat([one, other]), one) == (1.0, 0.5)
    assert precision_recall(one, torch.cat([one, other])) == (0.5, 1.0)


def test_points_on_a_line_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # k = 1: radii 1, 1, 1, 8, so the real support is [-1, 3] and [2, 18]
    fake = torch.tensor([[-2.0], [-0.5], [19.0], [6.0], [17.0]])
    # radii of the fake set: 1.5, 1.5, 2, 6.5, 2: [-3.5, -0.5], [-2, 1], [17, 21], [-0.5, 12.5], [15, 19]
    assert precision_recall(real, fake, k=1) == (0.6, 1.0)


def test_against_a_tree_and_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = cloud(150).double(), 0.7 * cloud(120, 1).double() + 0.5

    def share(centres: torch.Tensor, points: torch.Tensor) -> float:
        radius = cKDTree(centres).query(centres, k=4)[0][:, -1]  # the first of them is the point itself
        inside = [
            bool(((centres - point).square().sum(1).sqrt() <= torch.from_numpy(radius)).any()) for point in points
        ]
        return sum(inside) / len(inside)

    expected = (share(real, fake), share(fake, real))
    assert precision_recall(real, fake) == pytest.approx(expected)
    monkeypatch.setattr(module, "_ROWS", 32)
    assert precision_recall(real, fake) == pytest.approx(expected)


def test_bad_arguments_are_sentences() -> None:
    with pytest.raises(ValueError, match="k must be"):
        precision_recall(cloud(3), cloud(10))
    with pytest.raises(ValueError, match="k must be"):
        precision_recall(cloud(10), cloud(10), k=0)
    with pytest.raises(ValueError, match="shapes"):
        precision_recall(cloud(10), cloud(10, dim=4))
    with pytest.raises(ValueError, match="finite"):
        precision_recall(cloud(10), cloud(10) * torch.inf)
