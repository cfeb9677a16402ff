"""Tuning, on Gaussians whose probability-flow ODE has a closed-form solution."""

import itertools
import math

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    EDM,
    AdamsBashforth,
    ExponentialAdams,
    Flow,
    GridOptions,
    Tuned,
    VPDiscrete,
    betas_of_schedule,
    make_grid,
    run,
)
from fewstep.samplers.core.process import slope_coordinate
from fewstep.samplers.tuning import FittedRun, Trajectory, best_levels, local_errors, record, tune
from fewstep.samplers.tuning.refining import cauchy, knee_of, trusted
from fewstep.samplers.tuning.trajectory import grid_of

VP = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
PROCESSES = {"vp": VP, "flow": Flow(), "edm": EDM()}
RANGES = {"vp": (VP.at(999.0).ratio, VP.at(0.0).ratio), "flow": (1.0, 1e-3), "edm": (80.0, 0.002)}
SCALES = torch.tensor([0.05, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)


def network(process, scales):
    """Exact prediction for centred Gaussian data with these scales, from the posterior mean of clean data."""

    def predict(x, timestep):
        node = process.at(timestep)
        x = x / process.input_scale(node)
        x0 = x * (node.alpha * scales**2 / (node.alpha**2 * scales**2 + node.sigma**2))
        form = process.x0(node)  # x0 = a x + b prediction
        return (x0 - form.of_sample * x) / form.of_output

    return predict


def runner(process, z, scales=SCALES):
    def go(method, levels, timesteps=None):
        grid = grid_of(process, levels, timesteps)
        node = grid.nodes[0]
        start = z * (node.alpha**2 * scales**2 + node.sigma**2).sqrt()
        return run(network(process, scales), method, process, grid, start).sample

    return go


def noise(count, seed, pixels=5):
    return torch.randn(count, pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_recorded_trajectory_is_the_exact_solution(kind):
    process, z = PROCESSES[kind], noise(16, 0)
    path = record(runner(process, z), process, *RANGES[kind], 121)
    assert rms(path.end.double() - z * SCALES) < 3e-3
    for k in (0, 40, 119):
        node = process.at_sigma(path.levels[k])
        scale, tau = slope_coordinate(process, node)
        exact = z * (node.alpha**2 * SCALES**2 + node.sigma**2).sqrt() / scale
        assert rms(path.samples[k].double() - exact) < 3e-3 * rms(exact)
        assert tau == path.taus[k]


def test_between_levels_a_cubic_is_reproduced():
    taus = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.01, 0.0])
    cubic = torch.tensor([[0.3, -1.0], [0.5, 2.0], [1.0, 0.1], [-0.2, 0.4]])

    def value(t):
        return sum(c * t**k for k, c in enumerate(cubic))

    def slope(t):
        return sum(k * c * t ** (k - 1) for k, c in enumerate(cubic) if k)

    samples = torch.stack([value(t) for t in taus])
    path = Trajectory(tuple(taus[:-1]), taus, samples, torch.stack([slope(t) for t in taus[:-1]]))
    for tau in (3.3, 2.0, 1.7, 0.07, 0.02):
        torch.testing.assert_close(path.at(tau), value(tau), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PROCESSES)
def test_one_scale_is_solved_exactly_once_there_is_a_history(kind):
    """All slopes are multiples of the start, so least squares reaches the trajectory itself at every later step."""
    process, z, scales = PROCESSES[kind], noise(8, 1), torch.full((5,), 0.6, dtype=torch.float64)
    go = runner(process, z, scales)
    path = record(go, process, *RANGES[kind], 121)
    fitted = FittedRun(path, ridge=0.0)
    levels = [path.levels[k] for k in best_levels(path, local_errors(path), 4)]
    end = go(fitted, levels)
    assert rms(end - path.end) < 1e-5
    other = noise(8, 2)
    ours = runner(process, other, scales)(Tuned((tuple(fitted.table),)), levels)
    assert rms(ours - other * scales) < 3e-3


def test_the_fit_leaves_nothing_that_its_own_slopes_could_say():
    """Normal equations: what a step misses is orthogonal to the changes that it may weigh (checked with NumPy)."""
    z = noise(32, 3)
    go = runner(VP, z)
    path = record(go, VP, *RANGES["vp"], 61)
    levels = [path.levels[k] for k in (0, 20, 40)]
    fitted = FittedRun(path, ridge=0.0)
    go(fitted, levels)
    x, slopes = [], []

    class Spy:
        def plan(self, process, grid):
            return Tuned((tuple(fitted.table),)).plan(process, grid)

        def step(self, plan, i, sample, prediction, state=()):
            scale, _ = slope_coordinate(VP, plan.grid.nodes[i])
            x.append((sample / scale).numpy().ravel())
            slopes.append(prediction.numpy().ravel())
            return plan.method.step(plan, i, sample, prediction, state)

    go(Spy(), levels)
    taus = [slope_coordinate(VP, VP.at_sigma(s))[1] for s in levels]
    delta = taus[2] - taus[1]
    target = path.at(taus[2]).double().numpy().ravel()
    design = delta * (slopes[0] - slopes[1])[:, None]
    wanted = np.linalg.lstsq(design, target - x[1] - delta * slopes[1], rcond=None)[0]
    assert fitted.table[1][1] == pytest.approx(float(wanted[0]), rel=1e-4)


