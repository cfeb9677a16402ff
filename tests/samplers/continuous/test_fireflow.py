"""FireFlow and the midpoint rule: identities, orders in sampling and in the round trip, a fixture."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    FireFlow,
    Flow,
    Grid,
    GridOptions,
    Midpoint,
    invert,
    inverter,
    make_grid,
    regenerate,
    run,
)
from fewstep.samplers.core import oracle
from problems import slope

FLOW = Flow()
MEANS = torch.tensor([[1.5, 1.0], [-1.5, 1.0], [-1.5, -1.0], [1.5, -1.0]], dtype=torch.float64)
WEIGHTS = (0.1, 0.2, 0.3, 0.4)
NETWORK = oracle.mixture(FLOW, MEANS, 0.5, list(WEIGHTS))
ANGLE = 2 * math.pi * (torch.arange(64, dtype=torch.float64) + 0.5) / 64
DATA = torch.stack([2 * ANGLE.cos(), 1.5 * ANGLE.sin()], 1)
NOISE = torch.stack([1.2 * ANGLE.cos(), 1.2 * ANGLE.sin()], 1)


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[eps - x0 | x] of the mixture, written by hand: component k has the variance (1 - sigma)^2 s^2 + sigma^2."""
    a, s2 = 1 - sigma, 0.25
    variance = a * a * s2 + sigma * sigma
    off = x[:, None] - a * MEANS
    share = torch.softmax(-off.square().sum(-1) / (2 * variance) + torch.tensor(WEIGHTS, dtype=torch.float64).log(), 1)
    x0 = (share[..., None] * (MEANS + a * s2 / variance * off)).sum(1)
    eps = (share[..., None] * (sigma / variance * off)).sum(1)
    return eps - x0


@lru_cache(maxsize=2)
def reference(forward: bool) -> torch.Tensor:
    """The exact end of the ODE, by 1500 steps of the classical Runge-Kutta method of order 4."""
    x, count = (DATA, 1500) if forward else (NOISE, 1500)
    h = 1 / count if forward else -1 / count
    for k in range(count):
        t = k * h if forward else 1 + k * h
        end = min(max(t + h, 0.0), 1.0)
        k1 = velocity(x, t)
        k2 = velocity(x + h / 2 * k1, t + h / 2)
        k3 = velocity(x + h / 2 * k2, t + h / 2)
        k4 = velocity(x + h * k3, end)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def flux_grid(count: int, mu: float | None = None) -> Grid:
    return make_grid(FLOW, count, GridOptions(spacing="trailing", dynamic_shift=mu is not None), mu=mu)


def edges_of(points: Grid) -> list[float]:
    return [node.sigma for node in points.nodes]


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def by_hand(x: torch.Tensor, edges: list[float], reuse: bool = True) -> torch.Tensor:
    """Section by section as published: predictor, slope in the middle, full step."""
    before = velocity(x, edges[0])
    for e, to in pairwise(edges):
        h = to - e
        if not reuse:
            before = velocity(x, e)
        before = velocity(x + h / 2 * before, (e + to) / 2)
        x = x + h * before
    return x


def test_the_oracle_is_the_velocity_by_hand() -> None:
    for sigma in (0.0, 0.3, 1.0):
        assert torch.allclose(NETWORK(DATA, 1000 * sigma), velocity(DATA, sigma), rtol=0, atol=1e-13)


@pytest.mark.parametrize("mu", [None, 1.15])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_both_directions_are_the_published_loop(count: int, mu: float | None) -> None:
    points = flux_grid(count, mu)
    for method, reuse in ((FireFlow(), True), (Midpoint(), False)):
        down = run(NETWORK, method, FLOW, points, NOISE).sample
        up = run(NETWORK, method, FLOW, points.reversed(), DATA).sample
        assert (down - by_hand(NOISE, edges_of(points), reuse)).abs().max() < 1e-13
        assert (up - by_hand(DATA, edges_of(points)[::-1], reuse)).abs().max() < 1e-13


def test_the_network_is_called_at_the_first_edge_and_in_the_middles() -> None:
    for points in (flux_grid(8, 1.15), flux_grid(8, 1.15).reversed()):
        told: list[float] = []

        def network(x: torch.Tensor, timestep: float, told: list[float] = told) -> torch.Tensor:
            told.append(timestep)
            return torch.zeros_like(x)

        run(network, FireFlow(), FLOW, points, DATA)
        edges = edges_of(points)
        assert told == pytest.approx([1000 * edges[0], *(500 * (a + b) for a, b in pairwise(edges))])
        assert len(told) == 9


