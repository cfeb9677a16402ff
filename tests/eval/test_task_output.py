"""What the tasks say: who wins beyond the noise, which samplers are dull, and tables with a cell for every column."""

from __future__ import annotations

import math

import pytest

from fewstep.eval.editing_output import best_named
from fewstep.eval.task_plots import Panel, panels_figure
from fewstep.eval.task_verdict import DEFAULT, compare, summary
from fewstep.eval.text_output import text_figure, text_table, verdicts
from fewstep.eval.token_output import token_figure, token_table

SETTINGS = {
    "length": 64, "seeds": 3, "reference_perplexity": 5.0, "reference_entropy": 4.2, "reference_trigram_distance": 0.3,
}  # fmt: skip


def row(sampler, nfe, perplexity, spread=0.1, entropy=4.2, variation=0.4, **more):
    origin = "own" if sampler == DEFAULT else "diffusers" if sampler.startswith("diffusers") else "published"
    given = {"sampler": sampler, "origin": origin, "nfe": nfe, "calls": nfe, "perplexity": perplexity}
    given |= {
        "perplexity_spread": spread,
        "entropy": entropy,
        "trigram_distance": variation,
        "trigram_distance_spread": 0.01,
    }
    return {**given, **more}


ROWS = [
    row(DEFAULT, 8, 8.0),
    row("tweedie", 8, 9.0, variation=0.45),
    row("diffusers AmusedScheduler", 8, 4.0, entropy=3.6, variation=0.5),
    row(DEFAULT, 64, 6.1),
    row("tweedie", 64, 6.0),
    row("first-hitting", 64, 6.0),
    row("diffusers AmusedScheduler", 64, 3.0, entropy=3.4, variation=0.6),
]


def test_dull_texts_do_not_win_by_perplexity_but_lose_by_law():
    found = verdicts(ROWS, SETTINGS)
    by_perplexity = [v for v in found if v.column == "perplexity"]
    assert [v.rival["sampler"] for v in by_perplexity] == ["tweedie", "tweedie"]
    assert (by_perplexity[0].won, by_perplexity[0].lost) == (True, False)
    assert (by_perplexity[1].won, by_perplexity[1].lost) == (False, False)
    assert by_perplexity[0].noise == pytest.approx(2 * math.sqrt((0.1**2 + 0.1**2) / 3))
    assert len([v for v in found if v.column == "trigram_distance"]) == 2
    assert "better (noise 0.16)" in by_perplexity[0].sentence()


def test_a_rival_that_took_more_calls_does_not_count():
    rows = [row(DEFAULT, 8, 8.0), row("greedy", 8, 5.0, calls=16), row("slow", 8, 9.0)]
    assert compare(rows, "perplexity", 3)[0].rival["sampler"] == "slow"
    assert compare(rows[:1], "perplexity", 3) == []


def test_an_estimate_below_zero_is_no_better_than_zero():
    rows = [row(DEFAULT, 8, -0.4, 0.01), row("tweedie", 8, -0.1, 0.01)]
    assert compare(rows, "perplexity", 3)[0].won
    verdict = compare(rows, "perplexity", 3, floor=0.0)[0]
    assert not verdict.won
    assert not verdict.lost


@pytest.mark.parametrize(
    ("ours", "sentence"),
    [
        ((8.0, 6.1), "is better than the best rival at 8 calls; at no number of calls is it worse, beyond the noise"),
        ((8.0, 5.0), "is better than the best rival at 8 and 64 calls."),
        ((9.0, 7.0), "is worse than the best rival at 64 calls (7 against 6 of tweedie)."),
        ((8.0, 7.0), "at 8 calls, and worse at 64 calls (7 against 6 of tweedie)."),
        ((9.0, 6.0), f"By perplexity at no number of calls is `{DEFAULT}` worse, beyond the noise of the seeds."),
    ],
)
def test_the_summary_says_where_we_win_and_lose(ours, sentence):
    rows = [row(DEFAULT, 8, ours[0]), row("tweedie", 8, 9.0), row(DEFAULT, 64, ours[1]), row("tweedie", 64, 6.0)]
    assert sentence in summary(compare(rows, "perplexity", 3), "perplexity")
    assert summary([], "perplexity") == ""


def test_the_text_table_has_a_cell_for_every_column():
    failed = {**row("broken", 8, None), "entropy": None, "trigram_distance": None, "error": "ValueError: no"}
    lines = text_table({"rows": [*ROWS, failed], "settings": SETTINGS}).splitlines()
    assert lines[0] == "| sampler | 8 calls | 64 calls |"
    assert f"| {DEFAULT} | 8.00 (4.20; 0.40) | 6.10 (4.20; 0.40) |" in lines
    assert "| broken | – | – |" in lines
    assert "| diffusers AmusedScheduler | *4.00* (3.60; 0.50) | *3.00* (3.40; 0.60) |" in lines
    assert {line.count("|") for line in lines if line.startswith("|")} == {4}
    assert "Real text: 5.00 (4.20; 0.30)." in lines[-1]
    assert "first hitting draws exactly at 64 calls: 6.00" in lines[-1]


def test_the_token_table_says_who_wins_at_each_guidance():
    def cell(sampler, guidance, fid, **more):
        given = {"guidance": guidance, "fid": fid, "fid_spread": 0.5, "garment_accuracy": 0.9, "colour_accuracy": None}
        return {**row(sampler, 8, None), **given, **more}

    rows = [cell(DEFAULT, 1.0, 10.0), cell("tweedie", 1.0, 12.0), cell(DEFAULT, 3.0, 9.0), cell("tweedie", 3.0, 7.0)]
    text = token_table({"rows": rows, "settings": {"seeds": 3}})
    assert f"| {DEFAULT} | 10.0 (90 %, –) | 9.0 (90 %, –) |" in text
    assert f"By FID at guidance 1 `{DEFAULT}` is better than the best rival at 8 calls." in text
    assert "By FID at guidance 3" in text
    assert "worse than the best rival at 8 calls (9 against 7 of tweedie)." in text


def test_figures_have_a_panel_a_column_and_a_line_a_sampler():
    figure = text_figure(ROWS, SETTINGS)
    assert [axes.get_title() for axes in figure.axes] == [
        "perplexity of the judge",
        "unigram entropy, bits",
        "distance of the law of 3-grams, 1e-4",
    ]
    assert len(figure.axes[0].containers) == 4
    assert figure.axes[0].containers[1].lines[0].get_xydata().tolist() == [[8.0, 9.0], [64.0, 6.0]]  # tweedie
    assert token_figure([{**r, "guidance": 1.0} for r in ROWS]) is None  # nothing was measured of pictures


def test_a_crowded_figure_names_the_best_and_draws_the_others_grey():
    """Ours, and the best few others at each number of calls; a legend entry for each and one for the rest."""
    shares = {"fireflow warm": 0.8, "euler": 0.7, "uni-inv": 0.9, "exact": 0.1, "ddim": 0.2, "rf-solver": 0.75}
    rows = [
        {"part": "edit", "sampler": name, "origin": "own" if "warm" in name else "published", "nfe": nfe, "both": share}
        for name, share in shares.items()
        for nfe in (8, 16)
    ]
    assert best_named(rows, most=2) == ["fireflow warm", "uni-inv", "rf-solver"]
    figure = panels_figure(rows, [Panel("both", "both")], "", best_named(rows, most=2))
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["fireflow warm", "uni-inv", "rf-solver", "others"]
    colours = [container.lines[0].get_color() for container in figure.axes[0].containers]
    assert colours.count("0.75") == 3
