"""LML: the closed form against the published steps, and the invariants of the rotation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    LML,
    AdamsBashforth,
    ExponentialAdams,
    Flow,
    Grid,
    GridOptions,
    VPDiscrete,
    betas_of_schedule,
    make_grid,
    run,
)
from fewstep.samplers.continuous.lml import correct
from fewstep.samplers.core import oracle
from problems import vp


def _pair(seed: int = 0, batch: int = 5, size: int = 48):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, 3, size // 3, dtype=torch.float64, generator=generator)
    p = 0.8 * u + 0.5 * torch.randn(u.shape, dtype=torch.float64, generator=generator)
    return u, p


def literal(u, p, kappa, lam):
    """The published steps, word for word: m, damped projection, length restored."""
    flat, past = u.flatten(1), p.flatten(1)
    m = kappa * past + (1 - kappa) * flat
    r = flat - m * (flat * m).sum(1, keepdim=True) / (lam + (m * m).sum(1, keepdim=True))
    return (r * flat.norm(dim=1, keepdim=True) / r.norm(dim=1, keepdim=True)).reshape(u.shape)


def _dot(a, b):
    return (a * b).flatten(1).sum(1)


@pytest.mark.parametrize(("kappa", "share"), list(itertools.product((-0.3, 0.05, 0.5, 1.0), (1e-3, 0.1, 1.0, 10.0))))
def test_closed_form_equals_the_published_steps_in_float64(kappa, share):
    u, p = _pair()
    lam = share * _dot(u, u)[:, None]
    expected = literal(u, p, kappa, lam)
    assert torch.allclose(correct(u, p, kappa, share), expected, rtol=1e-8, atol=1e-10)
    absolute = correct(u[:1], p[:1], kappa, float(lam[0]), relative=False)
    assert torch.allclose(absolute, expected[:1], rtol=1e-8, atol=1e-10)


def test_float32_keeps_its_digits_where_the_published_steps_lose_them():
    """At published strengths (lambda / N ~ 1e-7) the literal subtraction returns noise in float32."""
    u, p = _pair(size=3072)
    lam = 1e-7 * _dot(u, u)[:, None]
    exact = literal(u, p, 5e-8, lam)
    ours = correct(u.float(), p.float(), 5e-8, 1e-7).double()
    theirs = literal(u.float(), p.float(), 5e-8, lam.float()).double()
    scale = exact.norm()
    assert (ours - exact).norm() / scale < 1e-6
    assert (theirs - exact).norm() / scale > 0.05


@pytest.mark.parametrize("kappa", [-0.5, 0.05, 0.7])
@pytest.mark.parametrize("damping", [1e-6, 0.1, 5.0])
def test_rotation_keeps_length_and_turns_below_ninety_degrees(kappa, damping):
    u, p = _pair()
    c = correct(u, p, kappa, damping)
    assert torch.allclose(_dot(c, c), _dot(u, u), rtol=1e-12)
    assert (_dot(c, u) > 0).all()


def test_a_parallel_history_changes_nothing():
    u, _ = _pair()
    for factor in (1.0, -2.0, 0.3):
        assert torch.allclose(correct(u, factor * u, 0.4, 0.1), u, rtol=1e-12)


def test_vanishing_damping_makes_the_update_orthogonal_to_the_average():
    u, p = _pair()
    m = 0.3 * p + 0.7 * u
    c = correct(u, p, 0.3, 1e-14)
    assert (_dot(c, m) / (c.flatten(1).norm(dim=1) * m.flatten(1).norm(dim=1))).abs().max() < 1e-10


def test_large_damping_tends_to_the_base_as_one_over_damping():
    u, p = _pair()
    off = [float((correct(u, p, 0.5, d) - u).norm()) for d in (1e2, 1e4, 1e6)]
    assert off[0] / off[1] == pytest.approx(100, rel=0.05)
    assert off[1] / off[2] == pytest.approx(100, rel=0.01)


def test_scaling_orthogonal_maps_and_sign():
    u, p = _pair()
    assert torch.allclose(correct(7 * u, 7 * p, 0.2, 0.3), 7 * correct(u, p, 0.2, 0.3), rtol=1e-12)
    lam = 0.3
    assert torch.allclose(
        correct(7 * u, 7 * p, 0.2, 49 * lam, relative=False), 7 * correct(u, p, 0.2, lam, relative=False), rtol=1e-12
    )
    size = u[0].numel()
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    turned = correct(u.flatten(1) @ q.T, p.flatten(1) @ q.T, 0.2, 0.3)
    assert torch.allclose(turned, correct(u, p, 0.2, 0.3).flatten(1) @ q.T, rtol=1e-9, atol=1e-12)
    plus, minus = correct(u, p, 1e-6, 1.0) - u, correct(u, p, -1e-6, 1.0) - u
    assert (plus + minus).norm() < 1e-5 * plus.norm()


def test_zero_updates_stay_zero():
    u, p = _pair()
    u = u.clone()
    u[1] = 0
    for kwargs in ({}, {"gamma": 0.5}, {"relative": False}):
        c = correct(u, p, 0.3, 0.2, **kwargs)
        assert torch.isfinite(c).all()
        assert (c[1].abs() < 1e-300).all()


def _mixture(process, size: int = 16):
    generator = torch.Generator().manual_seed(4)
    return oracle.mixture(process, torch.randn(10, size, dtype=torch.float64, generator=generator), 0.3)


def _start(points, size: int = 16):
    return points.nodes[0].sigma * torch.randn(6, size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


BASES = [
    ({"base": "ddim"}, AdamsBashforth(order=1)),
    ({"base": "euler"}, AdamsBashforth(order=1)),
    *[({"order": k, "form": f}, ExponentialAdams(order=k, form=f)) for k in (1, 2, 3) for f in ("eps", "x0")],
]


@pytest.mark.parametrize(("fields", "base"), BASES, ids=str)
@pytest.mark.parametrize("process", [vp(), Flow()], ids=["vp", "flow"])
def test_kappa_zero_is_the_base_solver(fields, base, process):
    with pytest.warns(UserWarning, match="equals its base"):
        method = LML(kappa=0, **fields)
    points = make_grid(process, 12)
    network = _mixture(process)
    ours = run(network, method, process, points, _start(points)).sample
    theirs = run(network, base, process, points, _start(points)).sample
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_freezing_the_whole_run_is_the_base_solver_and_the_first_step_always_is():
    process = vp()
    points = make_grid(process, 10)
    network = _mixture(process)
    base = run(network, ExponentialAdams(order=1, form="eps"), process, points, _start(points)).sample
    frozen = run(network, LML(freeze=1.0), process, points, _start(points)).sample
    assert torch.allclose(base, frozen, rtol=1e-12)
    plan = LML().plan(process, points)
    assert not plan.steps[0].correct
    assert all(step.correct for step in plan.steps[1:])


def test_exponential_first_order_equals_ddim_full_on_equal_steps_of_history():
    """Both correct the whole of eps; they differ by the scale of the history alone, which relative gamma sees."""
    process = vp()
    points = make_grid(process, 10)
    network = _mixture(process)
    one = run(network, LML(gamma=1e-4), process, points, _start(points)).sample
    two = run(network, LML(base="euler", gamma=1e-4), process, points, _start(points)).sample
    base = run(network, AdamsBashforth(order=1), process, points, _start(points)).sample
    assert 0 < float((one - base).norm()) < 1e-2
    assert float((one - two).norm()) < 1e-2


def _converges(method, process, counts=(50, 100, 200, 400)):
    """Root mean square distances to the closed-form solution for Gaussian data with 16 different scales."""
    scales = torch.from_numpy(np.geomspace(0.05, 1.0, 16))
    network = oracle.gaussian(process, torch.zeros(16, dtype=torch.float64), scales)
    off = []
    for n in counts:
        sigmas = np.geomspace(5.0, 0.3, n + 1) if not isinstance(process, Flow) else np.linspace(0.85, 0.2, n + 1)
        points = Grid(tuple(process.at_sigma(float(s)) for s in sigmas))
        first, last = points.nodes[0], points.nodes[-1]
        spread = [torch.sqrt(n.alpha**2 * scales**2 + n.sigma**2) for n in (first, last)]
        z = torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
        off.append(
            float((run(network, method, process, points, z * spread[0]).sample - z * spread[1]).square().mean().sqrt())
        )
    return off, -np.polyfit(np.log(counts), np.log(off), 1)[0]


def test_order_in_sixteen_dimensions():
    """Relative damping: first order. Absolute damping on an increment: the rotation fades as h^2, the order stays."""
    process = vp()
    assert _converges(LML(), process)[1] == pytest.approx(1, abs=0.15)
    assert _converges(LML(order=2), process)[1] == pytest.approx(1, abs=0.15)
    assert _converges(LML(base="euler"), Flow())[1] == pytest.approx(1, abs=0.15)
    absolute = LML(order=2, damping_mode="absolute", damping=1.0)
    assert _converges(absolute, process)[1] > 1.8


def test_direction_only_ddim_does_not_converge_and_negative_kappa_is_its_useful_side():
    process = vp()
    base, _ = _converges(AdamsBashforth(order=1), process)
    plus, rate = _converges(LML(base="ddim", gamma=0.25), process)
    assert rate < 0.3
    assert plus[-1] > 5 * base[-1]
    assert LML(base="ddim", kappa=-0.05).spec.order == 0
    minus, _ = _converges(LML(base="ddim", gamma=-0.25), process)
    assert minus[-1] < plus[-1]


def _energy_distance(a, b):
    cross = torch.cdist(a, b).mean()
    n, m = len(a), len(b)
    return float(2 * cross - torch.cdist(a, a).sum() / (n * (n - 1)) - torch.cdist(b, b).sum() / (m * (m - 1)))


@pytest.mark.parametrize(
    ("kind", "method", "expected"),
    [
        ("vp", ExponentialAdams(order=1, form="eps"), {5: 0.0972, 10: 0.0298}),
        ("vp", LML(gamma=0.25), {5: 0.0234, 10: 0.0207}),
        ("vp", LML(gamma=0.5), {5: 0.0094, 10: 0.0163}),
        ("flow", AdamsBashforth(order=1), {5: 0.0440, 10: 0.0111}),
        ("flow", LML(base="euler", gamma=0.25), {5: 0.0152, 10: 0.0025}),
    ],
    ids=["dpm-1", "lml .25", "lml .5", "flow euler", "flow lml .25"],
)
def test_mixture_in_64_dimensions_reproduces_the_measured_energy_distances(kind, method, expected):
    """Specification, section 8, gmm64: 20 modes at radius 4, standard deviation 0.3, measured over other seeds (spread
    0.002 to 0.004): at 5 steps LML takes DPM-Solver-1 from 0.097 to 0.023 and flow Euler from 0.044 to 0.015."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(20, 64, dtype=torch.float64, generator=generator)
    means = 4 * torch.nn.functional.normalize(modes, dim=1)
    pick = torch.randint(20, (1000,), generator=generator)
    truth = means[pick] + 0.3 * torch.randn(1000, 64, dtype=torch.float64, generator=generator)
    noise = torch.randn(1000, 64, dtype=torch.float64, generator=generator)
    process = VPDiscrete.from_betas(betas_of_schedule("linear")) if kind == "vp" else Flow()
    options = GridOptions(final_sigma="sigma_min") if kind == "vp" else GridOptions(spacing="trailing")
    for steps, distance in expected.items():
        points = make_grid(process, steps, options)
        end = run(oracle.mixture(process, means, 0.3), method, process, points, points.nodes[0].sigma * noise).sample
        assert _energy_distance(end, truth) == pytest.approx(distance, abs=0.005)
