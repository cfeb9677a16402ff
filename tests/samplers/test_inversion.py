"""Inverters: what each computes, that the exact one is exact, how the legs pair, and what is refused."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    EDM,
    INVERTERS,
    Flow,
    Grid,
    GridOptions,
    Inversion,
    RFInversion,
    Stage,
    VPDiscrete,
    betas_of_schedule,
    fields_of,
    invert,
    inverter,
    make_grid,
    regenerate,
    run,
)
from fewstep.samplers.core import oracle
from problems import slope, vp

FLOW = Flow()


def normal(shape: tuple[int, ...] = (6, 3), seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CENTRES = normal((5, 3), 7)
DATA = CENTRES[[0, 1, 2, 3, 4, 0]] + 0.3 * normal()


def network(process, centres: torch.Tensor = CENTRES):
    return oracle.mixture(process, centres, 0.4)


def grid(count: int, mu: float | None = None) -> Grid:
    return make_grid(FLOW, count, GridOptions(spacing="trailing", dynamic_shift=mu is not None), mu=mu)


def there_and_back(name: str, process, points: Grid, **options) -> tuple[Inversion, torch.Tensor]:
    solver = inverter(name)
    target = normal(seed=3) if solver.needs_target else None
    found = invert(network(process), solver, process, points, DATA, target=target)
    return found, regenerate(network(process), solver, process, points, found, **options).sample


# -- exact -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [None, 1.15])
@pytest.mark.parametrize("count", [2, 3, 8, 50])
def test_exact_inversion_returns_to_rounding(count: int, mu: float | None) -> None:
    points = grid(count, mu)
    calls = []
    found, back = there_and_back("exact", FLOW, points)
    assert (back - DATA).abs().max() < 1e-11
    assert found.calls == count
    again = regenerate(network(FLOW), inverter("exact"), FLOW, points, found, on_call=lambda i, s: calls.append(s))
    assert again.calls == len(calls) == count - 1


def test_exact_inversion_over_one_interval_is_refused() -> None:
    """Both ends would be kept, and an edit would return the picture without one call."""
    with pytest.raises(ValueError, match="exact inversion needs at least 2 intervals"):
        there_and_back("exact", FLOW, grid(1))
    with pytest.raises(ValueError, match="exact inversion needs at least 2 intervals"):
        there_and_back("exact", FLOW, grid(8).tail(7))
    with pytest.raises(ValueError, match="exact inversion needs at least 2 intervals"):
        regenerate(network(FLOW), inverter("exact"), FLOW, grid(1), Inversion(DATA, DATA, (DATA,)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_exact_inversion_of_an_epsilon_model(prediction: str) -> None:
    process = vp(prediction)
    for options in (GridOptions(spacing="trailing"), GridOptions(spacing="karras")):
        _, back = there_and_back("exact", process, make_grid(process, 20, options))
        assert (back - DATA).abs().max() < 1e-8


def test_exact_inversion_in_half_precision_is_carried_in_float32() -> None:
    def bf16(x: torch.Tensor, timestep: float) -> torch.Tensor:
        assert x.dtype == torch.float32
        return network(FLOW, CENTRES.float())(x.bfloat16().float(), timestep).bfloat16()

    solver, points = inverter("exact"), grid(12, 1.15)
    data = DATA.bfloat16()
    found = invert(bf16, solver, FLOW, points, data)
    back = regenerate(bf16, solver, FLOW, points, found).sample
    assert back.dtype == torch.float32
    assert (back - data.float()).abs().max() < 2e-5


def test_o_belm_on_equal_steps_is_the_leapfrog() -> None:
    """x_{k+1} = x_{k-1} + 2 h v_k, begun by one Euler step."""
    count = 10
    h = -1 / count
    net = network(FLOW)
    before, x = normal(seed=2), normal(seed=2)
    x = before + h * net(before, 1000.0)
    for k in range(1, count):
        before, x = x, before + 2 * h * net(x, 1000 * (1 + k * h))
    got = run(net, inverter("exact").backward, FLOW, grid(count), normal(seed=2)).sample
    assert (got - x).abs().max() < 1e-12


def test_the_exact_way_back_calls_the_network_on_the_states_of_the_way_forth() -> None:
    points, solver = grid(7, 0.8), inverter("exact")
    seen: list[tuple[tuple[int, str], torch.Tensor]] = []
    stages: list[Stage] = []

    def spy(x: torch.Tensor, timestep: float) -> torch.Tensor:
        seen.append((stages[-1].key, x.clone()))
        assert stages[-1].node.timestep == timestep
        return network(FLOW)(x, timestep)

    def on_call(i: int, stage: Stage) -> None:
        stages.append(stage)

    found = invert(spy, solver, FLOW, points, DATA, on_call=on_call)
    forth = dict(seen)
    seen.clear()
    regenerate(spy, solver, FLOW, points, found, on_call=on_call)
    assert len(forth) == 7
    assert len(seen) == 6
    for key, x in seen:
        assert (forth[key] - x).abs().max() < 1e-11


# -- the others ------------------------------------------------------------------------------------------------


def test_euler_inversion_is_the_explicit_loop() -> None:
    points = grid(9, 0.7)
    sigmas = [node.sigma for node in points.nodes][::-1]
    x = DATA
    for e, to in pairwise(sigmas):
        x = x + (to - e) * network(FLOW)(x, 1000 * e)
    found, _ = there_and_back("euler", FLOW, points)
    assert (found.sample - x).abs().max() < 1e-12


def test_uni_inv_is_its_published_loop() -> None:
    """Predict with the slope of before, ask the network at the end of the interval, step with what it says."""
    points = grid(9, 0.7)
    sigmas = [node.sigma for node in points.nodes][::-1]
    x, before = DATA, network(FLOW)(DATA, 0.0)
    for e, to in pairwise(sigmas):
        before = network(FLOW)(x + (to - e) * before, 1000 * to)
        x = x + (to - e) * before
    found, _ = there_and_back("uni-inv", FLOW, points)
    assert found.calls == 10
    assert (found.sample - x).abs().max() < 1e-12


def test_ddim_inversion_is_ddim_backwards() -> None:
    """alpha' x0 + sigma' eps with the epsilon of the less noisy end, on the timesteps of the model."""
    process = vp()
    points = make_grid(process, 10, GridOptions(spacing="trailing"))
    bar = np.asarray(process.alphas_cumprod)
    told = [round(node.timestep) for node in points.nodes[:-1]][::-1]
    levels = [(1.0, 0.0), *((math.sqrt(bar[t]), math.sqrt(1 - bar[t])) for t in told)]
    net, x = network(process), DATA
    for (alpha, sigma), (alpha_to, sigma_to), t in zip(levels, levels[1:], [None, *told], strict=False):
        eps = torch.zeros_like(x) if t is None else net(x, float(t))
        x = alpha_to * (x - sigma * eps) / alpha + sigma_to * eps

    def told_nothing_of_clean_data(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return torch.zeros_like(x) if timestep == 0 else net(x, timestep)

    found = invert(told_nothing_of_clean_data, inverter("ddim"), process, points, DATA)
    assert (found.sample - x).abs().max() < 1e-11


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("fireflow", 3), ("midpoint", 3)])
def test_orders_of_the_round_trip_of_an_epsilon_model(name: str, order: int) -> None:
    """Between two noise levels of a variance-preserving process, equal steps in sigma / alpha."""
    process, errors, counts = vp(), [], [64, 128, 256]
    for count in counts:
        levels = np.linspace(4.0, 0.1, count + 1)
        points = Grid(tuple(process.at_sigma(float(level)) for level in levels))
        _, back = there_and_back(name, process, points)
        errors.append(float((back - DATA).square().mean().sqrt()))
    assert slope(errors, counts) == pytest.approx(order, abs=0.25)


def test_rf_inversion_is_its_published_loop() -> None:
    """Community code: v + gamma (target slope - v) on either way, in its own time 1 - sigma on the way back."""
    points, gamma, eta = grid(8), 0.5, 0.9
    solver, goal = inverter("rf-inversion", gamma=gamma, eta=eta, stop=0.5), normal(seed=4)
    net, y = network(FLOW), DATA
    for i in range(8):
        t = i / 8
        u = net(y, 1000 * t)
        y = y + ((goal - y) / (1 - t) * gamma + (1 - gamma) * u) / 8
    found = invert(net, solver, FLOW, points, DATA, target=goal)
    assert (found.sample - y).abs().max() < 1e-12
    x = y
    for i in range(8):
        t = i / 8
        v, pull = -net(x, 1000 * (1 - t)), (DATA - x) / (1 - t)
        x = x + (v + (eta if i < 4 else 0.0) * (pull - v)) / 8
    back = regenerate(net, solver, FLOW, points, found).sample
    assert (back - x).abs().max() < 1e-12


def test_rf_inversion_without_pull_is_euler_and_with_all_of_it_the_target() -> None:
    points, goal = grid(6, 1.0), normal(seed=4)
    free = inverter("rf-inversion", gamma=0.0, eta=0.0)
    full = inverter("rf-inversion", gamma=1.0, eta=1.0, stop=1.0)
    euler = invert(network(FLOW), inverter("euler"), FLOW, points, DATA).sample
    assert torch.allclose(invert(network(FLOW), free, FLOW, points, DATA, target=goal).sample, euler, atol=1e-13)
    found = invert(network(FLOW), full, FLOW, points, DATA, target=goal)
    assert torch.allclose(found.sample, goal, atol=1e-13)
    assert torch.allclose(regenerate(network(FLOW), full, FLOW, points, found).sample, DATA, atol=1e-13)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_rf_inversion_below_pure_noise_stays_on_a_straight_field(gamma: float) -> None:
    """On (1 - s) x0 + s y the pull and the field agree, also where the run ends at s = 0.7: nothing is bent."""
    goal, points = normal(seed=4), Grid(tuple(FLOW.at_sigma(level) for level in (0.7, 0.5, 0.3, 0.1, 0.0)))
    solver = inverter("rf-inversion", gamma=gamma, eta=1.0, stop=1.0)

    def straight(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return goal - DATA

    found = invert(straight, solver, FLOW, points, DATA, target=goal)
    expected = 0.3 * DATA + 0.7 * goal
    assert (found.sample - expected).norm() / expected.norm() < 1e-14
    back = regenerate(straight, solver, FLOW, points, found).sample
    assert (back - DATA).norm() / DATA.norm() < 1e-14


# -- what holds for all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVERTERS)
def test_a_run_repeats_bit_for_bit(name: str) -> None:
    points = grid(6, 1.15)
    (first, back), (second, again) = (there_and_back(name, FLOW, points) for _ in range(2))
    assert torch.equal(first.sample, second.sample)
    assert torch.equal(back, again)


CALLS = {
    "fireflow": (9, 9),
    "midpoint": (16, 16),
    "euler": (8, 8),
    "uni-inv": (9, 8),
    "rf-inversion": (8, 8),
    "exact": (8, 7),
}


@pytest.mark.parametrize("name", INVERTERS)
def test_calls_and_stages_of_both_legs(name: str) -> None:
    solver, points = inverter(name), grid(8)
    said: list[list[Stage]] = [[], []]
    goal = normal(seed=4) if solver.needs_target else None
    found = invert(
        network(FLOW), solver, FLOW, points, DATA, target=goal, on_call=lambda i, stage: said[0].append(stage)
    )
    back = regenerate(network(FLOW), solver, FLOW, points, found, on_call=lambda i, stage: said[1].append(stage))
    assert (found.calls, back.calls) == CALLS[name] == (len(said[0]), len(said[1]))
    sigmas = [[stage.node.sigma for stage in leg] for leg in said]
    assert sigmas[0] == sorted(sigmas[0])
    assert sigmas[1] == sorted(sigmas[1], reverse=True)
    assert sigmas[0][0] == 0
    keys = [[stage.key for stage in leg] for leg in said]
    assert all(len(set(leg)) == len(leg) for leg in keys)
    unpaired = set(keys[1]) - set(keys[0])
    assert unpaired == ({(0, "edge")} if name == "fireflow" else set())


@pytest.mark.parametrize("name", INVERTERS)
def test_a_partial_inversion_stops_at_an_inner_edge(name: str) -> None:
    """The tail of the grid for both legs: the noise level reached is that of its first node."""
    points = grid(32).tail(12)
    found, back = there_and_back(name, FLOW, points)
    assert points.nodes[0].sigma == pytest.approx(0.625)
    if name != "rf-inversion":
        assert (back - DATA).abs().max() < 0.2
    assert found.sample.shape == DATA.shape


def test_a_callback_may_replace_the_sample() -> None:
    """A blend between two calls counts in full, although FireFlow's step reaches back behind it."""
    points, solver = grid(6, 1.0), inverter("fireflow")
    found = invert(network(FLOW), solver, FLOW, points, DATA)
    moved = torch.zeros_like(DATA)
    moved[:, 0] = 0.5

    def constant(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return torch.full_like(x, 0.25)

    plain = regenerate(constant, solver, FLOW, points, found)
    same = regenerate(constant, solver, FLOW, points, found, callback=lambda i, x: x)
    shifted = regenerate(constant, solver, FLOW, points, found, callback=lambda i, x: x + moved if i == 2 else None)
    assert torch.equal(plain.sample, same.sample)
    assert torch.allclose(shifted.sample, plain.sample + moved, atol=1e-14)


def test_an_inverter_is_made_again_from_its_fields() -> None:
    for name in INVERTERS:
        solver = inverter(name)
        assert inverter(solver.name, **fields_of(solver)) == solver
    odd = inverter("rf_inversion", gamma=0.3, eta=0.8, start=0.1, stop=0.6)
    assert inverter(odd.name, **fields_of(odd)) == odd
    assert inverter("RF-Solver") == inverter("midpoint")
    assert inverter("ddim") == inverter("euler")
    assert inverter("o-belm") == inverter("exact")


# -- what is refused -------------------------------------------------------------------------------------------


def test_unknown_names_and_fields_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="unknown inverter 'fireflo', did you mean 'fireflow'"):
        inverter("fireflo")
    with pytest.raises(ValueError, match="no field 'gama', did you mean 'gamma'"):
        inverter("rf-inversion", gama=1.0)
    with pytest.raises(ValueError, match="fireflow has no field 'gamma'"):
        inverter("fireflow", gamma=1.0)
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\], got 1.5"):
        inverter("rf-inversion", eta=1.5)


