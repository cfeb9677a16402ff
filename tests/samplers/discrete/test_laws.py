"""Exact laws: every solver's law is evolved without sampling and compared with the data's and with reference tables."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.samplers.discrete import (
    Euler,
    FirstHitting,
    MaskedProcess,
    TauLeaping,
    ThetaRK2,
    ThetaTrapezoidal,
    TokenAdamsBashforth,
    TokenGrid,
    Tweedie,
    UniformProcess,
    noise_schedule,
)
from fewstep.samplers.discrete.law import (
    law_of_run,
    masked_conditionals,
    sequences,
    total_variation,
    uniform_conditionals,
)

RATE, REJECT, EXACT = (
    ThetaTrapezoidal(stage_probability="rate"),
    ThetaTrapezoidal(stage_probability="rate", conflict="reject"),
    ThetaTrapezoidal(),
)


def adams(lag):
    return TokenAdamsBashforth(lag=lag, reveals="independent")


def chain(strength, length=4, values=4):
    """Uniform first token; (1 - s) / V everywhere plus s on the next value, cyclic."""
    step = torch.full((values, values), (1 - strength) / values, dtype=torch.float64)
    step += strength * torch.eye(values, dtype=torch.float64).roll(1, 1)
    law = torch.full((values,), 1 / values, dtype=torch.float64)
    for _ in range(length - 1):
        law = law[..., None] * step
    return law


def distance(method, data, **count):
    process = MaskedProcess(mask=data.shape[0])
    plan = method.plan(process, **count)
    law = law_of_run(plan, masked_conditionals(data), data.ndim, data.shape[0])
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    assert law.min().item() >= 0
    return total_variation(law, data)


@pytest.mark.parametrize(
    ("method", "strength", "steps", "expected"),
    [
        (Tweedie(), 0.2, 8, 2.66e-2),
        (Tweedie(), 0.2, 32, 6.71e-3),
        (Euler(), 0.8, 16, 6.24e-2),
        (TauLeaping(), 0.2, 8, 2.43e-2),
        (TauLeaping(), 0.4, 16, 2.70e-2),
        (TauLeaping(), 0.8, 32, 3.10e-2),
        (ThetaRK2(), 0.2, 4, 4.25e-2),
        (ThetaRK2(), 0.8, 4, 1.61e-1),
        (RATE, 0.2, 4, 9.73e-3),
        (RATE, 0.2, 8, 3.39e-3),
        (RATE, 0.4, 4, 1.98e-2),
        (RATE, 0.8, 4, 6.45e-2),
        (REJECT, 0.4, 4, 2.29e-2),
        (EXACT, 0.2, 4, 5.81e-4),
        (EXACT, 0.2, 8, 1.44e-4),
        (EXACT, 0.4, 4, 5.67e-3),
        (EXACT, 0.8, 4, 6.53e-2),
    ],
)
def test_masked_chain_gives_the_reference_table(method, strength, steps, expected):
    assert distance(method, chain(strength), steps=steps) == pytest.approx(expected, rel=0.02)


def _sigma_grid(process, sigma, steps):
    times = [process.schedule.time(-math.expm1(-sigma * (1 - k / steps))) for k in range(steps + 1)]
    return TokenGrid(times=tuple(times))


def _one_token(method, p0, steps):
    process = UniformProcess()
    plan = method.plan(process, _sigma_grid(process, 12.0, steps), steps=steps)
    return total_variation(law_of_run(plan, uniform_conditionals(p0, process), 1, 15), p0)


@pytest.mark.parametrize(
    ("method", "at_16", "at_64"),
    [
        (Euler(), 1.47e-2, 3.51e-3),
        (TauLeaping(), 3.44e-2, 9.90e-3),
        (TauLeaping(conflict="reject"), 5.20e-2, 1.63e-2),
        (ThetaRK2(), 2.43e-2, 6.84e-3),
        (ThetaRK2(conflict="reject"), 4.40e-2, 1.33e-2),
        (ThetaTrapezoidal(theta=0.3), 8.70e-3, 6.33e-4),
        (ThetaTrapezoidal(), 3.90e-3, 2.33e-4),
        (ThetaTrapezoidal(theta=0.7), 1.72e-3, 1.65e-4),
        (ThetaTrapezoidal(conflict="reject"), 1.99e-2, 3.90e-3),
    ],
)
def test_one_token_of_uniform_noise_gives_the_reference_table(method, at_16, at_64):
    p0 = 1 + 0.25 * torch.cos(torch.arange(15, dtype=torch.float64))
    p0 = p0 / p0.sum()
    assert _one_token(method, p0, 16) == pytest.approx(at_16, rel=0.02)
    assert _one_token(method, p0, 64) == pytest.approx(at_64, rel=0.02)


@pytest.mark.parametrize(
    ("method", "expected"),
    [(Euler(), 3.3e-2), (TauLeaping(), 9.2e-2), (ThetaRK2(), 7.1e-2), (ThetaTrapezoidal(), 1.4e-2)],
)
def test_one_token_under_the_clamp_gives_the_reference_table(method, expected):
    p0 = (torch.arange(15, dtype=torch.float64) + 1) ** 2
    assert _one_token(method, p0 / p0.sum(), 32) == pytest.approx(expected, rel=0.04)  # two figures are given


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [(Tweedie(), 1.7, 2.4), (TauLeaping(), 1.5, 2.4), (ThetaRK2(), 1.5, 2.4), (ThetaTrapezoidal(), 3.0, 4.5)],
)
def test_order_for_three_tokens_of_uniform_noise(method, low, high):
    data, process = chain(0.1, 3, 4), UniformProcess()
    den = uniform_conditionals(data, process)

    def at(n):
        plan = method.plan(process, _sigma_grid(process, 6.0, n), steps=n)
        return total_variation(law_of_run(plan, den, 3, 4), data)

    assert low < at(8) / at(16) < high


@pytest.mark.parametrize(
    ("method", "ratio"), [(Tweedie(), 2), (TauLeaping(), 2), (ThetaRK2(), 2), (EXACT, 4), (adams(1), 4), (adams(2), 4)]
)
def test_declared_order_is_that_of_the_law(method, ratio):
    """Halving the step of a mild chain of three tokens, no rate clamped."""
    data = chain(0.2, 3, 3)
    found = distance(method, data, steps=16) / distance(method, data, steps=32)
    assert found == pytest.approx(ratio, rel=0.15)
    assert method.order == round(math.log2(ratio))


def test_first_hitting_and_one_balanced_token_a_call_are_exact():
    for strength in (0.4, 0.99):
        assert distance(FirstHitting(), chain(strength), steps=4) < 1e-12
        assert distance(FirstHitting(), chain(strength), steps=7) < 1e-12
        assert distance(Tweedie(reveals="balanced"), chain(strength), steps=4) < 1e-12
    assert distance(FirstHitting(), chain(0.4), steps=2) > 0.1


def test_tweedie_is_exact_for_one_token():
    p0 = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    for steps in (1, 3):
        assert distance(Tweedie(), p0, steps=steps) < 1e-14
        process = UniformProcess()
        for method in (Tweedie(), adams(1)):
            law = law_of_run(method.plan(process, steps=steps), uniform_conditionals(p0, process), 1, 4)
            assert total_variation(law, p0) < 1e-13


@pytest.mark.parametrize("method", [Tweedie(), TauLeaping(), Euler(), ThetaRK2(), RATE, EXACT, adams(1), adams(2)])
def test_independent_tokens_are_exact_at_any_number_of_steps(method):
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    for name in ("log_linear", "cosine", "geometric"):
        process = MaskedProcess(noise_schedule(name), mask=3)
        data = p[:, None] * p.flip(0)
        law = law_of_run(method.plan(process, steps=3), masked_conditionals(data), 2, 3)
        assert total_variation(law, data) < 1e-12


@pytest.mark.parametrize(("strength", "gain"), [(0.2, 1.1), (0.4, 2.5), (0.8, 1.4)])
def test_adams_bashforth_beats_every_rival_at_equal_calls(strength, gain):
    data = chain(strength)
    rivals = [(Tweedie(), 8), (TauLeaping(), 7), (RATE, 4), (EXACT, 4)]  # the rate form has a ninth call
    best = min(distance(method, data, steps=n) for method, n in rivals)
    assert distance(adams(1), data, steps=8) * gain < best


def test_a_longer_lag_keeps_the_order_under_strong_dependence():
    data = chain(0.8, 3, 4)
    errors = {lag: distance(adams(lag), data, steps=8) for lag in (1, 2)}
    assert errors[2] * 2 < errors[1]
    assert errors[2] * 3 < distance(EXACT, data, steps=4)


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_a_run_makes_exactly_the_calls_asked_for(calls):
    for method in (EXACT, RATE, ThetaRK2(), adams(1), TauLeaping(), Tweedie(), FirstHitting()):
        plan = method.plan(MaskedProcess(mask=3), calls=calls)
        assert len(plan.calls) == calls
        law = law_of_run(plan, masked_conditionals(chain(0.2, 2, 3)), 2, 3)
        assert law.sum().item() == pytest.approx(1, abs=1e-12)  # no mask is left


@pytest.mark.parametrize(("strength", "gain"), [(0.1, 1.0), (0.4, 4), (0.8, 3)])
def test_adams_bashforth_beats_every_rival_on_uniform_noise(strength, gain):
    """Three tokens, 16 calls on the grid quadratic in sigma from 6."""
    data, process = chain(strength, 3, 4), UniformProcess()
    den, start = uniform_conditionals(data, process), process.schedule.time(-math.expm1(-6.0))

    def at(method):
        plan = method.plan(process, TokenGrid("quadratic", start), calls=16)
        return total_variation(law_of_run(plan, den, 3, 4), data)

    assert at(adams(1)) * gain < min(at(m) for m in (Tweedie(), Euler(), TauLeaping(), ThetaRK2(), ThetaTrapezoidal()))


def test_ratios_of_uniform_noise_are_those_of_the_marginals():
    data, process = chain(0.6, 2, 3), UniformProcess()
    states, t = sequences(process, 2, 3), 0.37
    p = uniform_conditionals(data, process)(states, t)
    alpha, gamma = 1 - t, t / 3
    noise = alpha * torch.eye(3, dtype=torch.float64) + gamma
    marginal = torch.einsum("ab,ai,bj->ij", data, noise, noise)
    for i, j in states.tolist():
        k = i * 3 + j
        found = process.ratios(p[k], states[k], t)
        torch.testing.assert_close(found[0], marginal[:, j] / marginal[i, j], rtol=1e-12, atol=0)
        torch.testing.assert_close(found[1], marginal[i, :] / marginal[i, j], rtol=1e-12, atol=0)
