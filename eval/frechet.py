"""The Fréchet distance of two Gaussians, and three ways to the matrix square root in it.

Run with ``python -m fewstep.eval.frechet`` to measure time and error of the three at 2048 dimensions.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .statistics import Statistics

#: How the trace of the square root of the product of two covariances can be had.
SQUARE_ROOTS = ("eigen", "pade", "taylor")

#: Most sweeps of the iterations, and the relative change of the trace at which they stop.
_MOST_SWEEPS, _TOLERANCE = 24, 1e-8


def frechet_distance(a: Statistics, b: Statistics, sqrtm: str = "eigen") -> float:
    """Fréchet distance (squared 2-Wasserstein) of the Gaussians with two sets' moments; the FID for Inception features.

    Args:
        a, b: statistics of features of the same network.
        sqrtm: see `frechet_of_moments`.

    Returns:
        A number >= 0 up to rounding, in squared units of a feature.

    Raises:
        ValueError: features of two lengths or networks, an unknown `sqrtm`.
    """
    if a.dim != b.dim:
        raise ValueError(f"features of length {a.dim} and {b.dim} cannot be compared")
    for key in ("network", "hash"):
        mine, its = getattr(a, key), getattr(b, key)
        if mine is not None and its is not None and mine != its:
            raise ValueError(f"features of two networks cannot be compared: {key} {mine!r} and {its!r}")
    return float(frechet_of_moments(a.mean, a.cov, b.mean, b.cov, sqrtm))


def frechet_of_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor, sqrtm: str = "eigen") -> Tensor:
    """|mean_a - mean_b|^2 + tr(cov_a) + tr(cov_b) - 2 tr((cov_a cov_b)^(1/2)), differentiable.

    By ``eigen`` the gradient exists where no two eigenvalues are equal; ``pade`` and ``taylor`` need no such thing.

    (Dowson and Landau, 1982; Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, arXiv 1706.08500.)

    Args:
        mean_a, mean_b: (d,) float64.
        cov_a, cov_b: (d, d) float64, symmetric, positive semidefinite; any rank.
        sqrtm: ``eigen``, eigenvalues; ``pade`` or ``taylor``, matrix products and solves alone (see `square_root`),
            swept until the trace stands.

    Returns:
        Scalar float64.
    """
    if sqrtm not in SQUARE_ROOTS:
        from fewstep.samplers.core.registry import nearest

        raise ValueError(f"unknown square root {sqrtm!r}{nearest(sqrtm, SQUARE_ROOTS)} Known are eigen, pade, taylor")
    cross = trace_by_eigenvalues(cov_a, cov_b) if sqrtm == "eigen" else trace_by_iteration(cov_a, cov_b, sqrtm)
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross


def trace_by_eigenvalues(a: Tensor, b: Tensor) -> Tensor:
    """tr((a b)^(1/2)) from the eigenvalues of a b, in float64.

    With a = V diag(l) V^T they are those of the symmetric diag(l)^(1/2) V^T b V diag(l)^(1/2), with no complex ones
    and none far below zero. Eigenvalues of `a` at the level of rounding are left out, for the trace would count their
    square roots, 1e8 times larger than they are.
    """
    values, vectors = torch.linalg.eigh(a)
    kept = values > len(a) * torch.finfo(a.dtype).eps * values[-1].abs()
    root = vectors[:, kept] * values[kept].sqrt()
    product = torch.linalg.eigvalsh(root.T @ b @ root)
    return product[product > 0].sqrt().sum()


def trace_by_iteration(a: Tensor, b: Tensor, method: str, sweeps: int | None = None) -> Tensor:
    """tr((a b)^(1/2)) by `square_root` of the symmetric L^T b L with a = L L^T (Cholesky).

    Where `a` is singular its diagonal is raised by 1e-13 of the largest entry, which moves the trace by about 1e-6 of
    its size.
    """
    ridge = 1e-13 * a.diagonal().detach().max() * torch.eye(len(a), dtype=a.dtype, device=a.device)
    lower, failed = torch.linalg.cholesky_ex(a)
    for _ in range(6):
        if not int(failed):
            break
        lower, failed = torch.linalg.cholesky_ex(a + ridge)
        ridge = 10 * ridge
    if int(failed):
        raise ValueError("a covariance is positive semidefinite, and this one is not")
    return square_root(lower.T @ b @ lower, method, sweeps=sweeps).trace()


def square_root(a: Tensor, method: str = "pade", degree: int = 11, sweeps: int | None = 1) -> Tensor:
    """Square root of a symmetric positive semidefinite matrix without a factorisation, differentiable.

    With x = a / |a|_F, whose eigenvalues lie in [0, 1], one sweep is

        taylor:  a^(1/2) = |a|_F^(1/2) (I - sum_{k=1}^K |binom(1/2, k)| (I - x)^k),      K = degree
        pade:    a^(1/2) = |a|_F^(1/2) Q(x)^-1 P(x),      the [m/m] approximant at 1, m = (degree - 1) / 2

    the MTP and MPA of Song, Sebe and Wang, "Fast Differentiable Matrix Square Root", ICLR 2022, arXiv 2201.08663. In
    powers of x rather than of I - x the approximant of any degree n = 2 m + 1 is explicit,

        P(x) = sum_j binom(n, 2 j) x^j,      Q(x) = sum_j binom(n, 2 j + 1) x^j,

    with positive coefficients, so that the solve is well posed. One sweep resolves the eigenvalues above |a|_F / n^2; a
    spectrum over many decades, as features have, needs several, Y <- Y h(Z Y), Z <- h(Z Y) Z from Y = x, Z = I with
    h(z) near z^(-1/2): P^-1 Q in `pade` (k sweeps are one of degree n^k; Kenney and Laub, 1991), the Taylor polynomial
    in `taylor`.

    Args:
        a: (d, d).
        method: ``pade`` or ``taylor``.
        degree: K of the paper; odd for `pade`. 11 is the paper's.
        sweeps: how often; 1 is the paper, None until the trace changes by less than 1e-8 of its size.

    Returns:
        (d, d), symmetric.
    """
    if method not in ("pade", "taylor"):
        raise ValueError(f"the method must be pade or taylor, got {method!r}")
    if degree < 3 or (method == "pade" and degree % 2 == 0):
        raise ValueError(f"degree must be at least 3, and odd for pade, got {degree}")
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"a square matrix is needed, got shape {tuple(a.shape)}")
    if sweeps is not None and sweeps < 1:
        raise ValueError(f"sweeps must be at least 1, got {sweeps}")
    norm = torch.linalg.matrix_norm(a)
    if float(norm.detach()) == 0:
        return torch.zeros_like(a)
    identity = torch.eye(len(a), dtype=a.dtype, device=a.device)
    y = a / norm
    if sweeps == 1:
        return norm.sqrt() * _symmetric(
            _pade(y, identity, degree) if method == "pade" else _taylor(y, identity, degree)
        )
    z = identity
    trace = math.inf
    # nothing is made symmetric in between: the iteration is only stable as long as Y and Z share their rounding
    for sweep in range(sweeps or _MOST_SWEEPS):
        product = y if sweep == 0 else z @ y
        h = _inverse_pade(product, identity, degree) if method == "pade" else _taylor_inverse(product, identity, degree)
        y = y @ h
        z = h if sweep == 0 else h @ z
        previous, trace = trace, float(y.detach().trace())
        if sweeps is None and abs(trace - previous) <= _TOLERANCE * abs(trace):
            break
    return norm.sqrt() * _symmetric(y)


def _symmetric(a: Tensor) -> Tensor:
    return (a + a.T) / 2


def _polynomial(coefficients: Sequence[float], x: Tensor, identity: Tensor) -> Tensor:
    """sum_j c_j x^j by Horner's rule."""
    value = coefficients[-1] * identity
    for c in reversed(coefficients[:-1]):
        value = value @ x + c * identity
    return value


