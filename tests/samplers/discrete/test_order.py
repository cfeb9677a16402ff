"""Low-discrepancy order of reveals: how far places stand apart, and the exact law of runs that use it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from fewstep.samplers.discrete import MaskedProcess, TokenAdamsBashforth, Tweedie, run_tokens, spread_order
from fewstep.samplers.discrete.law import (
    law_of_run,
    law_of_spread_run,
    masked_conditionals,
    sequences,
    total_variation,
)
from fewstep.samplers.discrete.order import ratios

SPREAD = Tweedie(reveals="spread")


def chain(strength, length=4, values=3):
    """Uniform first token; (1 - s) / V everywhere plus s on the next value, cyclic."""
    step = torch.full((values, values), (1 - strength) / values, dtype=torch.float64)
    step += strength * torch.eye(values, dtype=torch.float64).roll(1, 1)
    law = torch.full((values,), 1 / values, dtype=torch.float64)
    for _ in range(length - 1):
        law = law[..., None] * step
    return law


def shifts(count=997):
    return torch.arange(count, dtype=torch.float64) / count


def first_reveals(length, calls, rows=64, shape=None, method=SPREAD):
    """Places that the first of so many calls reveals, (rows, L) bool."""
    seen = []
    plan = method.plan(MaskedProcess(mask=2), calls=calls)
    run_tokens(
        lambda x, t: torch.zeros(*x.shape, 2),
        plan,
        torch.full((rows, length), 2),
        torch.Generator().manual_seed(3),
        callback=lambda i, call, tokens: seen.append(tokens != 2),
        shape=shape,
    )
    return seen[0]


def test_ratios_are_golden_and_plastic():
    assert ratios(1) == pytest.approx([(math.sqrt(5) - 1) / 2], abs=1e-15)
    plastic = 1.324717957244746
    assert ratios(2) == pytest.approx([1 / plastic, 1 / plastic**2], abs=1e-14)
    with pytest.raises(ValueError, match="at least one axis"):
        ratios(0)


@pytest.mark.parametrize(("part", "gap"), [(4, 2), (8, 5), (16, 8), (32, 21), (64, 34)])
def test_places_revealed_together_are_a_fibonacci_number_apart(part, gap):
    """The smallest F with |F / 1.618 - nearest whole number| < 1 / part."""
    fraction = 2 / (1 + math.sqrt(5))
    assert gap == next(n for n in range(1, 100) if abs(n * fraction - round(n * fraction)) < 1 / part)
    early = spread_order((256,), shifts()) < 1 / part
    nearest = min(int(row.nonzero()[:, 0].diff().min()) for row in early)
    assert nearest == gap


def test_no_neighbours_of_a_picture_are_revealed_together():
    order = spread_order((16, 16), shifts(61)).reshape(-1, 16, 16)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        gap = (order - order.roll((-down, -right), (1, 2)))[:, :-1, 1:-1]
        assert torch.minimum(gap % 1, -gap % 1).min() > 0.185
    assert first_reveals(256, 8, shape=(16, 16)).sum(1).tolist() == [32] * 64


def test_every_place_is_as_likely_as_another_to_be_early():
    """The share of shifts for which a place comes among the first quarter is a quarter, as for independent draws."""
    share = (spread_order((40,), shifts(10_000)) < 0.25).double().mean(0)
    torch.testing.assert_close(share, torch.full((40,), 0.25, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", [SPREAD, TokenAdamsBashforth()], ids=lambda m: m.name)
def test_a_run_reveals_places_far_apart_and_every_sequence_its_own(method):
    first = first_reveals(256, 16, method=method)
    assert first.sum(1).tolist() == [16] * 64
    assert min(int(row.nonzero()[:, 0].diff().min()) for row in first) >= 8
    assert len({tuple(row.nonzero()[:, 0].tolist()) for row in first}) > 50


@pytest.mark.parametrize("strength", [0.4, 0.99])
def test_one_token_a_call_is_exact_in_every_order(strength):
    data = chain(strength)
    plan = SPREAD.plan(MaskedProcess(mask=3), calls=4)
    for order in ([0.1, 0.7, 0.3, 0.5], [0.9, 0.2, 0.4, 0.1]):
        law = law_of_run(plan, masked_conditionals(data), 4, 3, torch.tensor(order, dtype=torch.float64))
        assert total_variation(law, data) < 1e-12
    assert total_variation(law_of_spread_run(plan, masked_conditionals(data), 4, 3), data) < 1e-12


@pytest.mark.parametrize("strength", [0.4, 0.8])
@pytest.mark.parametrize("calls", [2, 3])
def test_on_chains_it_is_nearer_to_the_law_than_balanced_and_independent_reveals(strength, calls):
    """Where dependence falls off with distance; at s = 0.99 all of six tokens depend on each other, and it does not."""
    data = chain(strength, 6, 2)
    process, denoiser = MaskedProcess(mask=2), masked_conditionals(data)
    spread = total_variation(law_of_spread_run(SPREAD.plan(process, calls=calls), denoiser, 6, 2), data)
    for reveals in ("balanced", "independent"):
        other = law_of_run(Tweedie(reveals=reveals).plan(process, calls=calls), denoiser, 6, 2)
        assert spread < total_variation(other, data)


def test_sampled_runs_have_the_exact_law():
    """Chi-square over the 81 sequences at a false-alarm rate of 1e-5."""
    data = chain(0.7)
    process, denoiser = MaskedProcess(mask=3), masked_conditionals(data)
    plan = SPREAD.plan(process, calls=3)
    expected = law_of_spread_run(plan, denoiser, 4, 3).reshape(-1) * 20_000
    result = run_tokens(
        lambda x, t: denoiser(x, t).log(), plan, torch.full((20_000, 4), 3), torch.Generator().manual_seed(0)
    )
    seen = torch.bincount((result.tokens * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).double()
    assert expected.min() > 5
    assert stats.chisquare(seen.numpy(), (expected * seen.sum() / expected.sum()).numpy()).pvalue > 1e-5


def test_what_cannot_be_is_a_sentence():
    with pytest.raises(ValueError, match=r"16 tokens do not have the shape \(3, 5\)"):
        first_reveals(16, 4, shape=(3, 5))
    plan = SPREAD.plan(MaskedProcess(mask=2), calls=2)
    with pytest.raises(ValueError, match="given their order"):
        law_of_run(plan, masked_conditionals(chain(0.4, 3, 2)), 3, 2)
    assert len(sequences(MaskedProcess(mask=2), 3, 2)) == 27
    with pytest.raises(ValueError, match="reveals"):
        Tweedie(reveals="far")