def test_the_dynamic_programme_finds_what_trying_everything_finds():
    draw = np.random.default_rng(0)
    count, calls = 9, 4
    errors = np.full((count + 1, count, count + 1), np.inf)
    for h, i, j in itertools.product(range(count + 1), range(count), range(count + 1)):
        if i < j and (h < i or h == count):
            errors[h, i, j] = draw.random()
    taus = np.append(np.geomspace(10, 0.1, count), 0.0)
    path = Trajectory(tuple(taus[:-1]), taus, torch.zeros(count + 1, 1), torch.zeros(count, 1))

    def cost(numbers, power):
        levels, total = [*numbers, count], 0.0
        for n in range(calls):
            h = count if n == 0 else levels[n - 1]
            total += errors[h, levels[n], levels[n + 1]] * taus[min(levels[n + 1], count - 1)] ** -power
        return total

    for power in (0.0, 0.5, 1.0):
        found = best_levels(path, errors, calls, power)
        tried = min(cost((0, *rest), power) for rest in itertools.combinations(range(1, count), calls - 1))
        assert cost(found, power) == pytest.approx(tried)


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_tuned_run_beats_every_named_grid_on_other_noise(kind):
    process, calls = PROCESSES[kind], 6
    go = runner(process, noise(48, 4))
    path = record(go, process, *RANGES[kind], 81)
    found = tune(go, process, path, calls, rounds=2)
    assert found.levels[0] == path.levels[0]
    other = noise(48, 5)
    prove, exact = runner(process, other), other * SCALES
    ours = rms(prove(Tuned((found.table,), (found.gains,)), found.levels, found.timesteps) - exact)
    rivals = {}
    for spacing in ("linspace", "leading", "trailing", "karras", "exponential", "logsnr"):
        grid = make_grid(process, calls, GridOptions(spacing=spacing))
        node = grid.nodes[0]
        start = other * (node.alpha**2 * SCALES**2 + node.sigma**2).sqrt()
        for method in (AdamsBashforth(order=1), AdamsBashforth(order=2), ExponentialAdams(order=2)):
            rivals[spacing, method.name, method.order] = rms(
                run(network(process, SCALES), method, process, grid, start).sample - exact
            )
    assert ours < 0.5 * min(rivals.values()), rivals


def test_refinement_never_makes_it_worse_and_its_error_is_that_of_the_run():
    go = runner(VP, noise(24, 6))
    path = record(go, VP, *RANGES["vp"], 61)
    coarse = tune(go, VP, path, 5, rounds=0)
    fine = tune(go, VP, path, 5, rounds=2)
    assert fine.error <= coarse.error
    again = rms(go(Tuned((fine.table,), (fine.gains,)), fine.levels, fine.timesteps) - path.end)
    assert again == pytest.approx(fine.error, rel=1e-6)
    assert fine.calls > coarse.calls > 0


def test_levels_alone_can_be_placed_for_any_method():
    go = runner(VP, noise(24, 7))
    path = record(go, VP, *RANGES["vp"], 61)
    method = ExponentialAdams(order=2)
    found = tune(go, VP, path, 6, method=method, rounds=2)
    assert found.table == ()
    named = make_grid(VP, 6, GridOptions(spacing="karras"))
    levels = [VP.sigma_of(node) for node in named.nodes[:-1]]
    assert rms(go(method, found.levels) - path.end) < rms(go(method, levels) - path.end)


def test_an_empty_table_is_adams_bashforth_2_and_a_foreign_grid_too():
    z = noise(4, 8)
    grid = make_grid(VP, 9, GridOptions(spacing="karras"))
    plain = run(network(VP, SCALES), AdamsBashforth(order=2, weights="variable"), VP, grid, z).sample
    for table in ((), (((3.0,), (2.0, 0.1), (1.0, 0.1, 0.1)),)):
        assert torch.equal(run(network(VP, SCALES), Tuned(table), VP, grid, z).sample, plain)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_gain_scales_the_way_that_a_step_goes(process):
    """In x_bar = x / scale a step by g f is g times as long as one by f; a gain of 1 changes no bit."""
    levels = (0.9, 0.6, 0.3) if process.slope_mix else (9.0, 3.0, 1.0)
    grid, z = grid_of(process, levels), noise(3, 10)
    scale, scale_to = (slope_coordinate(process, node)[0] for node in grid.nodes[:2])
    rows = tuple((slope_coordinate(process, node)[1],) for node in grid.nodes[:-1])
    prediction = network(process, SCALES)(z, grid.nodes[0].timestep)

    def first(gain: float) -> torch.Tensor:
        method = Tuned((rows,), ((gain, 1.0, 1.0),))
        return method.step(method.plan(process, grid), 0, z, prediction)[0] / scale_to

    way = first(1.0) - z / scale
    torch.testing.assert_close(first(0.7) - z / scale, 0.7 * way, rtol=1e-5, atol=1e-6)
    plain = Tuned((rows,))
    assert torch.equal(first(1.0), plain.step(plain.plan(process, grid), 0, z, prediction)[0] / scale_to)