def test_missing_and_misshapen_companions_are_refused() -> None:
    points, pulled, exact = grid(4), inverter("rf-inversion"), inverter("exact")
    with pytest.raises(ValueError, match=r"pulled towards a noise: pass it as target, of the shape \(6, 3\)"):
        invert(network(FLOW), pulled, FLOW, points, DATA)
    with pytest.raises(ValueError, match=r"target has the shape \(1, 3\), the sample \(6, 3\)"):
        invert(network(FLOW), pulled, FLOW, points, DATA, target=DATA[:1])
    with pytest.raises(TypeError, match=r"floating-point numbers, got torch\.int64"):
        invert(network(FLOW), exact, FLOW, points, DATA.long())
    bare = Inversion(DATA, DATA)
    with pytest.raises(ValueError, match="exact goes on from the state before the last"):
        regenerate(network(FLOW), exact, FLOW, points, bare)
    with pytest.raises(ValueError, match="fireflow goes on from its last slope"):
        regenerate(network(FLOW), inverter("fireflow"), FLOW, points, bare, warm=True)
    with pytest.raises(ValueError, match="euler cannot start warm; those that can are fireflow, midpoint"):
        regenerate(network(FLOW), inverter("euler"), FLOW, points, bare, warm=True)
    with pytest.raises(ValueError, match="start the run with state"):
        run(network(FLOW), RFInversion(), FLOW, points, DATA)


def test_processes_that_cannot_be_inverted_from_clean_data_are_refused() -> None:
    edm = EDM()
    with pytest.raises(ValueError, match="logarithm of sigma"):
        invert(network(edm), inverter("euler"), edm, make_grid(edm, 5), DATA)
    ends = make_grid(edm, 5, GridOptions(final_sigma="sigma_min"))
    assert torch.isfinite(invert(network(edm), inverter("fireflow"), edm, ends, DATA).sample).all()
    sample = vp("sample")
    with pytest.raises(ValueError, match="predicts the clean sample"):
        invert(network(sample), inverter("ddim"), sample, make_grid(sample, 5), DATA)
    with pytest.raises(ValueError, match="not a flow-matching model"):
        invert(network(vp()), inverter("rf-inversion"), vp(), make_grid(vp(), 5), DATA, target=DATA)
    snr = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012), "v_prediction", True)
    whole = make_grid(snr, 5, GridOptions(spacing="trailing"))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        invert(network(snr), inverter("exact"), snr, whole, DATA)
    assert torch.isfinite(invert(network(snr), inverter("fireflow"), snr, whole, DATA).sample).all()
