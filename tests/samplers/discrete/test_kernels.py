"""The draw of one token, and the core around it, against closed forms, literal Poisson draws and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fewstep.samplers.discrete import (
    Draws,
    MaskedProcess,
    Shaping,
    TokenGrid,
    UniformProcess,
    noise_schedule,
    token_method,
)
from fewstep.samplers.discrete.kernels import KERNELS, categorical

RATES = (0.9, 0.3, 0.05, 0.0, 0.6)


@pytest.mark.parametrize("name", ["any", "reject"])
def test_kernels_are_those_of_literal_poisson_draws(name):
    """400 000 draws of one Poisson number a channel; chi-square at a false-alarm rate of 1e-5."""
    rng = np.random.default_rng(7)
    n = 400_000
    counts = rng.poisson(np.array(RATES), (n, len(RATES)))
    total = counts.sum(1)
    if name == "any":
        pick = rng.random(n) * total
        value = (counts.cumsum(1) > pick[:, None]).argmax(1)
        moved = total > 0
    else:
        value, moved = counts.argmax(1), total == 1
    seen = np.bincount(np.where(moved, value, len(RATES)), minlength=len(RATES) + 1)
    law = KERNELS[name](torch.tensor([RATES], dtype=torch.float64)).probabilities()[0].numpy()
    expected = np.append(law, 1 - law.sum()) * n
    held = expected > 0
    assert seen[~held].sum() == 0
    assert stats.chisquare(seen[held], expected[held]).pvalue > 1e-5


def test_euler_kernel_never_exceeds_one():
    law = KERNELS["euler"](torch.tensor([[0.2, 0.1], [3.0, 1.0]], dtype=torch.float64)).probabilities()
    torch.testing.assert_close(law, torch.tensor([[0.2, 0.1], [0.75, 0.25]], dtype=torch.float64))


def test_categorical_inverts_the_cumulative_law_exactly():
    weights = torch.tensor([[0.0, 1e-12, 1.0, 0.0, 3.0, 0.0]], dtype=torch.float64)
    edges = [0.0, 0.9e-12 / 4, 1.1e-12 / 4, 0.2499, 0.2501, 1 - 2**-53]
    found = [categorical(weights, torch.tensor([u], dtype=torch.float64)).item() for u in edges]
    assert found == [1, 1, 2, 2, 4, 4]


def test_rows_without_mass_do_not_move():
    for kernel in KERNELS.values():
        law = kernel(torch.zeros(2, 3, dtype=torch.float64)).probabilities()
        assert not torch.isnan(law).any()
        assert law.sum() == 0


@pytest.mark.parametrize("name", ["log_linear", "linear", "cosine", "geometric"])
def test_rates_are_the_logarithmic_derivative_of_the_mask_ratio(name):
    schedule = noise_schedule(name)
    for t in (0.1, 0.5, 0.9):
        h = 1e-6
        slope = (schedule.mask_ratio(t + h) - schedule.mask_ratio(t - h)) / (2 * h)
        assert schedule.rate(t) == pytest.approx(slope / schedule.mask_ratio(t), rel=1e-7)
        assert schedule.time(schedule.mask_ratio(t)) == pytest.approx(t, rel=1e-9)
        assert math.exp(-schedule.sigma(t)) == pytest.approx(schedule.alpha(t), rel=1e-9)
    assert noise_schedule("log_linear").rate(0.3) == pytest.approx(1 / 0.3, rel=1e-15)


def test_every_kind_of_prediction_gives_the_same_law():
    torch.manual_seed(0)
    p = torch.rand(6, 5, dtype=torch.float64).softmax(-1)
    tokens, t, plain = torch.arange(6) % 5, 0.4, Shaping()
    masked = MaskedProcess(mask=9)
    uniform = UniformProcess()
    alpha, gamma = 0.6, 0.4 / 5
    score = uniform.ratios(p, tokens, t)
    loo = p.log() - torch.full_like(p, math.log(gamma)).scatter(1, tokens[:, None], math.log(alpha + gamma))
    for output, kind in ((p.log() + 3, "logits"), (p.log(), "log_probs"), (score, "score"), (loo, "loo_logits")):
        torch.testing.assert_close(uniform.probabilities(output, tokens, t, kind, plain), p, rtol=1e-10, atol=1e-12)
    for output, kind in ((p.log() - 1, "logits"), (1.5 * p, "score"), (p.log(), "loo_logits")):
        torch.testing.assert_close(masked.probabilities(output, tokens, t, kind, plain), p, rtol=1e-12, atol=0)


def test_the_mask_column_gets_no_probability():
    p = MaskedProcess(mask=1).probabilities(torch.zeros(2, 3), torch.ones(2).long(), 0.5, "logits", Shaping())
    torch.testing.assert_close(p, torch.tensor([[0.5, 0, 0.5]] * 2, dtype=torch.float64))


def test_shaping_is_temperature_then_nucleus():
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    torch.testing.assert_close(Shaping(top_p=0.6)(log_p), torch.tensor([[0.625, 0.375, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(Shaping(top_k=1)(log_p), torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64))
    squared = log_p.exp() ** 2
    torch.testing.assert_close(Shaping(temperature=0.5)(log_p), squared / squared.sum())


def test_uniforms_of_a_row_do_not_depend_on_the_batch():
    def made(seeds):
        return Draws([torch.Generator().manual_seed(s) for s in seeds]).uniform(len(seeds), 7, torch.device("cpu"))

    assert torch.equal(made([3, 4])[1:], made([4]))
    assert made([3]).dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: noise_schedule("cosinus"), "did you mean 'cosine'"),
        (lambda: token_method("trapezodial"), "did you mean 'trapezoidal'"),
        (lambda: token_method("adams", lag=0), "lag must be"),
        (lambda: TokenGrid("uniforn"), "did you mean 'uniform'"),
        (lambda: TokenGrid(times=(0.5, 0.7)), "strictly decreasing"),
        (lambda: TokenGrid(start=1.5), "t_start in"),
        (lambda: Shaping(top_p=0.0), r"top_p must be in \(0, 1\]"),
        (lambda: MaskedProcess(mask=None), "mask_token_id must be"),
        (lambda: token_method("tweedie").plan(MaskedProcess(mask=3)), "either the number of steps or"),
        (lambda: token_method("tweedie").plan(MaskedProcess(mask=3), steps=1.5), "at least 1, got 1.5"),
        (lambda: token_method("first-hitting").plan(UniformProcess(), steps=2), "for masks"),
        (
            lambda: UniformProcess().probabilities(torch.zeros(1, 3), torch.tensor([3]), 0.5, "logits", Shaping()),
            "outside of the model's 3 values",
        ),
    ],
)
def test_bad_input_is_answered_with_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
