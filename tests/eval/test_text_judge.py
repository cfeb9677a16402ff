"""Scores of texts against closed forms: constant models, a hand-made chain, entropies and laws counted by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from fewstep.eval.text_judge import (
    TextJudge,
    law_distance,
    negative_log_likelihood,
    ngram_law,
    perplexity,
    shared_beginning,
    total_variation,
    unigram_entropy,
)

#: p(next | now) of the letters a and b.
CHAIN = torch.tensor([[0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)


class _Letters:
    """A tokenizer of a and b, with or without a token for the beginning."""

    def __init__(self, begin: int | None = None) -> None:
        self.bos_token_id = begin

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [ord(letter) - 97 for letter in text]}

    def decode(self, tokens):
        return "".join(chr(97 + token) for token in tokens)


class _Model(torch.nn.Module):
    """A bigram model: the logits at a place depend on the letter there alone."""

    def __init__(self, logits: torch.Tensor, positions: int = 64) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(logits)
        self.config = SimpleNamespace(max_position_embeddings=positions)
        self.longest = 0

    def forward(self, input_ids):
        self.longest = max(self.longest, input_ids.shape[1])
        return SimpleNamespace(logits=self.table[input_ids])


def test_a_constant_model_has_the_perplexity_of_its_alphabet():
    logits = torch.full((2, 7, 65), 0.3)
    tokens = torch.randint(65, (2, 7), generator=torch.Generator().manual_seed(0))
    assert negative_log_likelihood(logits, tokens).tolist() == pytest.approx([6 * math.log(65)] * 2, rel=1e-12)
    score = TextJudge(_Model(torch.zeros(2, 2)), _Letters()).score(["abba", "bbbbbbb"])
    assert score.tokens.tolist() == score.characters.tolist() == [3, 6]
    assert perplexity(score.nats, score.tokens) == pytest.approx(2)
    with pytest.raises(ValueError, match="at least 1"):
        negative_log_likelihood(logits, tokens, 0)


def test_a_chain_scores_the_products_of_its_transitions():
    judge = TextJudge(_Model(CHAIN.log()), _Letters())
    score = judge.score(["aabba", "bab"])
    by_hand = [-math.log(0.9 * 0.1 * 0.75 * 0.25), -math.log(0.25 * 0.1)]
    assert score.nats.tolist() == pytest.approx(by_hand, rel=1e-12)
    given = judge.score(["aabba"], ["aab"])  # the prompt is read, not scored
    assert given.nats[0] == pytest.approx(-math.log(0.75 * 0.25))
    assert (given.tokens[0], given.characters[0]) == (2, 2)


def test_a_token_for_the_beginning_lets_the_first_letter_count():
    first = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
    judge = TextJudge(_Model(torch.cat([CHAIN, first]).log()), _Letters(begin=2))
    score = judge.score(["ba"])
    assert score.nats[0] == pytest.approx(-math.log(0.8 * 0.25))
    assert score.characters[0] == 2


@pytest.mark.parametrize("positions", [2, 5, 8])
def test_a_long_text_is_read_in_windows_and_scores_the_same(positions):
    draw = np.random.default_rng(positions)
    texts = ["".join(draw.choice(["a", "b"], 23)) for _ in range(3)]
    whole = TextJudge(_Model(CHAIN.log()), _Letters()).score(texts)
    model = _Model(CHAIN.log(), positions)
    parts = TextJudge(model, _Letters()).score(texts)
    assert parts.nats == pytest.approx(whole.nats, rel=1e-12)  # a bigram needs one letter of context
    assert model.longest <= positions
    given = ["a" * 7 + text for text in texts]
    assert TextJudge(model, _Letters()).score(given, ["a" * 7] * 3).nats == pytest.approx(
        TextJudge(_Model(CHAIN.log()), _Letters()).score(given, ["a" * 7] * 3).nats
    )


def test_what_cannot_be_scored_is_a_sentence():
    judge = TextJudge(_Model(CHAIN.log()), _Letters())
    with pytest.raises(ValueError, match="no token that a judge could score"):
        judge.score(["a"])
    with pytest.raises(ValueError, match="does not begin with"):
        judge.score(["ab"], ["b"])


def test_entropy_is_that_of_the_letters_frequencies():
    assert unigram_entropy("aaaa") == 0
    assert unigram_entropy("") == 0
    assert unigram_entropy("aabb") == pytest.approx(1)
    assert unigram_entropy("abcdabcd") == pytest.approx(2)
    text = "To be, or not to be: that is the question."
    counts = [text.count(letter) for letter in set(text)]
    assert unigram_entropy(text) == pytest.approx(stats.entropy(counts, base=2))


def test_the_distance_of_laws_is_zero_on_average_for_texts_of_the_law_itself():
    from fewstep.eval.text_chain import ChainText

    chain = ChainText(strength=0.6)
    found = [law_distance(chain.draw(4, 32, seed), chain.law(3), 3) for seed in range(60)]
    assert abs(np.mean(found)) < 4 * np.std(found, ddof=1) / np.sqrt(60)  # false alarm 6e-5
    assert min(found) < 0 < max(found)
    biased = [np.square(total_variation(ngram_law(chain.draw(4, 32, 0), 3), chain.law(3)))]
    assert biased[0] > 0.1  # what a plug-in estimate says of the same texts
    dull = ["abcdefghijklmnop" * 2] * 4
    assert law_distance(dull, chain.law(3), 3) > 10 * np.std(found)


def test_the_distance_of_laws_by_hand():
    law = ngram_law(["ab"], 1)  # 1/2, 1/2
    assert law_distance(["aa", "aa"], law, 1) == pytest.approx(0.5)
    assert law_distance(["aa", "bb"], law, 1) == pytest.approx(0 - 1 + 0.5)  # p.p over the pair of both
    with pytest.raises(ValueError, match="at least two texts"):
        law_distance(["aa"], law, 1)


def test_texts_share_their_beginning():
    assert shared_beginning("to be", "to do") == "to "
    assert shared_beginning("to", "to do") == "to"
    assert shared_beginning("", "to") == shared_beginning("ab", "ba") == ""


def test_laws_of_ngrams_are_counted_within_texts():
    codes, share = ngram_law(["abab", "b"], 2)  # ab, ba, ab
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3])  # codes are ordered by the last letter
    assert total_variation((codes, share), (codes, share)) == 0
    assert total_variation(ngram_law(["aaa"], 3), ngram_law(["bbb"], 3)) == 1
    assert total_variation(ngram_law(["aab"], 1), ngram_law(["abb"], 1)) == pytest.approx(1 / 3)
    assert len(ngram_law(["\U0001f600" * 3 + "ab"], 3)[0]) == 3  # any code point
    with pytest.raises(ValueError, match="no text of 3"):
        ngram_law(["ab"], 3)
    with pytest.raises(ValueError, match="n must be"):
        ngram_law(["abab"], 4)
