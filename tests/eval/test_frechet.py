"""The Fréchet distance: closed forms, torchmetrics, scipy's square root, gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.interpolate
import scipy.linalg
import scipy.special
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from fewstep.eval import Statistics, frechet_distance, frechet_of_moments, square_root
from fewstep.eval.frechet import main, trace_by_eigenvalues, trace_by_iteration

KINDS = ["eigen", "pade", "taylor"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def covariance(dim: int, decay: float = 1.5, rank: int | None = None, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64))
    values = torch.arange(1, dim + 1, dtype=torch.float64) ** -decay
    values[rank:] = 0 if rank else values[rank:]
    return (q * values) @ q.T


@pytest.mark.parametrize("sqrtm", KINDS)
def test_two_gaussians_with_axes_in_common(sqrtm: str) -> None:
    # covariances that commute: |mu - nu|^2 + sum (s_i - t_i)^2
    g = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64))
    s, t = torch.rand(2, 12, generator=g, dtype=torch.float64) + 0.1
    mu, nu = torch.randn(2, 12, generator=g, dtype=torch.float64)
    a = Statistics.from_moments(mu, (q * s**2) @ q.T)
    b = Statistics.from_moments(nu, (q * t**2) @ q.T)
    expected = float((mu - nu).square().sum() + (s - t).square().sum())
    assert frechet_distance(a, b, sqrtm) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a, sqrtm) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a, sqrtm) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("sqrtm", KINDS)
def test_general_gaussians_against_scipy(sqrtm: str) -> None:
    a, b = covariance(40, seed=1), covariance(40, 2.0, seed=2)
    zero = torch.zeros(40, dtype=torch.float64)
    expected = float(a.trace() + b.trace()) - 2 * np.trace(scipy.linalg.sqrtm((a @ b).numpy())).real
    assert float(frechet_of_moments(zero, a, zero, b, sqrtm)) == pytest.approx(expected, rel=1e-7)


def test_samples_converge_to_the_known_distance() -> None:
    # N(0, I) and N(m, 4 I) in 8 dimensions: |m|^2 + 8 (2 - 1)^2
    g = torch.Generator().manual_seed(0)
    m = torch.linspace(-1, 1, 8)
    expected = float(m.square().sum()) + 8
    errors = []
    for count in (500, 50_000):
        a, b = Statistics(), Statistics()
        a.update(torch.randn(count, 8, generator=g))
        b.update(2 * torch.randn(count, 8, generator=g) + m)
        errors.append(abs(frechet_distance(a, b) - expected))
    assert errors[1] < 0.1
    assert errors[1] < errors[0]


class Patch(nn.Module):
    """Eight numbers of a picture."""

    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::4, ::4].flatten(1)[:, :8].float()


def test_fid_is_that_of_torchmetrics() -> None:
    g = torch.Generator().manual_seed(0)
    real, fake = torch.rand(400, 3, 8, 8, generator=g), torch.rand(300, 3, 8, 8, generator=g) ** 2
    network = Patch()
    metric = FrechetInceptionDistance(feature=network, normalize=True, input_img_size=(3, 8, 8)).set_dtype(
        torch.float64
    )
    a, b = Statistics(), Statistics()
    for part in real.split(64):
        metric.update(part, real=True)
        a.update(network(part))
    for part in fake.split(64):
        metric.update(part, real=False)
        b.update(network(part))
    for sqrtm in KINDS:
        assert frechet_distance(a, b, sqrtm) == pytest.approx(float(metric.compute()), abs=1e-6)


@pytest.mark.parametrize("sqrtm", KINDS)
def test_singular_covariances(sqrtm: str) -> None:
    """Fewer pictures than features. The nuclear norm of a product of factors is the trace, without a square root."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 60, generator=g, dtype=torch.float64), torch.randn(30, 60, generator=g, dtype=torch.float64)
    a, b = Statistics(), Statistics()
    a.update(x)
    b.update(y + 1)
    left, right = (x - x.mean(0)) / math.sqrt(19), (y - y.mean(0)) / math.sqrt(29)
    cross = float(torch.linalg.matrix_norm(left @ right.T, "nuc"))
    expected = float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace()) - 2 * cross
    assert frechet_distance(a, b, sqrtm) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["pade", "taylor"])
