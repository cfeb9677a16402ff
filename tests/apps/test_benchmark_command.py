"""`fewstep benchmark` and `fewstep report`."""

from __future__ import annotations

import json
import sys

import pytest

WHAT = ["--model", "oracle:gaussian", "--samplers", "ddim,*DEIS", "--nfe", "5", "--guidance", "3", "--grids", "default"]
QUICK = [*WHAT, "--rmse-count", "6", "--reference-steps", "20", "--references", "references"]


def test_a_benchmark_says_who_wins_and_where_its_files_are(fewstep, tmp_path):
    said = fewstep("benchmark", *QUICK, "--out", "run", "--json", "results/oracle.json")
    assert said.code == 0, said.err
    assert "g 3, 5 calls: rmse ddim (linspace)" in said.out
    assert "against diffusers DEIS (linspace)" in said.out
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert json.loads((tmp_path / "results" / "oracle.json").read_text())["rows"] == rows
    again = fewstep("benchmark", *QUICK, "--out", "run", "--print-json")
    assert json.loads(again.out) == rows


def test_without_scipy_the_beta_grid_is_refused_before_anything_is_measured(fewstep, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "scipy", None)
    said = fewstep("benchmark", *QUICK, "--grids", "all", "--out", "run")
    assert said.code == 2
    assert "pip install 'fewstep[eval]', or name other --grids" in said.err
    assert not (tmp_path / "run").exists()


def test_a_benchmark_out_of_time_exits_with_3_and_goes_on(fewstep):
    said = fewstep("benchmark", *QUICK, "--out", "run", "--limit-time", "0")
    assert said.code == 3
    assert "goes on from here" in said.err
    assert fewstep("benchmark", *QUICK, "--out", "run").code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--samplers", "ghbv"], "unknown sampler 'ghbv', did you mean"),
        (["--model", "garmets"], "did you mean 'garments'"),
        (["--nfe", "8;10"], "--nfe is a list of whole numbers"),
        (["--metrics", "rms"], "did you mean 'rmse'"),
        (["--out", "file"], "is a file"),
        (["--processes", "0"], "processes must be"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(fewstep, tmp_path, words, sentence):
    (tmp_path / "file").write_text("")
    said = fewstep("benchmark", *QUICK, *words)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_caches_are_compared_by_the_same_command(fewstep, tmp_path):
    words = ["--steps", "9", "--count", "2", "--samplers", "ddim", "--guidance", "1", "--out", "run"]
    said = fewstep("benchmark", "--cache", "none,ab:2,3,magcache,fewer-steps", *words)
    assert said.code == 0, said.err
    assert "not supported: UNet2DConditionModel has no CacheMixin" in said.out
    rows = json.loads((tmp_path / "run" / "caches.json").read_text())["rows"]
    assert [(row["cache"], row["real_calls"]) for row in rows] == [
        ("none", 9),
        ("ab:2,3", 8),
        ("magcache", None),
        ("fewer-steps", 8),
    ]
    assert rows[1]["garment_accuracy"] is not None
    stopped = fewstep("benchmark", "--cache", "ab:1,2", *words, "--limit-time", "0", "--print-json")
    assert (stopped.code, json.loads(stopped.out)) == (3, [])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cache", "ab:2,3", "--nfe", "5"], "--nfe cannot be had with --cache"),
        (["--cache", "ab:2,3", "--processes", "1", "--references", "r"], "--processes, --references cannot be had"),
        (["--cache", "references"], "unknown cache 'references'"),
        (["--cache", "ab:2,3", "--model", "oracle:gaussian"], "an exact model"),
        (["--cache", "ab:2,3", "--out", "file"], "is a file"),
        (["--steps", "20"], "--steps is of the full run that --cache compares with"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(fewstep, tmp_path, words, sentence):
    (tmp_path / "file").write_text("")
    said = fewstep("benchmark", *words)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_report_rewrites_the_marked_parts_and_checks_them(fewstep, tmp_path):
    marks = "<!-- methods:begin -->\n<!-- methods:end -->\n<!-- measured:begin -->\n<!-- measured:end -->\n"
    (tmp_path / "README.md").write_text(marks)
    assert fewstep("report", "--check", "--results", "none").code == 1
    assert fewstep("report", "--results", "none").code == 0
    assert "`exponential-adams`" in (tmp_path / "README.md").read_text()
    assert fewstep("report", "--check", "--results", "none").code == 0
    assert fewstep("report", "--readme", "MISSING.md").code == 2
