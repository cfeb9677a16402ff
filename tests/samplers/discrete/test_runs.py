"""Sampled runs against their exact laws, their mask counts, and the calls they make."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from fewstep.samplers.discrete import (
    ConfidenceDecoding,
    Draws,
    Euler,
    FirstHitting,
    LinearMask,
    MaskedProcess,
    Reading,
    Shaping,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
    TokenAdamsBashforth,
    Tweedie,
    Uniformization,
    UniformProcess,
    advance,
    run_tokens,
)
from fewstep.samplers.discrete.law import law_of_run, masked_conditionals, uniform_conditionals

N = 20_000
METHODS = [
    Tweedie(),
    Tweedie(reveals="balanced"),
    TauLeaping(conflict="reject"),
    ThetaRK2(theta=0.7),
    ThetaTrapezoidal(stage_probability="rate"),
    ThetaTrapezoidal(theta=0.4),
    TokenAdamsBashforth(lag=1, reveals="independent"),
    TokenAdamsBashforth(lag=2, reveals="independent"),
    FirstHitting(),
]


def chain(strength, length=3, values=3):
    step = torch.full((values, values), (1 - strength) / values, dtype=torch.float64)
    step += strength * torch.eye(values, dtype=torch.float64).roll(1, 1)
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    for _ in range(length - 1):
        law = law[..., None] * step
    return law


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def goodness(tokens, law):
    """p-value of the sampled sequences under a law, (V,) * L; values of small expectation are pooled."""
    values, length = law.shape[0], law.ndim
    powers = values ** torch.arange(length - 1, -1, -1)
    seen = torch.bincount((tokens * powers).sum(1), minlength=values**length).double()
    expected = law.reshape(-1) * len(tokens)
    small = expected < 10
    if small.any():
        seen = torch.cat([seen[~small], seen[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    return stats.chisquare(seen.numpy(), (expected * seen.sum() / expected.sum()).numpy()).pvalue


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_sampled_masked_runs_have_the_exact_law_of_their_method(method):
    """Chi-square over the 27 sequences at a false-alarm rate of 1e-5 a case."""
    data = chain(0.7)
    process, denoiser = MaskedProcess(mask=3), masked_conditionals(data)
    plan = method.plan(process, calls=3 if method.stages == 1 else 4)
    law = law_of_run(plan, denoiser, 3, 3)
    result = run_tokens(lambda x, t: denoiser(x, t).log(), plan, torch.full((N, 3), 3), seeded())
    assert goodness(result.tokens, law) > 1e-5


@pytest.mark.parametrize(
    "method",
    [Euler(), TauLeaping(), Tweedie(), ThetaRK2(), ThetaTrapezoidal(), TokenAdamsBashforth()],
    ids=lambda m: m.name,
)
def test_sampled_uniform_runs_have_the_exact_law_of_their_method(method):
    data = chain(0.5, 2)
    process = UniformProcess()
    denoiser = uniform_conditionals(data, process)
    if isinstance(method, TokenAdamsBashforth):
        law_method = TokenAdamsBashforth(lag=1, reveals="independent")
    else:
        law_method = method
    law = law_of_run(law_method.plan(process, calls=5), denoiser, 2, 3)
    start = torch.randint(0, 3, (N, 2), generator=seeded(5))
    plan = method.plan(process, calls=5)
    result = run_tokens(lambda x, t: denoiser(x, t).log(), plan, start, seeded())
    assert goodness(result.tokens, law) > 1e-5


def test_as_many_calls_as_masks_is_one_token_a_call_and_exact():
    data = chain(0.95)
    denoiser = masked_conditionals(data)
    plan = TokenAdamsBashforth().plan(MaskedProcess(mask=3), calls=3)
    masks = []
    result = run_tokens(
        lambda x, t: denoiser(x, t).log(), plan, torch.full((N, 3), 3), seeded(),
        callback=lambda i, call, x: masks.append((x == 3).sum(1)),
    )  # fmt: skip
    assert [m.unique().tolist() for m in masks] == [[2], [1], [0]]
    assert goodness(result.tokens, data) > 1e-5


def test_given_tokens_stay_and_revealed_ones_never_change():
    denoiser = masked_conditionals(chain(0.5))
    start = torch.full((500, 3), 3)
    start[:, 1] = 2
    for method in METHODS:
        seen = [start]
        plan = method.plan(MaskedProcess(mask=3), calls=5)
        out = run_tokens(
            lambda x, t: denoiser(x, t).log(), plan, start, seeded(), callback=lambda i, c, x, seen=seen: seen.append(x)
        ).tokens
        assert bool((out[:, 1] == 2).all())
        assert int(out.max()) < 3
        if not method.restarts:
            for before, after in pairwise(seen):
                assert bool(((before == 3) | (before == after)).all())


def test_given_tokens_of_uniform_noise_stay():
    process = UniformProcess()
    denoiser = uniform_conditionals(chain(0.5), process)
    start = torch.randint(0, 3, (200, 3), generator=seeded())
    editable = torch.tensor([True, False, True])
    plan = ThetaTrapezoidal().plan(process, calls=4)
    out = run_tokens(lambda x, t: denoiser(x, t).log(), plan, start, seeded(), editable=editable).tokens
    assert torch.equal(out[:, 1], start[:, 1])
    assert not torch.equal(out[:, 0], start[:, 0])


@pytest.mark.parametrize("exact", [True, False])
def test_mean_mask_ratio_after_a_step_is_the_closed_form(exact):
    """40 000 tokens, within 5 standard errors."""
    theta, process = 0.4, MaskedProcess(mask=4)
    method = ThetaTrapezoidal(theta=theta, stage_probability="exact" if exact else "rate")
    plan = method.plan(process, steps=4)
    x, state = torch.full((40, 1000), 4), None
    logits = torch.zeros(40, 1000, 4)
    for i in range(4):
        x, state = advance(plan, i, x, logits, state)
        if i % 2 == 0:
            continue
        s, rho, e = plan.calls[i].start, plan.calls[i].time, plan.calls[i].end
        if exact:
            expected = e
        else:
            w = 1 / (2 * theta)
            step = math.exp(-(s - e) * ((1 - w) / s + w / rho))
            expected = step if i == 1 else expected * step
        assert (x == 4).double().mean().item() == pytest.approx(expected, abs=5 * 0.5 / 200)


def test_no_call_is_made_where_nothing_changed():
    data, made = chain(0.5), []
    denoiser = masked_conditionals(data)

    def network(x, t):
        made.append(len(x))
        return denoiser(x, t).log()

    plan = ThetaTrapezoidal().plan(MaskedProcess(mask=3), steps=32)
    start, count = torch.full((1, 3), 3), len(plan.calls)
    skipping = run_tokens(network, plan, start, seeded(1), time_aware=False)
    assert skipping.calls == len(made) <= 4  # three tokens: at most one call before the first and after each of two
    assert skipping.calls + skipping.skipped == count == 64
    made.clear()
    plain = run_tokens(network, plan, start, seeded(1), time_aware=True)
    assert torch.equal(plain.tokens, skipping.tokens)
    assert plain.calls > 4
    made.clear()
    split = run_tokens(network, plan, torch.full((50, 3), 3), seeded(1), time_aware=False, split=True)
    whole = run_tokens(network, plan, torch.full((50, 3), 3), seeded(1), time_aware=False)
    assert torch.equal(split.tokens, whole.tokens)
    assert split.sequences < whole.sequences / 3


def test_a_run_from_the_middle_of_a_step_takes_the_conditional():
    """Started at a corrector without a predictor: the share left is m_e / m_rho. 40 000 tokens, 5 standard errors."""
    plan = ThetaTrapezoidal().plan(MaskedProcess(mask=4), steps=2)
    x, state = advance(plan, 1, torch.full((40, 1000), 4), torch.zeros(40, 1000, 4))
    assert (x == 4).double().mean().item() == pytest.approx(0.5 / 0.75, abs=5 * 0.5 / 200)
    assert not state.past


def test_tokens_masked_again_by_a_pipeline_are_drawn_from_the_present_law():
    """As when a finished sequence of a block is not written back: what was kept no longer covers every mask."""
    logits = torch.tensor([2.0, 1.0, 0.0]).expand(64, 40, 3)
    law = torch.softmax(logits[0, 0].double(), -1)
    for method in (ThetaTrapezoidal(), ThetaRK2(), TokenAdamsBashforth(), ThetaTrapezoidal(stage_probability="rate")):
        plan = method.plan(MaskedProcess(mask=3), calls=4)
        x, state = torch.full((64, 40), 3), None
        for i in range(4):
            if i in (1, 3):
                x[::2] = 3
            x, state = advance(plan, i, x, logits, state, Draws(seeded(i)))
        filled = x[x < 3]
        share = torch.bincount(filled, minlength=3) / len(filled)
        assert bool(((share - law).abs() < 5 * (law * (1 - law) / len(filled)).sqrt()).all())


def test_auto_lag_grows_where_mass_is_clamped_and_not_where_it_is_not():
    for strength, grows in ((0.2, False), (0.9, True)):
        data = chain(strength, 4)
        denoiser = masked_conditionals(data)
        plan = TokenAdamsBashforth(reveals="independent").plan(MaskedProcess(mask=3), calls=6)
        x, state = torch.full((200, 4), 3), None
        for i in range(4):
            x, state = advance(plan, i, x, denoiser(x, 0.0).log(), state)
        assert (int(state.lag.max()) > 1) == grows


def test_temperature_and_nucleus_act_at_both_stages():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(64, 50, 4)
    plan = ThetaTrapezoidal().plan(MaskedProcess(mask=4), steps=2)
    reading = Reading(shaping=Shaping(top_p=0.7))
    out = run_tokens(lambda x, t: logits, plan, torch.full((64, 50), 4), seeded(), reading).tokens
    assert int(out.max()) <= 1
    p = torch.softmax(logits[0, 0, :2].double(), -1)
    assert (out == 0).double().mean().item() == pytest.approx(p[0].item(), abs=5 * 0.5 / math.sqrt(3200))


def test_uniformization_has_the_law_of_the_data():
    """1200 sequences of one token and 400 of two masks, chi-square at 1e-5."""
    p0, process = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), UniformProcess(LinearMask())
    den = uniform_conditionals(p0, process)
    method, g, out = Uniformization(blocks=6, end=0.02), seeded(), []
    for start in torch.randint(0, 3, (1200, 1), generator=seeded(3)):
        tokens, calls = method.sample(lambda x, t: den(x, t).log(), process, start, g, start=0.99, values=3)
        out.append(tokens)
        assert calls >= 1
    assert goodness(torch.stack(out), p0) > 1e-5
    data, masks = chain(0.8, 2), MaskedProcess(mask=3)
    conditionals = masked_conditionals(data)
    out = [method.sample(lambda x, t: conditionals(x, t).log(), masks, torch.full((2,), 3), g)[0] for _ in range(400)]
    assert goodness(torch.stack(out), data) > 1e-5


def test_confidence_decoding_is_biased_even_at_one_token_a_call():
    data = chain(0.4, 4)
    denoiser = masked_conditionals(data)
    powers = 3 ** torch.arange(3, -1, -1)
    found = {}
    for temperature in (0.0, 4.5):
        tokens, calls = ConfidenceDecoding(temperature).sample(
            lambda x, t: denoiser(x, t).log(), MaskedProcess(mask=3), torch.full((N, 4), 3), 4, seeded()
        )
        assert calls == 4
        assert int(tokens.max()) < 3
        share = torch.bincount((tokens * powers).sum(1), minlength=81) / N
        found[temperature] = 0.5 * (share - data.reshape(-1)).abs().sum().item()
    floor = 0.5 * (2 * data * (1 - data) / (math.pi * N)).sqrt().sum().item()
    assert found[0.0] > 10 * floor
    assert found[4.5] > 2 * floor
    assert found[0.0] > 2 * found[4.5]


def _long_chain(strength, length, values):
    """(neighbour law, denoiser) of a long stationary chain: p from the nearest revealed tokens at both sides."""
    step = torch.full((values, values), (1 - strength) / values, dtype=torch.float64)
    step += strength * torch.eye(values, dtype=torch.float64).roll(1, 1)
    powers = torch.stack([torch.linalg.matrix_power(step, d) for d in range(length + 1)])
    place = torch.arange(length)

    def denoiser(x, t):
        known = x != values
        last = torch.where(known, place, -1).cummax(1).values
        following = torch.where(known, place, length).flip(1).cummin(1).values.flip(1)
        a = x.gather(1, last.clamp_min(0)).clamp_max(values - 1)
        b = x.gather(1, following.clamp_max(length - 1)).clamp_max(values - 1)
        left = torch.where((last >= 0)[..., None], powers[place - last.clamp_min(0), a], 1 / values)
        right = (
            powers[(following - place).clamp_max(length)]
            .transpose(2, 3)
            .gather(2, b[..., None, None].expand(*b.shape, 1, values))[..., 0, :]
        )
        p = left * torch.where((following < length)[..., None], right, 1.0)
        return torch.log(p / p.sum(-1, keepdim=True))

    return step / values, denoiser


def test_auto_lag_wins_at_equal_calls_on_long_dependent_sequences():
    """Law of neighbours, 300 sequences of 48 tokens at 8 calls, 6 tokens a call; the sampling floor is about 0.015."""
    law, denoiser = _long_chain(0.8, 48, 6)
    found = {}
    for name, method in (("tweedie", Tweedie()), ("exact", ThetaTrapezoidal()), ("auto", TokenAdamsBashforth())):
        plan = method.plan(MaskedProcess(mask=6), calls=8)
        x = run_tokens(denoiser, plan, torch.full((300, 48), 6), seeded()).tokens
        seen = torch.bincount((x[:, :-1] * 6 + x[:, 1:]).flatten(), minlength=36).double()
        found[name] = 0.5 * (seen / seen.sum() - law.reshape(-1)).abs().sum().item()
    assert found["auto"] < 0.7 * found["exact"] < 0.5 * found["tweedie"]
