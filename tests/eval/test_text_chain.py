"""The exact chain of letters: its denoiser is the sum over all sequences, its laws are those of what it draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fewstep.eval import text_chain
from fewstep.eval.text_chain import ChainText, posterior, transition
from fewstep.eval.text_judge import ngram_law, perplexity, total_variation
from fewstep.eval.text_sampling import sample_text
from fewstep.eval.token_contenders import contenders, select

VALUES = 4


@pytest.mark.parametrize("strength", [0.0, 0.4, 0.99])
def test_the_posterior_is_the_sum_over_all_sequences(strength):
    matrix, length = transition(strength, VALUES), 4
    emission = torch.rand(3, length, VALUES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    emission[0, 1] = 1.0  # a mask
    emission[1, 2] = torch.eye(VALUES, dtype=torch.float64)[2]  # a token that is seen
    clean = torch.tensor(list(itertools.product(range(VALUES), repeat=length)))
    prior = torch.stack([matrix[a, b] for a, b in zip(clean.T[:-1], clean.T[1:], strict=True)]).prod(0) / VALUES
    for row, found in zip(emission, posterior(emission, matrix), strict=True):
        joint = prior * torch.stack([row[i, clean[:, i]] for i in range(length)]).prod(0)
        for i in range(length):
            law = torch.zeros(VALUES, dtype=torch.float64).index_add_(0, clean[:, i], joint)
            assert torch.allclose(found[i], law / law.sum(), atol=1e-13)


def test_its_texts_have_its_perplexity_and_its_laws():
    chain = ChainText(strength=0.6)
    texts = chain.draw(400, 64, seed=1)
    score = chain.score(texts)
    nats = score.nats / score.tokens
    off = (nats.mean() - chain.entropy_rate()) / (nats.std(ddof=1) / np.sqrt(len(nats)))
    assert abs(off) < 4  # false alarm 6e-5
    for n in (1, 2, 3):
        codes, share = chain.law(n)
        assert share.sum() == pytest.approx(1)
        assert total_variation(ngram_law(texts, n), (codes, share)) < 0.9 * np.sqrt(share).sum() / np.sqrt(25600)
    assert ChainText(strength=0.0).perplexity() == pytest.approx(text_chain.VALUES)


@pytest.mark.parametrize("kind", ["masked", "uniform"])
def test_every_sampler_makes_the_calls_that_it_is_given(kind):
    model = ChainText(kind)
    for contender in contenders(kind, "text").values():
        seen = []
        handle = model.network.register_forward_hook(lambda module, args, output, seen=seen: seen.append(len(args[0])))
        run = sample_text(model, contender, 7, model.start([""] * 3, 12), [0, 1, 2])
        handle.remove()
        assert run.calls == len(seen) <= 7, contender.name
        assert run.sequences == sum(seen)
        assert int(run.tokens.max()) < text_chain.VALUES, contender.name
        assert run.tokens.shape == (3, 12)
        if kind == "uniform":
            assert run.calls == 7, contender.name


def test_a_text_does_not_depend_on_its_batch_mates():
    model, (made,) = ChainText("masked"), select(["token-adams-bashforth"])
    together = sample_text(model, made, 6, model.start([""] * 4, 16), [5, 6, 7, 8]).tokens
    alone = sample_text(model, made, 6, model.start([""], 16), [7]).tokens
    assert torch.equal(together[2:3], alone)


def test_one_token_a_call_is_the_models_law():
    model = ChainText(strength=0.8)
    start = model.start([""] * 300, 24)
    texts = model.texts(sample_text(model, *select(["first-hitting"]), 24, start, range(300)).tokens)
    nats = model.score(texts).nats / 23
    off = (nats.mean() - model.entropy_rate()) / (nats.std(ddof=1) / np.sqrt(300))
    assert abs(off) < 4  # false alarm 6e-5


def test_more_calls_are_likelier_texts_until_the_models_law():
    for kind in ("masked", "uniform"):
        model = ChainText(kind, 0.8)
        for name in ("tweedie", "token-adams-bashforth"):
            found = []
            for calls in (3, 8, 24):
                run = sample_text(model, *select([name], kind), calls, model.start([""] * 200, 24), range(200))
                score = model.score(model.texts(run.tokens))
                found.append(perplexity(score.nats, score.tokens))
            assert found[0] > found[1] > found[2] > 0.9 * model.perplexity(), (kind, name, found)


@pytest.mark.parametrize("name", ["oracle:chain:2", "oracle:chian", "oracle:chain:0.5:marsked", "oracle:chain:1:2:3"])
def test_names_that_mean_no_chain_are_refused(name):
    with pytest.raises(ValueError, match=r"oracle:chain\[|must be in \[0, 1\)|did you mean 'masked'"):
        ChainText.of_name(name)


def test_samplers_are_chosen_by_words():
    assert [made.name for made in select(["trap*", "rk2", "rk2"])] == [
        "trapezoidal exact",
        "trapezoidal rate",
        "trapezoidal published",
        "rk2",
    ]
    assert {made.family for made in select(["diffusers"])} == {"diffusers"}
    assert "diffusers DiscreteDDIMScheduler" in {made.name for made in select(["all"], "uniform")}
    assert "maskgit" not in contenders("masked", "pictures")
    with pytest.raises(ValueError, match="never seen them"):
        select(["diffusers DiscreteDDIMScheduler"])
    with pytest.raises(ValueError, match="did you mean 'tweedie'"):
        select(["tweddie"])
    with pytest.raises(ValueError, match="is for masked noise on text; here it is masked noise on pictures"):
        select(["maskgit"], "masked", "pictures")