def test_the_grid_of_flux() -> None:
    """The published list: t = 1 - i / N, sigma = e^mu / (e^mu + 1 / t - 1), here at 1024 and 512 pixels."""
    large = [1, 0.9567, 0.9045, 0.8403, 0.7595, 0.6546, 0.5128, 0.3109, 0]
    small = [1, 0.9293, 0.8492, 0.7578, 0.6525, 0.5298, 0.3849, 0.2115, 0]
    assert edges_of(flux_grid(8, 1.15)) == pytest.approx(large, abs=5e-5)
    assert edges_of(flux_grid(8, 0.63)) == pytest.approx(small, abs=5e-5)
    for count in (1, 8, 15):
        for tokens in (1024, 4096):
            mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
            t = 1 - np.arange(count) / count
            expected = [*(math.exp(mu) / (math.exp(mu) + 1 / t - 1)), 0.0]
            assert edges_of(flux_grid(count, mu)) == pytest.approx(expected, abs=1e-12)


def test_one_step_is_the_midpoint_rule_bit_for_bit() -> None:
    points = flux_grid(1)
    for edges, start in ((points, NOISE), (points.reversed(), DATA)):
        one, other = (run(NETWORK, method, FLOW, edges, start).sample for method in (FireFlow(), Midpoint()))
        assert torch.equal(one, other)


@pytest.mark.parametrize("mu", [None, 1.15])
def test_velocities_linear_in_sigma_are_exact(mu: float | None) -> None:
    """v = a + b sigma: the end is x - a - b / 2, whatever the steps."""
    a, b = DATA.flip(0), 3 * DATA.roll(1, 0)

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return a + b * (timestep / 1000)

    for count in (1, 2, 5, 40):
        for method in (FireFlow(), Midpoint()):
            end = run(network, method, FLOW, flux_grid(count, mu), NOISE).sample
            assert (end - (NOISE - a - b / 2)).abs().max() < 1e-12


def test_fireflow_is_adams_bashforth_2_on_the_middles() -> None:
    """On equal steps: y' = y + h (3/2 v_k - 1/2 v_{k-1}) from one middle to the next, and a read-out at the edge."""
    count = 24
    h = -1 / count
    before = velocity(NOISE, 1.0)
    y = NOISE + h / 2 * before
    for k in range(count):
        v = velocity(y, 1 + (k + 0.5) * h)
        last = y + h * v - h / 2 * before
        y, before = y + h * (1.5 * v - 0.5 * before), v
    assert (run(NETWORK, FireFlow(), FLOW, flux_grid(count), NOISE).sample - last).abs().max() < 1e-12


def test_rf_solver_is_the_midpoint_rule() -> None:
    """Its published update x + h v + h^2 / 2 (v_mid - v) / (h / 2)."""
    points = flux_grid(12, 1.15)
    x = NOISE
    for e, to in pairwise(edges_of(points)):
        h = to - e
        v = velocity(x, e)
        middle = velocity(x + h / 2 * v, e + h / 2)
        x = x + h * v + h * h / 2 * (middle - v) / (h / 2)
    assert (run(NETWORK, Midpoint(), FLOW, points, NOISE).sample - x).abs().max() < 1e-12


#: Round trip, inversion error, sampling error at 8, 16, 32, 64 and 128 steps.
FIXTURE = {
    ("fireflow", None, "round trip"): (2.138e-2, 4.819e-3, 7.479e-4, 9.970e-5, 1.268e-5),
    ("fireflow", None, "inversion"): (1.191e-2, 2.891e-3, 7.048e-4, 1.730e-4, 4.278e-5),
    ("fireflow", None, "sampling"): (1.242e-2, 3.823e-3, 1.093e-3, 2.925e-4, 7.548e-5),
    ("midpoint", None, "round trip"): (2.422e-2, 3.518e-3, 4.474e-4, 5.609e-5, 7.016e-6),
    ("euler", None, "round trip"): (3.072e-1, 1.616e-1, 8.274e-2, 4.178e-2, 2.097e-2),
    ("fireflow", 1.15, "round trip"): (1.124e-1, 1.544e-2, 2.583e-3, 3.783e-4, 4.959e-5),
    ("midpoint", 1.15, "round trip"): (1.893e-1, 1.198e-2, 1.923e-3, 2.489e-4, 3.132e-5),
    ("euler", 1.15, "round trip"): (3.596e-1, 1.936e-1, 1.019e-1, 5.216e-2, 2.636e-2),
}


@pytest.mark.parametrize(("name", "mu", "quantity"), FIXTURE)
def test_the_numbers_of_the_fixture(name: str, mu: float | None, quantity: str) -> None:
    solver = inverter(name)
    for count, expected in zip((8, 16, 32, 64, 128), FIXTURE[name, mu, quantity], strict=True):
        points = flux_grid(count, mu)
        if quantity == "sampling":
            off = run(NETWORK, solver.backward, FLOW, points, NOISE).sample - reference(forward=False)
        else:
            found = invert(NETWORK, solver, FLOW, points, DATA)
            off = found.sample - reference(forward=True)
            if quantity == "round trip":
                off = regenerate(NETWORK, solver, FLOW, points, found).sample - DATA
        assert rms(off) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mu", [None, 1.15])