def test_one_sweep_is_the_published_approximant(method: str) -> None:
    """Of the scalar function, coefficients by scipy's Padé solver and by the binomial series, on every eigenvalue."""
    a = covariance(6, 0.5)
    norm = float(torch.linalg.matrix_norm(a))
    series = [scipy.special.binom(0.5, k) * (-1) ** k for k in range(12)]  # of (1 - z)^(1/2)
    values, vectors = torch.linalg.eigh(a)
    z = 1 - values.numpy() / norm
    if method == "pade":
        p, q = scipy.interpolate.pade(series[:11], 5)
        root = p(z) / q(z)
    else:
        root = np.polynomial.polynomial.polyval(z, series)
    expected = math.sqrt(norm) * (vectors * torch.from_numpy(root)) @ vectors.T
    np.testing.assert_allclose(square_root(a, method), expected, atol=1e-9)


@pytest.mark.parametrize("method", ["pade", "taylor"])
def test_square_root_against_scipy(method: str) -> None:
    a = covariance(30, 2.5)
    expected = scipy.linalg.sqrtm(a.numpy()).real
    one = np.abs(square_root(a, method).numpy() - expected).max()
    more = np.abs(square_root(a, method, sweeps=2).numpy() - expected).max()
    converged = np.abs(square_root(a, method, sweeps=None).numpy() - expected).max()
    assert converged < 1e-9
    assert converged < more < one
    assert torch.equal(square_root(torch.zeros(3, 3), method), torch.zeros(3, 3))


def test_iterations_stay_converged() -> None:
    """Further sweeps than needed change nothing: the iteration is stable."""
    a, b = covariance(50, 2.5, seed=1), covariance(50, 2.0, seed=2)
    expected = float(trace_by_eigenvalues(a, b))
    for sweeps in (8, 12, 16):
        assert float(trace_by_iteration(a, b, "pade", sweeps)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sqrtm", KINDS)
def test_gradient_is_that_of_the_closed_form(sqrtm: str) -> None:
    # d/ds of sum (s_i - t_i)^2 with a = diag(s^2): d/da_ii = 1 - t_i / s_i
    s = torch.tensor([0.7, 1.1, 1.9, 0.4], dtype=torch.float64)
    t = torch.tensor([1.0, 0.5, 1.5, 2.0], dtype=torch.float64)
    a = torch.diag(s**2).requires_grad_()
    zero = torch.zeros(4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(frechet_of_moments(zero, a, zero, torch.diag(t**2), sqrtm), a)
    np.testing.assert_allclose(gradient.diagonal(), 1 - t / s, rtol=1e-6)


def test_bad_arguments_are_sentences() -> None:
    a = Statistics.from_moments(torch.zeros(2), torch.eye(2), network="judge", hash="1")
    b = Statistics.from_moments(torch.zeros(3), torch.eye(3))
    c = Statistics.from_moments(torch.zeros(2), torch.eye(2), network="judge", hash="2")
    with pytest.raises(ValueError, match="length 2 and 3"):
        frechet_distance(a, b)
    with pytest.raises(ValueError, match="two networks"):
        frechet_distance(a, c)
    with pytest.raises(ValueError, match="did you mean 'pade'"):
        frechet_distance(a, a, "padé")
    with pytest.raises(ValueError, match="odd for pade"):
        square_root(torch.eye(2), degree=4)
    with pytest.raises(ValueError, match="semidefinite"):
        trace_by_iteration(-torch.eye(2).double(), torch.eye(2).double(), "pade")


def test_command_measures_the_square_roots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dim", "64", "--json", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    converged = [row for row in rows if row["sweeps"] == "until converged" or row["variant"] == "eigen"]
    assert len(converged) == 3
    assert all(row["fid_error"] < 1e-7 for row in converged)
