"""The report: who wins, by how much, where we lose, and that a README is rewritten whole or not at all."""

from __future__ import annotations

import json
import math

import pytest

from fewstep.eval.comparison import winners
from fewstep.eval.report import PARTS, guidance_table, main, make_report, rewritten, roots_table, winners_table


def row(sampler, nfe, rmse, fid=None, guidance=3.0, **more):
    family = "diffusers" if sampler.startswith("diffusers") else "fewstep"
    given = {"grid": "karras", "default": True, "best": True, "calls": nfe}
    return {
        "sampler": sampler,
        "family": family,
        "guidance": guidance,
        "nfe": nfe,
        "rmse": rmse,
        "fid": fid,
        **given,
        **more,
    }


ROWS = [
    row("ghvb 2.5", 5, 0.30, 12.0),
    row("exponential-adams 2", 5, 0.25, 14.0),
    row("diffusers DEIS", 5, 0.20, 11.0),
    row("ghvb 2.5", 8, 0.04, 9.0, default=False),
    row("ghvb 2.5", 8, 0.10, 9.5, best=False, grid="trailing"),
    row("diffusers DEIS", 8, 0.08, 9.0),
    row("diffusers broken", 8, None, None, error="IndexError: 5"),
    row("diffusers greedy", 8, 0.001, 1.0, calls=15),
]
REPORT = {"command": "python -m fewstep.eval.benchmark --nfe 5,8", "settings": {}, "rows": ROWS}
README = """# x

<!-- methods:begin -->
<!-- methods:end -->

between

<!-- measured:begin -->
old
<!-- measured:end -->
end
"""


def test_winners_are_the_best_of_either_side_at_equal_calls():
    first, second = winners(ROWS, "rmse")
    assert (first.ours["sampler"], first.theirs["sampler"]) == ("exponential-adams 2", "diffusers DEIS")
    assert first.ratio == pytest.approx(1.25)
    assert first.lost
    assert second.ratio == pytest.approx(0.5)  # the greedy one made more calls than allowed
    assert not second.lost
    assert winners(ROWS, "rmse", "default")[1].ratio == pytest.approx(0.10 / 0.08)
    assert not winners(ROWS, "fid")[1].lost  # a draw is no loss
    alone = winners(ROWS[:2], "rmse")[0]
    assert math.isnan(alone.ratio)
    assert alone.theirs is None
    assert not alone.lost


def test_the_table_names_winners_and_says_where_we_lose():
    text = winners_table(REPORT)
    assert "| 3 | 5 | 0.25, exponential-adams 2 (karras) | 0.2, DEIS (karras) | 1.25 | 12, ghvb 2.5 (karras)" in text
    assert "**0.50**" in text
    assert "We lose at guidance 3, 5 calls (error 1.25 times); guidance 3, 5 calls (FID 1.09 times)." in text
    won = winners_table({"rows": [ROWS[3] | {"default": True}, ROWS[5]]})
    assert "At none of these does a sampler of diffusers do better." in won


def test_tuned_samplers_have_a_table_of_their_own():
    rows = [*ROWS, row("tuned garments", 5, 0.1, 8.0, grid="tuned")]
    text = winners_table({"rows": rows})
    plain, tuned = text.split("The samplers tuned for this model")
    assert plain.rstrip() == winners_table({"rows": ROWS}).rstrip()
    assert "0.1, tuned garments (tuned) | 0.2, DEIS (karras) | **0.50**" in tuned
    assert "ghvb" not in tuned


def test_every_row_has_a_cell_for_every_column():
    rows = [row("ghvb 2.5", 5, 0.3, 12.0), row("diffusers DEIS", 5, 0.2, 11.0), row("ghvb 2.5", 8, 0.1)]
    table = [line for line in winners_table({"rows": rows}).split("\n") if line.startswith("|")]
    assert {line.count("|") for line in table} == {9}


