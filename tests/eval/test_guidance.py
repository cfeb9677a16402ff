"""The comparison of ways of guidance: its questions, its measure of saturation, and what it counts."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest

from fewstep.eval.guidance import _judge_folder, asked, main, saturation
from fewstep.eval.judge import Judge


def test_questions_have_the_order_of_the_judge_s_answers():
    labels = Judge.from_pretrained(_judge_folder()).labels
    prompts, right = asked(30)
    for i, prompt in enumerate(prompts):
        assert labels["garment"][right["garment"][i]] in prompt
        assert f"{labels['colour'][right['colour'][i]]} " in prompt
        assert labels["background"][right["background"][i]] in prompt


def test_saturation_is_saturation_times_value():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    hsv = [[colorsys.rgb_to_hsv(*(pixel / 255)) for pixel in picture.reshape(-1, 3)] for picture in pictures]
    np.testing.assert_allclose(saturation(pictures), [np.mean([s * v for _, s, v in pixels]) for pixels in hsv])


def test_rows_say_what_every_way_cost(tmp_path: Path):
    words = ["--guidance", "3", "--steps", "4", "--count", "2", "--reference-steps", "1", "--intervals", "4,inf"]
    assert main([*words, "--json", str(tmp_path / "r.json")]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    cost = {row["way"]: row["evaluations"] for row in rows}
    assert cost["CFG"] == cost["CFG-Zero*"] == 8
    assert cost["CFG in 4,inf"] == cost["CFG-Zero* in 4,inf"] < 8


@pytest.mark.parametrize("words", [["--steps", "a"], ["--intervals", "3"], ["--count", "0"]])
def test_mistakes_are_said(words, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert "error" in capsys.readouterr().err