@pytest.mark.parametrize(
    ("name", "order", "there_and_back"), [("fireflow", 2, 3), ("midpoint", 2, 3), ("euler", 1, 1), ("uni-inv", 1, 2)]
)
def test_orders_in_sampling_inversion_and_the_round_trip(
    name: str, order: int, there_and_back: int, mu: float | None
) -> None:
    solver, counts = inverter(name), [64, 128, 256]
    errors: dict[str, list[float]] = {"sampling": [], "inversion": [], "round trip": []}
    for count in counts:
        points = flux_grid(count, mu)
        found = invert(NETWORK, solver, FLOW, points, DATA)
        back = regenerate(NETWORK, solver, FLOW, points, found).sample
        errors["sampling"].append(rms(run(NETWORK, solver.backward, FLOW, points, NOISE).sample - reference(False)))
        errors["inversion"].append(rms(found.sample - reference(True)))
        errors["round trip"].append(rms(back - DATA))
    found_orders = {key: slope(value, counts) for key, value in errors.items()}
    assert found_orders["sampling"] == pytest.approx(order, abs=0.12)
    assert found_orders["inversion"] == pytest.approx(order, abs=0.12)
    assert found_orders["round trip"] == pytest.approx(there_and_back, abs=0.2)


def test_order_two_holds_on_alternating_steps() -> None:
    """Step lengths 1 : 3 : 1 : 3, where the weights are not those of Adams-Bashforth."""
    errors, counts = [], [64, 128, 256]
    for count in counts:
        lengths = np.tile([1.0, 3.0], count // 2)
        sigmas = 1 - np.cumsum(lengths) / lengths.sum()
        points = make_grid(FLOW, sigmas=[1.0, *sigmas[:-1]])
        errors.append(rms(run(NETWORK, FireFlow(), FLOW, points, NOISE).sample - reference(False)))
    assert slope(errors, counts) == pytest.approx(2, abs=0.12)


def test_stored_velocities_lead_back_to_the_picture() -> None:
    points = flux_grid(10, 1.15)
    edges = edges_of(points)
    kept: list[torch.Tensor] = []

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        kept.append(NETWORK(x, timestep))
        return kept[-1]

    x = run(network, FireFlow(), FLOW, points.reversed(), DATA).sample
    for e, to, v in zip(edges, edges[1:], reversed(kept[1:]), strict=False):
        x = x + (to - e) * v
    assert (x - DATA).abs().max() < 1e-12


def test_a_warm_start_saves_a_call_and_keeps_the_round_trip() -> None:
    solver = inverter("fireflow")
    for mu in (None, 1.15):
        for count in (16, 64):
            points = flux_grid(count, mu)
            found = invert(NETWORK, solver, FLOW, points, DATA)
            cold = regenerate(NETWORK, solver, FLOW, points, found)
            warm = regenerate(NETWORK, solver, FLOW, points, found, warm=True)
            assert (cold.calls, warm.calls) == (count + 1, count)
            assert rms(warm.sample - DATA) == pytest.approx(rms(cold.sample - DATA), rel=0.15)


def test_a_run_from_a_middle_goes_on_with_the_slope_at_hand() -> None:
    """The sample at m is brought to the next edge with the slope there, which is also the next predictor's."""
    points = flux_grid(6, 1.15)
    edges = edges_of(points)
    start = 3
    e, to, then = edges[start - 1 : start + 2]
    x = NOISE
    v = velocity(x, (e + to) / 2)
    base = x + (to - (e + to) / 2) * v
    expected = base + (then - to) / 2 * v
    plan = FireFlow().plan(FLOW, points, start)
    assert plan.calls[0].sigma == pytest.approx((e + to) / 2)
    assert len(plan.calls) == 7 - start
    got, _ = plan.method.step(plan, 0, x, v, ())
    assert (got - expected).abs().max() < 1e-14
    with pytest.raises(ValueError, match=r"can start at 0 \.\. 6, not at 7"):
        FireFlow().plan(FLOW, points, 7)


def test_stages_pair_the_two_legs() -> None:
    points = flux_grid(3)
    up, down = FireFlow().stages(FLOW, points.reversed()), FireFlow().stages(FLOW, points)
    assert [stage.key for stage in up] == [(2, "start"), (2, "mid"), (1, "mid"), (0, "mid")]
    assert [stage.key for stage in down] == [(0, "edge"), (0, "mid"), (1, "mid"), (2, "mid")]
    for stage in up[1:]:
        partner = next(other for other in down if other.key == stage.key)
        assert partner.node.sigma == pytest.approx(stage.node.sigma)
    for count in (1, 3):  # no two calls of the same key lie at other noise levels, nor of a single interval
        ways = FireFlow().stages(FLOW, flux_grid(count).reversed()), FireFlow().stages(FLOW, flux_grid(count))
        shared = {stage.key for stage in ways[0]} & {stage.key for stage in ways[1]}
        assert shared == {(k, "mid") for k in range(count)}
    assert {s.key for s in Midpoint().stages(FLOW, points)} == {
        s.key for s in Midpoint().stages(FLOW, points.reversed())
    }