def test_a_readme_is_made_from_the_results_and_then_up_to_date(tmp_path):
    readme, results, images = tmp_path / "README.md", tmp_path / "results", tmp_path / "assets" / "images"
    readme.write_text(README)
    results.mkdir()
    (results / "samplers-garments.json").write_text(json.dumps(REPORT))
    current, files = make_report(readme, results, images, check=True)
    assert (current, files) == (False, [])
    assert readme.read_text() == README
    current, files = make_report(readme, results)
    assert {file.name for file in files} == {
        "samplers-garments-rmse.png",
        "samplers-garments-rmse.svg",
        "samplers-garments-fid.png",
        "samplers-garments-fid.svg",
        "README.md",
    }
    text = readme.read_text()
    assert "](assets/images/samplers-garments-rmse.png)" in text
    assert f"```bash\n{REPORT['command']}\n```" in text
    assert "between" in text
    assert text.endswith("-->\nend\n")
    assert "| `ghvb` |" in text
    assert make_report(readme, results, images, check=True)[0]


def test_without_results_there_is_no_table_and_no_picture(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    make_report(readme, tmp_path / "nothing")
    assert "old" not in readme.read_text()
    assert not (tmp_path / "assets").exists()


def test_a_readme_without_markers_is_left_as_it_is(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# nothing marked\n")
    with pytest.raises(ValueError, match="methods:begin"):
        make_report(readme, tmp_path)
    assert readme.read_text() == "# nothing marked\n"


def test_parts_with_a_table_of_their_own_are_made_where_they_are_marked(tmp_path):
    marked = README + "".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in PARTS)
    assert rewritten(marked, tmp_path).endswith(
        "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in PARTS)
    )
    report = {"command": "python -m this", "settings": {"samples": 7}, "rows": GUIDANCE}
    (tmp_path / "guidance-garments.json").write_text(json.dumps(report))
    text = rewritten(marked, tmp_path)
    assert "Share of 7 pictures" in text
    assert "```bash\npython -m this\n```" in text
    assert "old" not in text
    assert rewritten(text, tmp_path) == text
    with pytest.raises(ValueError, match="guidance:begin"):
        rewritten(README + "<!-- guidance:begin -->\n", tmp_path)


GUIDANCE = [
    {"guidance": 3.0, "steps": 8, "way": "CFG", "all": 0.97, "evaluations": 16.0},
    {"guidance": 7.5, "steps": 8, "way": "CFG", "all": 0.25, "evaluations": 16.0},
    {"guidance": 3.0, "steps": 20, "way": "CFG", "all": 0.964, "evaluations": 40.0},
    {"guidance": 3.0, "steps": 8, "way": "CFG in 4,inf", "all": 0.5, "evaluations": 11.0},
    {"guidance": 7.5, "steps": 8, "way": "CFG in 4,inf", "all": 0.6, "evaluations": 12.5},
]


def test_guidance_has_a_row_a_way_and_a_column_a_pair_of_scale_and_steps():
    assert guidance_table({"rows": GUIDANCE}).splitlines() == [
        "| way | g 3, 8 steps | g 7.5, 8 steps | g 3, 20 steps | evaluations |",
        "| --- | --- | --- | --- | --- |",
        "| CFG | 97 % | 25 % | 96 % | 16, 40 |",
        "| CFG in 4,inf | 50 % | 60 % | – | 11 to 12.5 |",
    ]


def test_square_roots_have_their_seconds_and_errors():
    rows = [
        {"variant": "scipy sqrtm", "sweeps": None, "seconds": 17.71, "fid": 2.6},
        {"variant": "pade", "sweeps": "until converged", "seconds": 13.6, "fid": 2.6, "fid_error": 3.7e-13},
    ]
    lines = roots_table({"rows": rows}).splitlines()
    assert lines[2:] == ["| scipy sqrtm | – | 17.7 | – |", "| `pade` | until converged | 13.6 | 4e-13 |"]


def test_a_readme_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["--check", "--readme", str(tmp_path / "README.md")])
