"""Momentum methods: tables, identities, stability, divergence, against theory and the specification's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    GHVB,
    AdamsBashforth,
    ExponentialAdams,
    Flow,
    Grid,
    GridOptions,
    HeavyBall,
    Nesterov,
    VPDiscrete,
    betas_of_schedule,
    make_grid,
    run,
)
from fewstep.samplers.continuous.heavy_ball import split_momentum
from fewstep.samplers.core import oracle
from fewstep.samplers.core.stability import (
    critical_guidance_exponential,
    critical_guidance_ghvb,
    critical_guidance_heavy_ball,
    critical_guidance_nesterov,
)
from fewstep.samplers.core.weights import adams_bashforth, from_differences, ghvb_differences
from problems import vp

PUBLISHED = {
    1.5: [2.5, -1.5],
    1.8: [1.75, -0.75],
    2.3: [5.416667, -6.0, 1.583333],
    2.5: [3.416667, -3.333333, 0.916667],
    3.5: [4.208333, -5.708333, 3.291667, -0.791667],
    3.8: [2.770833, -3.270833, 1.979167, -0.479167],
    3.9: [2.504630, -2.819444, 1.736111, -0.421296],
}


@pytest.mark.parametrize(("momentum", "weights"), PUBLISHED.items())
def test_velocity_weights_are_the_published_ones(momentum, weights):
    order, beta = split_momentum(momentum)
    assert [w / beta for w in from_differences(ghvb_differences(order, beta))] == pytest.approx(weights, abs=5e-7)


def test_momentum_numbers_name_order_and_damping():
    named = {0.8: (1, 0.8), 1.8: (2, 0.8), 2.3: (3, 0.3), 3.9: (4, 0.9), 2.0: (2, 1.0), 5: (5, 1.0)}
    assert {m: split_momentum(m) for m in named} == named
    assert split_momentum(1.9999999999999) == (2, 1.0)


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("beta", [0.2, 0.7, 1.0])
def test_order_conditions_of_the_recurrence(order, beta):
    """x_{n+1} - x_n - (1-beta)(x_n - x_{n-1}) = delta sum C_j f_{n-j} is exact for polynomials up to degree `order`."""
    c = from_differences(ghvb_differences(order, beta))
    for p in range(order + 1):
        left = 1.0 - (1 - beta) * -((-1.0) ** p) if p else 0.0
        if p == 0:
            assert math.isclose(sum(c), beta)
            continue
        right = p * sum(w * (-float(j)) ** (p - 1) for j, w in enumerate(c))
        assert left == pytest.approx(right, abs=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_damping_one_is_adams_bashforth(order):
    process = vp()
    points = make_grid(process, 12)
    network = oracle.mixture(process, torch.randn(4, 6, dtype=torch.float64), 0.4)
    start = torch.randn(3, 6, dtype=torch.float64)
    base = run(network, AdamsBashforth(order=order), process, points, start).sample
    for method in (
        GHVB(momentum=order),
        HeavyBall(order=order, damping=1.0),
        Nesterov(order=order, damping=1.0),
        HeavyBall(momentum=order),
    ):
        assert torch.allclose(run(network, method, process, points, start).sample, base, rtol=0, atol=1e-12)
    variable = run(network, AdamsBashforth(order=order, weights="variable"), process, points, start).sample
    matched = run(network, GHVB(momentum=order, weights="moment-matched"), process, points, start).sample
    assert torch.allclose(variable, matched, rtol=0, atol=1e-12)


@pytest.mark.parametrize("damping", [0.2, 0.5, 0.9])
def test_first_order_ghvb_is_heavy_ball_on_euler(damping):
    for process in (vp(), Flow()):
        points = make_grid(process, 12)
        network = oracle.mixture(process, torch.randn(4, 6, dtype=torch.float64), 0.4)
        start = torch.randn(3, 6, dtype=torch.float64)
        one = run(network, GHVB(momentum=damping), process, points, start).sample
        two = run(network, HeavyBall(order=1, damping=damping), process, points, start).sample
        assert torch.allclose(one, two, rtol=0, atol=1e-12)


def test_vanishing_damping_is_adams_bashforth_of_one_order_less():
    """beta -> 0 in the division-free form: the weights on differences become those of Adams-Bashforth, order - 1."""
    for order in (2, 3, 4, 5):
        limit = ghvb_differences(order, 0.0)[1:]
        assert from_differences(limit) == pytest.approx(adams_bashforth(order - 1))


def test_velocity_form_equals_division_free_form():
    """The step against the table's weights on velocities, computed here from the definition."""
    rng = np.random.default_rng(0)
    for momentum in PUBLISHED:
        order, beta = split_momentum(momentum)
        process = Flow()
        points = Grid(tuple(process.at_sigma(s) for s in np.linspace(0.9, 0.1, 15)))
        slopes = rng.normal(size=(14, 3))
        x, state, plan = torch.zeros(1, 3, dtype=torch.float64), (), GHVB(momentum=momentum).plan(process, points)
        velocities, expected = [], np.zeros(3)
        for i, f in enumerate(slopes):
            x, state = plan.method.step(plan, i, x, torch.from_numpy(f)[None], state)
            velocities.append(f if not velocities else (1 - beta) * velocities[-1] + beta * f)
            now = min(order, len(velocities))
            table = [w / beta for w in from_differences(ghvb_differences(now, beta))]
            if i == 0:
                table = [1.0]
            step = points.nodes[i + 1].sigma - points.nodes[i].sigma
            expected = expected + step * sum(w * velocities[-1 - j] for j, w in enumerate(table))
        assert np.allclose(x.numpy()[0], expected, atol=1e-12)


