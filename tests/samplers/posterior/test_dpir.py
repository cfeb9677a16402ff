"""DPIR against closed forms: the posterior mean of a Gaussian prior, and its own fixed point."""

from __future__ import annotations

import pytest
import torch

from fewstep.samplers import generators, make_grid
from fewstep.samplers.core import oracle
from fewstep.samplers.posterior import posterior_method, run_posterior
from fewstep.samplers.posterior.inset import inset
from fewstep.samplers.posterior.operators import AveragePool, Dense, GaussianBlur, Identity, Mask
from fewstep.samplers.posterior.prior import turned, turned_back
from problems import PROCESSES

SIDE, DEVIATION = 8, 0.4
MEAN = 0.5 * torch.randn(3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
DRAWN = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CLEAN = MEAN.view(3, SIDE, SIDE) + DEVIATION * DRAWN


def solve(method, operator, y, steps, kind="vp", sigma_y=0.0, **options):
    process = PROCESSES[kind]()
    network = oracle.gaussian(process, MEAN, DEVIATION)
    grid = make_grid(process, steps)
    return run_posterior(network, method, process, grid, operator, y, sigma_y=sigma_y, **options)


@pytest.mark.parametrize("kind", ["vp", "flow", "edm"])
def test_one_call_without_a_blur_is_the_posterior_mean(kind):
    y = CLEAN + 0.3 * DRAWN.flip(0)
    found = solve(posterior_method("dpir"), Identity(), y, 1, kind, 0.3)
    share = DEVIATION**2 / (DEVIATION**2 + 0.3**2)
    expected = MEAN.view(3, SIDE, SIDE) * (1 - share) + share * y
    # the noise levels of a discrete process are interpolated in the logarithm, which a timestep undoes to rounding
    torch.testing.assert_close(found.sample, expected, rtol=1e-6, atol=1e-6)
    assert (found.forward, found.backward) == (1, 0)


def test_a_picture_on_a_larger_canvas_is_denoised_as_it_is_alone():
    y = (CLEAN + 0.3 * DRAWN.flip(0))[..., :6, :7]
    operator = inset(Identity(), (6, 7), (SIDE, SIDE))
    found = solve(posterior_method("dpir"), operator, y, 1, sigma_y=0.3, shape=(3, SIDE, SIDE))
    share = DEVIATION**2 / (DEVIATION**2 + 0.3**2)
    expected = MEAN.view(3, SIDE, SIDE)[..., :6, :7] * (1 - share) + share * y
    torch.testing.assert_close(found.sample[..., :6, :7], expected, rtol=1e-6, atol=1e-6)


def test_more_calls_change_nothing_where_one_says_all():
    y = CLEAN + 0.3 * DRAWN.flip(0)
    one, four = (solve(posterior_method("dpir"), Identity(), y, n, sigma_y=0.3).sample for n in (1, 4))
    assert torch.equal(one, four)


@pytest.mark.parametrize(("weight", "sigma_y"), [(0.23, 0.2), (1.0, 0.2), (1.0, 0.5)])
def test_at_one_noise_level_it_converges_to_the_fixed_point_of_both_steps(weight, sigma_y):
    """It ends with the fit to the data where they are more exact than the last level, otherwise with the network."""
    matrix = torch.randn(40, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 8
    operator, s = Dense(matrix, (3, SIDE, SIDE)), 0.5
    y = operator.A(CLEAN)
    method = posterior_method("dpir", strongest=s, weakest=s, prior_weight=weight)
    found = solve(method, operator, y, 150, sigma_y=sigma_y, shape=(3, SIDE, SIDE)).sample.flatten(1)
    keep = DEVIATION**2 / (DEVIATION**2 + s**2)  # z = keep x + (1 - keep) mean
    rho = weight / s**2
    identity = torch.eye(matrix.shape[1], dtype=torch.float64)
    left = matrix.T @ matrix / sigma_y**2 + rho * (1 - keep) * identity
    right = y.flatten(1) @ matrix / sigma_y**2 + rho * (1 - keep) * MEAN
    x = torch.linalg.solve(left, right.T).T
    # what is left after n steps is at most keep^n of the start: keep = 0.39
    expected = x if sigma_y < s else keep * x + (1 - keep) * MEAN
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("operator", [AveragePool(2, (SIDE, SIDE)), Mask(DRAWN[0, 0] > 0)], ids=["pool", "mask"])
def test_without_noise_the_data_are_met(operator):
    y = operator.A(CLEAN)
    found = solve(posterior_method("dpir"), operator, y, 5)
    torch.testing.assert_close(operator.A(found.sample), y, rtol=1e-9, atol=1e-9)
    error = (found.sample - CLEAN).square().mean()
    assert error < (operator.A_dagger(y) - CLEAN).square().mean()


def test_relaxation_leads_to_the_same_picture_sooner():
    known = Mask(DRAWN[0, 0] > 0)
    y = known.A(CLEAN)

    def ending(steps, relaxation):
        method = posterior_method("dpir", strongest=0.4, weakest=0.4, relaxation=relaxation)
        return solve(method, known, y, steps).sample

    # with weight 1/2 of the prior a call leaves half of the way, and with relaxation 1.5 a quarter; the prior's mean is
    # where missing pixels belong
    end = torch.where(known.mask.like(y) > 0, y, MEAN.view(3, SIDE, SIDE).expand_as(y))
    torch.testing.assert_close(ending(60, 1.0), end, atol=1e-9, rtol=0)
    torch.testing.assert_close(ending(40, 1.5), end, atol=1e-9, rtol=0)
    assert (ending(6, 1.5) - end).abs().max() < 0.1 * (ending(6, 1.0) - end).abs().max()


def test_the_seed_does_not_matter():
    operator = GaussianBlur((SIDE, SIDE), 1.0, 5)
    y = operator.A(CLEAN) + 0.05 * DRAWN.flip(0)
    pair = [
        solve(posterior_method("dpir"), operator, y, 4, sigma_y=0.05, generator=generators(seeds)).sample
        for seeds in ([0, 1], [2, 3])
    ]
    assert torch.equal(*pair)


def test_missing_pixels_start_from_the_mean_of_the_known():
    known = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    known[:, :3] = 1
    problem_y = Mask(known).A(torch.full((1, 3, SIDE, SIDE), 0.7, dtype=torch.float64))
    seen = []

    def network(x, timestep):
        seen.append(x)
        return torch.zeros_like(x)

    process = PROCESSES["vp"]()
    run_posterior(network, posterior_method("dpir"), process, make_grid(process, 1), Mask(known), problem_y)
    torch.testing.assert_close(seen[0] / seen[0][0, 0, 0, 0], torch.ones_like(problem_y))


@pytest.mark.parametrize("field", ["strongest", "weakest", "prior_weight"])
def test_levels_and_weights_are_above_zero(field):
    with pytest.raises(ValueError, match=field):
        posterior_method("dpir", **{field: 0.0})


def across(x: torch.Tensor) -> torch.Tensor:
    """The mean of a pixel and the one right of it, round the back: a network to which left and right are not alike."""
    return (x + x.roll(-1, -1)) / 2


def sideways(process):
    """A network of eps whose clean estimate is `across` of the sample over alpha."""

    def network(x, timestep):
        node = process.at(timestep)
        return (x - across(x)) / node.sigma

    return network


def test_the_eight_ways_to_see_a_square_are_those_of_its_symmetry_group():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    seen = [turned(x, turn) for turn in range(8)]
    group = [torch.rot90(y, k, (-2, -1)) for y in (x, x.flip(-1)) for k in range(4)]
    assert {tuple(y.flatten().tolist()) for y in seen} == {tuple(y.flatten().tolist()) for y in group}
    assert torch.equal(seen[0], x)
    assert all(torch.equal(turned_back(y, turn), x) for turn, y in enumerate(seen))
    wide = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert all(turned(wide, turn).shape == wide.shape for turn in range(4))


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, 6)])
def test_turned_denoising_is_the_mean_over_all_ways_to_see_the_picture(shape):
    """By the symmetry of `across`: its mean over left and right, and of square pictures over up and down, too."""
    process = PROCESSES["vp"]()
    y = DRAWN[:1, :, :, : shape[1]]
    ways = [y] + [y.roll(k, side) for side in ((-1,) if shape[0] != shape[1] else (-1, -2)) for k in (1, -1)]
    expected = y / 2 + sum(ways[1:]) / len(ways[1:]) / 2
    calls = 8 if shape[0] == shape[1] else 4
    method = posterior_method("dpir", turns=True)
    grid = make_grid(process, calls)
    found = run_posterior(sideways(process), method, process, grid, Identity(), y, sigma_y=0.3)
    # a discrete process interpolates its noise levels in the logarithm
    torch.testing.assert_close(found.sample, expected, rtol=1e-6, atol=1e-6)
    assert found.forward == calls


def test_turning_changes_nothing_for_a_network_to_which_no_way_is_up():
    process, known = PROCESSES["vp"](), Mask(DRAWN[0, 0] > 0)
    y = known.A(CLEAN)
    network = oracle.gaussian(process, torch.full((3 * SIDE * SIDE,), 0.2, dtype=torch.float64), DEVIATION)
    pair = [
        run_posterior(network, posterior_method("dpir", turns=turns), process, make_grid(process, 5), known, y).sample
        for turns in (False, True)
    ]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
