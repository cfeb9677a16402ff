"""`fewstep benchmark --task`: other things than pictures by the same command."""

from __future__ import annotations

import json

import pytest

QUICK = ["--task", "text", "--model", "oracle:chain", "--samplers", "token-adams-bashforth,tweedie", "--nfe", "3"]
QUICK += ["--count", "2", "--length", "8"]


def test_text_samplers_are_compared_by_the_same_command(fewstep, tmp_path):
    said = fewstep("benchmark", *QUICK, "--out", "run", "--json", "results/text.json")
    assert said.code == 0, said.err
    assert "3 calls: perplexity token-adams-bashforth" in said.out
    assert "against tweedie" in said.out
    rows = json.loads((tmp_path / "results" / "text.json").read_text())["rows"]
    again = fewstep("benchmark", *QUICK, "--out", "run", "--print-json")
    assert json.loads(again.out) == rows
    assert fewstep("benchmark", *QUICK, "--out", "late", "--limit-time", "0").code == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--task", "txt"], "did you mean 'text'"),
        ([*QUICK, "--cache", "ab:2,3"], "--cache and --task text do not go together"),
        ([*QUICK, "--rmse-count", "4"], "--rmse-count cannot be had with --task text"),
        ([*QUICK, "--guidance", "3"], "--guidance cannot be had with --task text"),
        ([*QUICK, "--nfe", "3;4"], "--nfe is a list of whole numbers"),
        ([*QUICK, "--samplers", "twedie"], "did you mean 'tweedie'"),
        (["--length", "8"], "--length cannot be had with pictures"),
        (["--task", "tokens", "--model", "nowhere", "--judge", "garments"], "no model 'nowhere'"),
        (["--task", "editing", "--samplers", "eulr"], "did you mean 'euler'"),
        (["--task", "editing", "--epsilon", "none", "--data", "nowhere.npz"], "no Fashion-MNIST at nowhere.npz"),
        (["--task", "editing", "--guidance", "3"], "--guidance cannot be had with --task editing"),
        (["--clip", "folder"], "--clip cannot be had with pictures"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(fewstep, words, sentence):
    said = fewstep("benchmark", *words)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
