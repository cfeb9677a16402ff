"""Bits of text in N calls, against chains and laws whose entropies are known."""

import itertools
import json
import math

import pytest
import torch

from fewstep.eval.text_bound import ORDERS, bits_in_calls, main, ranks
from fewstep.eval.text_chain import VALUES, ChainText
from fewstep.samplers.discrete.law import masked_conditionals


def drawn(chain, count, length):
    letters = sorted(set("".join(chain.texts(torch.arange(VALUES)[None]))))
    assert len(letters) == VALUES
    texts = chain.draw(count, length, seed=1)
    alphabet = chain.texts(torch.arange(VALUES)[None])[0]
    return torch.tensor([[alphabet.index(letter) for letter in text] for text in texts])


def test_an_order_is_a_permutation_and_every_text_has_its_own():
    for order in ORDERS:
        found = ranks(order, 5, 16, 0)
        assert torch.equal(found.sort(1).values, torch.arange(16).expand(5, 16))
        assert len({tuple(row.tolist()) for row in found}) == 5
    with pytest.raises(ValueError, match="one of spread, random"):
        ranks("sideways", 1, 4, 0)


@pytest.mark.parametrize("order", ORDERS)
def test_independent_tokens_cost_their_entropy_in_any_number_of_calls(order):
    law = torch.tensor([0.5, 0.25, 0.25]).double()
    texts = torch.multinomial(law, 4 * 8, replacement=True, generator=torch.Generator().manual_seed(0)).view(4, 8)
    exact = -law.log2()[texts].mean(1)
    for calls in (1, 2, 8):
        found = bits_in_calls(lambda x, t: law.log().expand(*x.shape, 3), texts, calls, mask=3, order=order)
        assert found.tolist() == pytest.approx(exact.tolist())


@pytest.mark.parametrize("order", ORDERS)
def test_one_token_a_call_is_the_likelihood_of_an_exact_model(order):
    """Whatever the order: the chain rule. A batch that is cut changes nothing."""
    joint = torch.rand(2, 2, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    joint /= joint.sum()
    exact = masked_conditionals(joint)
    texts = torch.tensor(list(itertools.product(range(2), repeat=4)))
    found = bits_in_calls(lambda x, t: exact(x, t).log(), texts, 4, mask=2, order=order, batch=5)
    assert found.tolist() == pytest.approx((-joint.reshape(-1).log2() / 4).tolist())


def test_one_call_costs_the_entropy_of_the_tokens_alone_and_spread_places_cost_less():
    chain = ChainText(strength=0.8)
    texts = drawn(chain, 64, 32)
    bits = {
        (calls, order): float(bits_in_calls(chain, texts, calls, mask=VALUES, order=order).mean())
        for calls in (1, 8, 32)
        for order in ORDERS
    }
    assert bits[1, "spread"] == bits[1, "random"] == pytest.approx(math.log2(VALUES))  # the chain's letters are uniform
    assert bits[32, "spread"] == pytest.approx(bits[32, "random"])  # the exact likelihood
    assert bits[8, "spread"] - bits[32, "spread"] < 0.5 * (bits[8, "random"] - bits[32, "random"])
    assert bits[32, "random"] < bits[8, "spread"] < bits[8, "random"] < bits[1, "random"]


def test_the_command_measures_the_last_tenth(tmp_path, capsys):
    file = tmp_path / "play.txt"
    file.write_text("To be, or not to be, that is the question.\n" * 100)
    words = ["--data", str(file), "--nfe", "2,4", "--length", "32", "--count", "3", "--json", str(tmp_path / "a.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "4 calls, spread places" in said
    report = json.loads((tmp_path / "a.json").read_text())
    assert [row["nfe"] for row in report["rows"]] == [2, 2, 4, 4]
    assert report["settings"]["texts"] == 3
    assert str(tmp_path) not in report["command"].replace(str(tmp_path / "a.json"), "")
    for bad, sentence in (
        (["--data", str(tmp_path / "none.txt")], "there is no text"),
        (["--data", str(file), "--length", "9999"], "fewer than 9999 tokens"),
    ):
        with pytest.raises(SystemExit):
            main(bad)
        assert sentence in capsys.readouterr().err
    with pytest.raises(ValueError, match="give a divisor of 32"):
        main(["--data", str(file), "--length", "32", "--nfe", "5"])