TOY = {
    "euler": (AdamsBashforth(order=1), 0.009584),
    "ab2": (AdamsBashforth(order=2), 1.42915),
    "ghvb 1.9": (GHVB(momentum=1.9), 0.047046),
    "ghvb 1.8": (GHVB(momentum=1.8), 0.000664),
    "hb .9": (HeavyBall(order=2, damping=0.9), 0.002278),
    "hb .8": (HeavyBall(order=2, damping=0.8), 0.004468),
}


@pytest.mark.parametrize(("method", "expected"), TOY.values(), ids=TOY)
def test_stiff_oscillator_reproduces_the_measured_errors(method, expected):
    """Wizadwongsa et al., appendix C: x' = [[0, 1], [-9, -10]] x from (-1, 0), 26 steps to t = 3. Adams-Bashforth 2
    diverges there, momentum does not. Run as a flow whose sigma falls from 1 while time grows."""
    matrix = torch.tensor([[0.0, 1.0], [-9.0, -10.0]], dtype=torch.float64)
    process = Flow()
    points = Grid(tuple(process.at_sigma(s) for s in np.linspace(0.9, 0.1, 27)))  # dt = -(3 / 0.8) dsigma
    start = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)
    end = run(lambda x, t: -(3 / 0.8) * x @ matrix.T, method, process, points, start).sample
    exact = start @ torch.linalg.matrix_exp(3 * matrix).T
    assert float((end - exact).abs().max()) == pytest.approx(expected, rel=2e-3)


