"""The benchmark of restorations with a network of random weights: rows, counts, going on, files, verdicts."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("skimage")

from fewstep.eval.restoration_output import markdown_table, restoration_plots, restoration_table, verdicts
from fewstep.eval.restoration_run import RestorationOptions, RestorationTask
from fewstep.eval.tasks import options_of, run

COST = ("seconds", "memory")
WAYS = ("default", "diffpir", "dps", "classical")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, add_attention=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    DDPMPipeline(unet, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
    return folder


def options(model, out, **more):
    given = {"model": str(model), "samplers": WAYS, "degradations": ("sr2", "denoise"), "nfe": (4,), "count": 2}
    return RestorationOptions(**{**given, "side": 16, "seeds": 2, "batch": 2, "out": str(out), **more})


def figures(rows):
    return [{key: value for key, value in row.items() if key not in COST} for row in rows]


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    outcome, lines = run(options(model, out), str(out / "more.json"))
    return out, outcome, lines


def test_rows_are_ways_by_degradations_at_their_budget(measured):
    _, outcome, _ = measured
    rows = outcome.rows
    assert outcome.complete
    pairs = {(row["degradation"], row["sampler"]) for row in rows}
    assert pairs == {
        *((task, way) for task in ("sr2", "denoise") for way in WAYS[:3]),
        *(("sr2", way) for way in ("bicubic", "bicubic projected")),
        *(("denoise", way) for way in ("total variation", "wiener")),
    }
    for row in rows:
        assert "error" not in row
        assert row["samples"] == 4
        assert 0 < row["forward"] + row["backward"] <= 4 if row["nfe"] else row["forward"] == 0
        assert row["psnr_luma"] > 0
        assert row["psnr_luma_spread"] is not None
        assert row["ssim"] is not None
        assert row["residual"] >= 0
        assert all(not isinstance(value, (list, dict)) for value in row.values()), "rows are flat"
    assert next(r for r in rows if r["sampler"] == "dps")["backward"] == 2
    classical = [r for r in rows if r["sampler"] == "bicubic"]
    assert classical[0]["psnr_luma_spread"] == 0, "no noise: the seeds change nothing"


def test_files_and_the_readme_table(measured):
    out, outcome, lines = measured
    report = json.loads((out / "results.json").read_text())
    assert json.loads((out / "more.json").read_text()) == report
    assert report["rows"] == outcome.rows
    assert report["command"].startswith("fewstep benchmark --task restoration")
    assert report["settings"]["complete"]
    table = restoration_table(report)
    assert "| 4 evaluations | sr2 | denoise |" in table
    assert "**" in table
    assert "The default is" in table
    assert markdown_table(outcome.rows).count("\n") == len(outcome.rows) + 2
    assert any(line.startswith("sr2, 4 evaluations: default") for line in lines)


def test_a_run_goes_on_where_it_was_stopped_and_comes_out_the_same(model, measured, tmp_path):
    stopped, _ = run(options(model, tmp_path, limit_time=0.0))
    assert not stopped.complete
    assert stopped.rows == []
    outcome, _ = run(options(model, tmp_path))
    assert figures(outcome.rows) == figures(measured[1].rows)
    seconds = [row["seconds"] for row in outcome.rows]
    again, _ = run(options(model, tmp_path))
    assert [row["seconds"] for row in again.rows] == seconds, "taken from the folder"


def test_other_settings_are_measured_anew(model, tmp_path):
    one = RestorationTask(options(model, tmp_path)).plan()
    two = RestorationTask(options(model, tmp_path, noise=20.0)).plan()
    same = {planned.cell.key for planned in one} & {planned.cell.key for planned in two}
    assert {p.row["degradation"] for p in one if p.cell.key in same} == {"sr2"}


def test_batches_do_not_change_figures(model, measured, tmp_path):
    outcome, _ = run(options(model, tmp_path, batch=1, samplers=("diffpir",)))
    whole = [row for row in measured[1].rows if row["sampler"] == "diffpir"]
    for row, other in zip(outcome.rows, whole, strict=True):
        assert row["psnr_luma"] == pytest.approx(other["psnr_luma"], abs=1e-3)


def test_plots_are_drawn(measured, tmp_path):
    pytest.importorskip("matplotlib")
    files = restoration_plots(measured[1].rows, tmp_path)
    assert {file.suffix for file in files} == {".png", ".svg"}


def row(sampler, value, method="m", task="sr2", nfe=8, draws=1, spread=0.0):
    origin = "classical" if nfe == 0 else "own"
    return {
        "degradation": task, "sampler": sampler, "method": method, "fields": "", "draws": draws, "nfe": nfe,
        "psnr_luma": value, "psnr_luma_spread": spread, "origin": origin, "ssim": None,
    }  # fmt: skip


def test_verdicts_leave_the_defaults_own_row_out_and_take_classical_ones_in():
    rows = [row("default", 30.0), row("same", 30.0), row("other", 29.0, "n"), row("plain", 31.0, "p", nfe=0)]
    (found,) = verdicts(rows, {"seeds": 1})
    assert found.rival["sampler"] == "plain"
    assert found.lost
    (found,) = verdicts(rows[:3], {"seeds": 1})
    assert found.rival["sampler"] == "other"
    assert not found.lost
    assert "better" in found.sentence()
    noisy = [row("default", 30.0, spread=1.0), row("other", 30.5, "n", spread=1.0)]
    assert not verdicts(noisy, {"seeds": 4})[0].lost, "two standard errors are 1.41 dB"


def test_colours_are_judged_by_their_own_psnr_and_yardsticks_are_no_rivals():
    made = [
        {**row("default", 100.0, task="colorize"), "psnr": 25.0},
        {**row("other", 120.0, "n", task="colorize"), "psnr": 24.0},
        {**row("ddnm-2m", 90.0, "ddnm-2m", task="colorize"), "psnr": 23.0},
        {**row("ddnm 100", 130.0, "ddnm", task="colorize", nfe=100), "psnr": 26.0},
    ]
    (found,) = verdicts(made, {"seeds": 1})
    assert not found.lost
    assert found.difference == 1.0
    table = restoration_table({"rows": made, "settings": {"seeds": 1}})
    assert "| default | **25.00** |" in table
    assert "| ddnm 100 | 26.00 |" in table
    assert "100 evaluations |" not in table
    assert "it does not reach it for colorize (23.00 against 26.00 dB)" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degradations": ("blur",)}, "unknown degradation 'blur'"),
        ({"side": 8}, "side must be 0 or a whole number of at least 16"),
        ({"noise": -1.0}, "noise must be a finite number"),
        ({"samplers": ("nonsense",)}, "unknown way to restore 'nonsense'"),
        ({"data": "nowhere"}, "is no folder"),
        ({"samplers": ("deepinv",)}, "none of the ways to restore"),
    ],
)
def test_bad_input_is_a_sentence(model, tmp_path, change, message):
    if change.get("samplers") == ("deepinv",):
        from fewstep.eval.restoration_deepinv import missing_deepinv

        if missing_deepinv() is None:
            pytest.skip("deepinv is installed")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        RestorationTask(options(model, tmp_path, **change))


def test_options_of_the_command_line():
    made = options_of("restoration", {"degradations": "sr2,denoise", "nfe": "8,25", "side": 64, "data": "kodak"})
    assert made.degradations == ("sr2", "denoise")
    assert made.nfe == (8, 25)
    assert "--side 64" in made.command()