def test_a_run_that_starts_in_the_middle_keeps_the_weights_whose_history_it_has():
    levels = (10.0, 5.0, 2.0, 1.0)
    rows = tuple((s, *w) for s, w in zip(levels, ((), (-0.3,), (-0.4, -0.1), (-0.5, 0.2)), strict=True))
    method = Tuned((rows,))
    process = EDM(prediction="edm") if "prediction" in EDM.__dataclass_fields__ else EDM()
    grid = grid_of(process, levels)
    assert method.weights(process, grid) == ([1.0] * 4, [[], [-0.3], [-0.4, -0.1], [-0.5, 0.2]])
    tail = method.weights(process, grid.tail(1))[1]
    with_gains = Tuned((rows,), ((0.9, 0.8, 0.7, 0.6),))
    assert with_gains.weights(process, grid.tail(1))[0] == [0.8, 0.7, 0.6]
    assert with_gains.weights(process, grid_of(process, (9.0, 5.0)))[0] == [1.0, 1.0]
    assert tail[0] == []
    assert tail[1] == pytest.approx([-(2.0 - 1.0) / (2 * (5.0 - 2.0))])  # Adams-Bashforth on unequal steps
    assert tail[2] == [-0.5, 0.2]


def test_bad_tables_and_bad_requests_are_sentences():
    for table, words in (
        ((((1.0,), (2.0,)),), "must decrease"),
        ((((1.0, 0.1),),), "more weights than there are calls"),
        ((((math.nan,),),), "finite"),
        ("ab", "list of runs"),
    ):
        with pytest.raises(ValueError, match=words):
            Tuned(table)
    rows = ((2.0,), (1.0, 0.1))
    for gains, words in (
        (((1.0,),), "one number for every row"),
        (((1.0, math.inf),), "finite"),
        ("a", "list of runs"),
    ):
        with pytest.raises(ValueError, match=words):
            Tuned((rows,), gains)
    go = runner(VP, noise(4, 9))
    with pytest.raises(ValueError, match="at least 8"):
        record(go, VP, 10.0, 0.1, 4)
    path = record(go, VP, *RANGES["vp"], 20)
    with pytest.raises(ValueError, match="between 1 and 10"):
        best_levels(path, local_errors(path), 11)


def test_the_loss_is_square_inside_and_a_logarithm_outside():
    """At one sample: e^2 (1 - e^2 / 2 + ...) below the knee, log(e^2) far above it; twice the weight is its slope."""
    for e in (1e-3, 1e-2):
        assert cauchy(torch.tensor([[0.6 * e, 0.8 * e]]).double(), 1.0) ** 2 == pytest.approx(e**2 - e**4 / 2, rel=1e-6)
    assert cauchy(torch.tensor([[0.0, 1e6]]).double(), 2.0) ** 2 == pytest.approx(8 * math.log(5e5), rel=1e-6)
    off = noise(20, 9)
    assert cauchy(off, math.inf) == pytest.approx(float(off.norm()))
    e = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(4 * (e.square().sum() / 4).log1p(), e)
    weight = trusted(e.detach(), torch.ones(1, 1, 1), 2.0)
    assert float(slope) == pytest.approx(2 * 3 * float(weight))


def test_outliers_count_less_and_a_sample_at_a_fork_not_at_all():
    off = torch.tensor([[1.0], [1.0], [1.0], [20.0]], dtype=torch.float64)
    assert knee_of(off) == 4
    smooth = torch.tensor([1.0, 0.9, 1.1, 1.0]).reshape(1, 4, 1)
    usual, outlier = 16 / 17, 1 / 26
    assert trusted(off, smooth, 4.0).tolist() == pytest.approx([usual, usual, usual, outlier])
    forked = torch.cat([smooth, torch.tensor([1.0, 500.0, 1.0, 2.0]).reshape(1, 4, 1)])
    assert trusted(off, forked, 4.0).tolist() == pytest.approx([usual, 0, usual, outlier])


def test_one_sample_that_jumps_does_not_spoil_the_refinement():
    """A sample that ends elsewhere at the slightest change: the others come out as well as without it."""
    z = noise(24, 8)
    clean = runner(VP, z)
    path = record(clean, VP, *RANGES["vp"], 61)
    changes = itertools.count()

    def jumpy(method, levels, timesteps=None):
        end = clean(method, levels, timesteps).clone()
        end[3] += 40.0 * (-1) ** next(changes)
        return end

    others = [k for k in range(24) if k != 3]

    def left(found):
        run_of = Tuned((found.table,), (found.gains,))
        return rms((clean(run_of, found.levels, found.timesteps) - path.end)[others])

    start, calm, jumping = tune(clean, VP, path, 5, rounds=0), tune(clean, VP, path, 5), tune(jumpy, VP, path, 5)
    assert left(calm) < 0.5 * left(start)
    assert left(jumping) < 1e-3 * left(start), (left(start), left(calm), left(jumping))