def _spectral_radius(method, guidance: float, q: float) -> float:
    """Growth of x_bar on f = g x_bar / sigma_bar over a long log-uniform grid, against the factor that keeps size."""
    process = VPDiscrete.from_betas(betas_of_schedule("linear"))
    count = 220
    ratios = 50 * q ** np.arange(count + 1)
    points = Grid(tuple(process.at_sigma(float(r)) for r in ratios))
    plan = method.plan(process, points)
    x, state = torch.tensor([[1.0], [1.7]], dtype=torch.float64) * points.nodes[0].alpha, ()
    sizes = []
    for i, node in enumerate(plan.calls):
        x_bar = x / node.alpha
        sizes.append(float(x_bar.norm()))
        x, state = method.step(plan, i, x, guidance * x_bar / node.ratio, state)
    # the solution is x_bar ~ sigma_bar^g -> 0: a stable method's x_bar stays bounded
    return (sizes[-1] / sizes[count // 2]) ** (1 / (count - 1 - count // 2))


CRITICAL = [
    (AdamsBashforth(order=1), lambda q: critical_guidance_ghvb(1, 1.0, q)),
    (AdamsBashforth(order=2), lambda q: critical_guidance_ghvb(2, 1.0, q)),
    (AdamsBashforth(order=4), lambda q: critical_guidance_heavy_ball(4, 1.0, q)),
    (GHVB(momentum=0.5), lambda q: critical_guidance_ghvb(1, 0.5, q)),
    (GHVB(momentum=1.5), lambda q: critical_guidance_ghvb(2, 0.5, q)),
    (GHVB(momentum=2.5), lambda q: critical_guidance_ghvb(3, 0.5, q)),
    (HeavyBall(order=4, damping=0.5), lambda q: critical_guidance_heavy_ball(4, 0.5, q)),
    (HeavyBall(order=2, damping=0.8), lambda q: critical_guidance_heavy_ball(2, 0.8, q)),
    (Nesterov(order=2, damping=0.7), lambda q: critical_guidance_nesterov(2, 0.7, q)),
    (
        HeavyBall(base="exponential-adams", order=2, damping=0.8),
        lambda q: critical_guidance_exponential(0.8, q),
    ),
    (ExponentialAdams(order=2), lambda q: critical_guidance_exponential(1.0, q)),
]


@pytest.mark.parametrize(("method", "formula"), CRITICAL, ids=lambda v: getattr(v, "name", "g*"))
@pytest.mark.parametrize("q", [0.7, 0.9])
def test_critical_guidance_is_where_the_method_begins_to_grow(method, formula, q):
    critical = formula(q)
    assert _spectral_radius(method, 0.97 * critical, q) < 1
    assert _spectral_radius(method, 1.03 * critical, q) > 1


def test_critical_guidance_reproduces_the_specification_table():
    assert [critical_guidance_ghvb(1, 1.0, q) for q in (0.5, 0.7, 0.8, 0.9)] == pytest.approx(
        [4, 6.667, 10, 20], rel=1e-3
    )
    assert [critical_guidance_ghvb(3, 0.5, q) for q in (0.5, 0.7, 0.8, 0.9)] == pytest.approx(
        [1.9, 2.9, 4.2, 8.1], abs=0.06
    )
    assert [critical_guidance_exponential(0.8, q) for q in (0.5, 0.7, 0.8, 0.9)] == pytest.approx(
        [3.3, 5.3, 7.8, 15.3], abs=0.06
    )


# -- guided Gaussian with a closed-form solution: the divergence test

S = torch.from_numpy(np.geomspace(0.05, 1.0, 16))


def guided_error(method, guidance: float, steps: int) -> float:
    """Rms error on f = x_bar sigma_bar [(1-g)/(1+sigma_bar^2) + g/(s^2+sigma_bar^2)], SD's betas, uniform in t."""
    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    points = Grid(tuple(process.at(t) for t in np.linspace(999, 0, steps + 1)))
    first, last = points.nodes[0], points.nodes[-1]

    def growth(r: float) -> torch.Tensor:
        return (1 + r * r) ** ((1 - guidance) / 2) * (S**2 + r * r) ** (guidance / 2)

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        node = process.at(timestep)
        r = node.ratio
        return x / node.alpha * r * ((1 - guidance) / (1 + r * r) + guidance / (S**2 + r * r))

    z = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = z * first.ratio * first.alpha
    end = run(network, method, process, points, start).sample / last.alpha
    exact = start / first.alpha * growth(last.ratio) / growth(first.ratio)
    return float((end - exact).square().mean().sqrt())


MEASURED = [
    (AdamsBashforth(order=4), 7.5, 15, 1.6),
    (GHVB(momentum=2.5), 7.5, 15, 0.0037),
    (HeavyBall(order=4, damping=0.9), 7.5, 15, 0.0083),
    (AdamsBashforth(order=1), 7.5, 10, 0.040),
    (HeavyBall(base="exponential-adams", damping=0.8, lower_order_final=False), 7.5, 20, 0.012),
    (ExponentialAdams(order=2, lower_order_final=False), 7.5, 20, 0.029),
    (AdamsBashforth(order=4), 15, 20, 2900),
    (GHVB(momentum=2.5), 15, 20, 0.0023),
    (GHVB(momentum=1.5), 15, 20, 0.0066),
    (Nesterov(order=4, damping=0.5), 15, 30, 0.042),
    (GHVB(momentum=3.1), 15, 60, 0.0011),
]


@pytest.mark.parametrize(("method", "guidance", "steps", "expected"), MEASURED, ids=str)
def test_guided_gaussian_reproduces_the_measured_errors(method, guidance, steps, expected):
    """Specification, section 9: plain Adams-Bashforth 4 blows up by orders of magnitude where GHVB 2.5 is accurate."""
    assert guided_error(method, guidance, steps) == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("guidance", [1.0, 3.0, 7.5, 15.0])
@pytest.mark.parametrize("steps", [8, 10, 15, 20, 30])
def test_automatic_momentum_never_diverges_where_it_says_it_is_stable(guidance, steps):
    """The exact answer's rms is 0.25: an error above it would be a divergence."""
    method = GHVB(momentum="auto", guidance_scale=guidance)
    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    points = Grid(tuple(process.at(t) for t in np.linspace(999, 0, steps + 1)))
    stable = all(
        critical_guidance_ghvb(order, beta, to.ratio / node.ratio) >= guidance
        for (order, beta), node, to in zip(method.schedule(points), points.nodes[:-1], points.nodes[1:], strict=True)
    )
    if stable:
        assert guided_error(method, guidance, steps) < 0.25


def test_automatic_momentum_is_the_plain_method_without_guidance():
    process = vp()
    points = make_grid(process, 20, GridOptions(spacing="karras"))
    assert set(GHVB(momentum="auto", guidance_scale=1.0).schedule(points)[:-1]) == {(3, 1.0)}
    assert set(HeavyBall(momentum="auto", guidance_scale=1.0).dampings(points)) == {1.0}
    strong = GHVB(momentum="auto", guidance_scale=15.0).schedule(points)
    assert any(order < 3 or beta < 1 for order, beta in strong)