def _powers(x: Tensor, identity: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """P(x) and Q(x) of the Padé approximant, which share their powers."""
    half = (degree - 1) // 2
    power, p, q = identity, identity.clone(), degree * identity
    for j in range(1, half + 1):
        power = power @ x if j > 1 else x
        p = p + math.comb(degree, 2 * j) * power
        q = q + math.comb(degree, 2 * j + 1) * power
    return p, q


def _pade(x: Tensor, identity: Tensor, degree: int) -> Tensor:
    p, q = _powers(x, identity, degree)
    return _symmetric(torch.linalg.solve(q, p))


def _inverse_pade(x: Tensor, identity: Tensor, degree: int) -> Tensor:
    """P(x)^-1 Q(x), near x^(-1/2): the mirror image of the approximant, finite (n) where x is singular."""
    p, q = _powers(x, identity, degree)
    return torch.linalg.solve(p, q)


def _taylor(x: Tensor, identity: Tensor, degree: int) -> Tensor:
    """Taylor polynomial of x^(1/2) at 1."""
    coefficients = [1.0]
    for k in range(1, degree + 1):
        coefficients.append(coefficients[-1] * (k - 1.5) / k)
    return _polynomial(coefficients, identity - x, identity)


def _taylor_inverse(x: Tensor, identity: Tensor, degree: int) -> Tensor:
    """Taylor polynomial of x^(-1/2) at 1."""
    coefficients = [1.0]
    for k in range(1, degree + 1):
        coefficients.append(coefficients[-1] * (k - 0.5) / k)
    return _polynomial(coefficients, identity - x, identity)


def measurement(dim: int = 2048, count: int = 10_000, seed: int = 0) -> list[dict[str, Any]]:
    """Time and error of every square root on two covariances whose eigenvalues fall as i^-1.2 and i^-1.3.

    Both are sample covariances of `count` draws, scaled to a trace of 100, which is about that of Inception features.
    The error is that of the Fréchet distance against the one by scipy's Schur method.
    """
    import numpy as np
    import scipy.linalg

    generator = torch.Generator().manual_seed(seed)

    def covariance(decay: float) -> Tensor:
        scales = torch.arange(1, dim + 1, dtype=torch.float64) ** (-decay / 2)
        total = torch.zeros(dim, dim, dtype=torch.float64)
        for rows in torch.arange(count).split(1000):
            part = torch.randn(len(rows), dim, generator=generator, dtype=torch.float64) * scales
            total += part.T @ part
        return total * (100 / total.trace())

    a, b = covariance(1.2), covariance(1.3)
    zero = torch.zeros(dim, dtype=torch.float64)
    begin = time.perf_counter()
    truth = float(a.trace() + b.trace()) - 2 * float(np.trace(scipy.linalg.sqrtm((a @ b).numpy())).real)
    rows = [{"variant": "scipy sqrtm", "sweeps": None, "seconds": round(time.perf_counter() - begin, 2), "fid": truth}]
    variants = [("eigen", None), ("pade", 1), ("pade", None), ("taylor", 1), ("taylor", None)]
    for name, sweeps in variants:
        begin = time.perf_counter()
        if name == "eigen":
            value = float(frechet_of_moments(zero, a, zero, b))
        else:
            value = float(a.trace() + b.trace() - 2 * trace_by_iteration(a, b, name, sweeps))
        seconds = time.perf_counter() - begin
        row = {"variant": name, "sweeps": sweeps or ("until converged" if name != "eigen" else None)}
        rows.append({**row, "seconds": round(seconds, 2), "fid": value, "fid_error": abs(value - truth)})
        print(f"  {name:8s} {sweeps or '':>2} {seconds:8.2f} s   distance {value:.9f}   error {abs(value - truth):.1e}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print time and error of the square roots, and write them as JSON if asked."""
    from .results import write_results

    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.frechet", description=measurement.__doc__)
    parser.add_argument("--dim", type=int, default=2048, help="length of a feature (default 2048)")
    parser.add_argument("--threads", type=int, default=1, help="threads that torch may use (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write settings and rows to this file")
    options = parser.parse_args(arguments)
    if options.dim < 2 or options.threads < 1:
        parser.error("--dim must be at least 2 and --threads at least 1")
    torch.set_num_threads(options.threads)
    rows = measurement(options.dim)
    if options.json:
        words = ["python -m fewstep.eval.frechet", *(sys.argv[1:] if arguments is None else arguments)]
        settings = {"dim": options.dim, "threads": options.threads, "count": 10_000, "seed": 0, "dtype": "float64"}
        settings |= {"degree": 11, "eigenvalues": "i^-1.2 and i^-1.3, each with trace 100"}
        write_results(options.json, " ".join(words), settings, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
