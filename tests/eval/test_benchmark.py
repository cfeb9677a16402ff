"""The benchmark: its cells survive whatever happens, its columns are what they say, its files hold its rows."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.eval.benchmark import failures, main, run_benchmark
from fewstep.eval.benchmark_cells import Cell, OutOfTime, Share, Store, measure
from fewstep.eval.benchmark_metrics import DIVERGED, channel_statistics, magnitude_score, row_of_arrays
from fewstep.eval.benchmark_options import Options, command_of
from fewstep.eval.contenders import Contender

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))

COST = ("seconds", "scheduler_microseconds", "peak_memory_mib")


def figures(rows):
    return [{key: value for key, value in row.items() if key not in COST} for row in rows]


def options(folder, **more):
    given = {
        "model": "oracle:gaussian",
        "samplers": ("ghvb 2.5", "diffusers DEIS"),
        "nfe": (5, 8),
        "guidance": (3.0,),
        "rmse_count": 12,
        "grid_count": 4,
        "batch": 5,
        "reference_steps": 30,
        "out": str(folder / "out"),
        "references": str(folder / "references"),
    }
    return Options(**{**given, **more})


# -- cells ------------------------------------------------------------------------------------------------------------


def squares(cell, items):
    return {"value": np.array([i * i for i in items]), "parts": 1}


def total(cell, arrays):
    return {"sum": int(arrays["value"].sum()), "parts": int(arrays["parts"].sum())}


def test_a_cell_is_the_sum_of_its_parts_and_grows_by_adding_parts(tmp_path):
    store = Store(tmp_path)
    assert measure(store, [Cell({"a": 1}, 10, 4)], squares, total) == [{"sum": 285, "parts": 3}]
    done = []

    def counted(cell, items):
        done.append(items)
        return squares(cell, items)

    assert measure(store, [Cell({"a": 1}, 12, 4)], counted, total) == [{"sum": 506, "parts": 3}]
    assert done == [range(8, 12)]


def test_an_interrupted_cell_goes_on_where_it_stopped(tmp_path):
    store, done = Store(tmp_path), []

    def interrupted(cell, items):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(items)
        return squares(cell, items)

    with pytest.raises(KeyboardInterrupt):
        measure(store, [Cell({"a": 1}, 10, 2)], interrupted, total)
    assert measure(store, [Cell({"a": 1}, 10, 2)], squares, total) == [{"sum": 285, "parts": 5}]
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(OutOfTime):
        measure(store, [Cell({"a": 2}, 10, 2)], squares, total, stop=lambda: True)


def test_what_a_sampler_cannot_do_is_the_cells_row_and_not_the_end(tmp_path):
    def failing(cell, items):
        if cell.settings["a"] == 1:
            raise ValueError("five steps are too few")
        return squares(cell, items)

    rows = measure(Store(tmp_path), [Cell({"a": 1}, 10, 2), Cell({"a": 2}, 10, 2)], failing, total)
    assert rows == [{"error": "ValueError: five steps are too few"}, {"sum": 285, "parts": 5}]

    def full(cell, items):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure(Store(tmp_path), [Cell({"a": 3}, 10, 2)], full, total)


def test_what_failed_is_tried_again_by_the_next_run_alone(tmp_path):
    tries = []

    def failing(cell, items):
        tries.append(items)
        raise RuntimeError("the device is busy")

    store, cell = Store(tmp_path), Cell({"a": 1}, 10, 2)
    for _ in range(2):  # the other processes of the same run
        assert measure(store, [cell], failing, total) == [{"error": "RuntimeError: the device is busy"}]
    assert tries == [range(2)]
    store.forget_failures()
    assert measure(store, [cell], squares, total) == [{"sum": 285, "parts": 5}]


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_part_is_made_again(tmp_path, damage):
    store, cell = Store(tmp_path), Cell({"a": 1}, 10, 4)
    store.write_part(cell, range(4, 8), squares(cell, range(4, 8)))
    store.part_path(cell, range(4, 8)).write_bytes(damage)
    assert measure(store, [cell], squares, total) == [{"sum": 285, "parts": 3}]


def test_parts_go_when_they_are_not_to_be_kept(tmp_path):
    cell = Cell({"a": 1}, 10, 4, keep=False)
    rows = measure(Store(tmp_path), [cell], squares, total)
    assert not list((tmp_path / "parts").rglob("*.npz"))
    assert measure(Store(tmp_path), [cell], squares, total) == rows


def test_a_store_needs_a_folder_it_can_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(ValueError, match="at least one item"):
        Cell({}, 0, 4)


# -- columns ----------------------------------------------------------------------------------------------------------


def test_magnitude_score_is_the_mean_of_what_lies_beyond_three_deviations():
    mean, deviation = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    sound = torch.tensor([1.4, -3.0]).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
    assert magnitude_score(sound, mean, deviation).item() == 0.0
    far = sound.clone()
    far[:, 0] = 1.0 + 0.5 * 5
    assert magnitude_score(far, mean, deviation).item() == pytest.approx(5.0)
    far[:, 0, 2:] = 1.0
    assert magnitude_score(far, mean, deviation).item() == pytest.approx(5.0 / 4)
    far[0, 1, 0, 0] = float("nan")
    assert magnitude_score(far, mean, deviation).item() == math.inf
    large = sound[:, :, :1, :1].expand(1, 2, 64, 64).clone()
    large[0, 0, 0, 0] = 1.0 + 0.5 * 4  # one entry of a block of 4 x 4: one place of 16 x 16
    assert magnitude_score(large, mean, deviation).item() == pytest.approx(4.0 / 256)


def test_channel_statistics_are_those_of_numpy():
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, deviation = channel_statistics(x)
    assert np.allclose(mean, x.numpy().mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(deviation, x.numpy().std((0, 2, 3)), atol=1e-6)


def test_a_row_says_null_where_nothing_was_measured_or_nothing_is_finite():
    cost = {"calls": np.array([8.0, 8.0]), "seconds": np.array([1.0, 2.0])}
    cost |= {"step_microseconds": np.array([5.0, 7.0]), "memory": np.array([10.0, 30.0])}
    row = row_of_arrays({**cost, "distance": np.array([0.3, 0.4, -1.0]), "magnitude": np.array([0.0, 2.0, math.inf])})
    assert row["rmse"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2), rel=1e-5)
    assert row["median_error"] == pytest.approx(0.35)
    assert row["divergence_rate"] == pytest.approx(2 / 3, rel=1e-5)
    assert (row["calls"], row["seconds"], row["peak_memory_mib"], row["fid"]) == (8, 3.0, 30.0, None)
    row = row_of_arrays({**cost, "distance": np.array([0.3, math.nan, 0.2]), "magnitude": np.array([0.0])})
    assert row["rmse"] is None
    assert row["median_error"] == pytest.approx(0.3)
    json.dumps(row, allow_nan=False)
    assert DIVERGED > 0


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    return folder, run_benchmark(options(folder))


def test_every_sampler_has_its_default_and_its_best_grid(done):
    _, outcome = done
    assert outcome.complete
    for name in ("ghvb 2.5", "diffusers DEIS"):
        for nfe in (5, 8):
            rows = [row for row in outcome.rows if (row["sampler"], row["nfe"]) == (name, nfe)]
            assert sum(row["default"] for row in rows) == sum(row["best"] for row in rows) == 1
            assert len({row["grid"] for row in rows}) == len(rows)
            assert all(row["calls"] == nfe for row in rows)


def test_the_best_grid_is_the_best_of_all_that_can_be_measured(done, tmp_path):
    folder, outcome = done
    errors = {}
    for name in ("linspace", "leading", "trailing", "karras", "exponential", "beta"):
        alone = options(folder, samplers=("ghvb 2.5",), nfe=(8,), grids=(name,), rmse_count=4, out=str(tmp_path / name))
        for row in run_benchmark(alone).rows:
            errors[row["grid"]] = row["rmse"]
    best = next(r["grid"] for r in outcome.rows if r["best"] and (r["sampler"], r["nfe"]) == ("ghvb 2.5", 8))
    assert best == min(errors, key=lambda name: errors[name])


def test_the_files_hold_the_rows(done):
    folder, outcome = done
    report = json.loads((folder / "out" / "results.json").read_text())
    assert set(report) == {"command", "versions", "machine", "settings", "rows"}
    assert report["rows"] == outcome.rows
    assert report["settings"]["reference_calls"] == 30
    with (folder / "out" / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["rmse"]) for line in table] == [row["rmse"] for row in outcome.rows]
    text = (folder / "out" / "table.md").read_text()
    assert text.count("\n") == 2 + len(outcome.rows)
    needed = {"sampler", "family", "grid", "guidance", "nfe", "rmse", "fid", "kid", "garment_accuracy"}
    assert needed | {"colour_accuracy", "divergence_rate", "seconds"} <= outcome.rows[0].keys()
    assert all(row["fid"] is None for row in outcome.rows)


def test_a_run_that_is_there_is_not_run_again(done):
    folder, outcome = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "cells").rglob("*.*")}
    again = run_benchmark(options(folder))
    assert again.rows == outcome.rows
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "cells").rglob("*.*")} == before


def test_a_run_out_of_time_writes_what_it_has_and_goes_on_to_the_same_end(done, tmp_path, monkeypatch):
    _, outcome = done
    stopped = run_benchmark(options(tmp_path, limit_time=0.0))
    assert not stopped.complete
    assert stopped.rows == []
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["complete"] is False
    from fewstep.eval.benchmark_run import Benchmark

    calls = iter(range(10_000))
    with monkeypatch.context() as patch:  # the clock: the time is up after a third of the parts
        patch.setattr(Benchmark, "out_of_time", lambda self: next(calls) > 35)
        part = run_benchmark(options(tmp_path))
    assert not part.complete
    assert figures(run_benchmark(options(tmp_path)).rows) == figures(outcome.rows)


def test_a_run_that_is_stopped_leaves_what_has_more_rows(tmp_path):
    whole = run_benchmark(options(tmp_path), str(tmp_path / "copy.json"))
    before = [(path, path.read_bytes()) for path in (*whole.files, tmp_path / "copy.json")]
    stopped = run_benchmark(options(tmp_path, reference_steps=31, limit_time=0.0), str(tmp_path / "copy.json"))
    assert not stopped.complete
    assert "keeps its result" in stopped.notes[-1]
    assert [(path, path.read_bytes()) for path, _ in before] == before
    elsewhere = options(tmp_path, out=str(tmp_path / "other"), limit_time=0.0)
    assert run_benchmark(elsewhere, str(tmp_path / "other.json")).notes[-1].endswith("once everything is measured")
    assert not (tmp_path / "other.json").exists()


def test_code_is_part_of_what_a_cell_is_named_after():
    from fewstep.eval.benchmark_oracles import OracleProblem
    from fewstep.eval.benchmark_problems import _meaning, code_hash

    assert OracleProblem("gaussian").fingerprint["versions"]["code"] == code_hash()
    text = "def f(x):\n    return x + 1\n"
    assert _meaning(text) == _meaning('"Said."\n\ndef f(x):  # why\n    "Said."\n    return x+1\n')
    assert _meaning(text) != _meaning(text.replace("1", "2"))


def test_contenders_that_differ_in_what_is_no_json_are_told_apart(tmp_path):
    given = {"samplers": ("diffusers:SASolverScheduler", "diffusers SA-Solver tau 0"), "nfe": (12,)}
    both = run_benchmark(options(tmp_path, **given, grids=("default",))).rows
    given["samplers"] = ("diffusers SA-Solver tau 0",)
    alone = run_benchmark(options(tmp_path, **given, grids=("default",), out=str(tmp_path / "alone"))).rows
    assert both[1]["rmse"] == alone[0]["rmse"] != both[0]["rmse"]
    assert alone[0]["note"] == "ends at the lowest noise level, not at clean data"


def test_samples_do_not_depend_on_the_batch(done, tmp_path):
    _, outcome = done
    other = run_benchmark(options(tmp_path, batch=12)).rows
    for row, same in zip(outcome.rows, other, strict=True):
        assert same["rmse"] == pytest.approx(row["rmse"], rel=1e-5)


def test_the_command_makes_the_same_options_again(tmp_path):
    given = options(tmp_path, samplers=("exponential-adams 3*", "diffusers DEIS"), guidance=(1.0, 7.5))
    words = command_of(given)
    assert "'exponential-adams 3*,diffusers DEIS'" in words
    assert "--guidance 1,7.5" in words
    assert command_of(Options(save_pictures=True)).endswith("--save-pictures")
    assert str(tmp_path) not in words


def test_a_sampler_that_fails_is_a_row_with_its_reason(tmp_path):
    from fewstep.eval.benchmark_oracles import OracleProblem

    class Broken(OracleProblem):
        def run(self, contender, grid, guidance, steps, items):
            if contender.sampler == "ghvb":
                raise IndexError("index 5 is out of bounds")
            return super().run(contender, grid, guidance, steps, items)

    rows = run_benchmark(options(tmp_path, nfe=(5,)), problem=Broken("gaussian")).rows
    errors = [row for row in rows if "error" in row]
    assert {row["sampler"] for row in errors} == {"ghvb 2.5"}
    assert all(row["rmse"] is None and "out of bounds" in row["error"] for row in errors)
    assert all(row["rmse"] is not None for row in rows if row["sampler"] != "ghvb 2.5")
    assert failures(rows)[0].startswith("ghvb 2.5 (")
    assert failures(rows)[0].endswith("g 3, 5 calls failed: IndexError: index 5 is out of bounds")
    again = run_benchmark(options(tmp_path, nfe=(5,))).rows
    assert not any("error" in row for row in again)


def test_a_pipeline_of_ones_own_with_a_file_of_prompts(tmp_path):
    import tiny_models

    tiny_models.stable_diffusion(tmp_path / "tokens").save_pretrained(tmp_path / "tiny")
    (tmp_path / "prompts.txt").write_text("a red bag\n\na shirt\n")
    given = {"model": str(tmp_path / "tiny"), "prompts": str(tmp_path / "prompts.txt"), "grids": ("default",)}
    rows = run_benchmark(
        options(tmp_path, **given, rmse_count=3, reference_steps=8, samplers=("ddim", "diffusers Heun"))
    ).rows
    assert [row["calls"] for row in rows] == [5, 5, 8, 7]
    assert all(row["rmse"] > 0 and row["fid"] is None for row in rows)
    with pytest.raises(ValueError, match="brings no prompts"):
        run_benchmark(options(tmp_path, model=str(tmp_path / "tiny")))
    (tmp_path / "prompts.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no prompts"):
        run_benchmark(options(tmp_path, **given))


def test_the_columns_of_pictures_are_those_of_the_judge(tmp_path):
    from scipy.linalg import sqrtm

    import fewstep.assets
    from fewstep.eval.benchmark_problems import garments_problem
    from fewstep.eval.statistics import Statistics

    problem = garments_problem(device="cpu")
    given = {"model": "garments", "samplers": ("ddim",), "nfe": (5,), "count": 24, "rmse_count": 4, "batch": 12}
    row = run_benchmark(options(tmp_path, **given, grids=("default",), reference_steps=10), problem=problem).rows[0]
    run = problem.run(Contender("ddim", "ddim"), None, 3.0, 5, range(24))
    judged = problem.judged(run.latents, range(24))
    x = judged["features"].double().numpy()
    data = Statistics.load(Path(fewstep.assets.__file__).parent / "statistics" / "garments.npz")
    root = sqrtm(np.cov(x.T) @ data.cov.numpy()).real
    fid = np.square(x.mean(0) - data.mean.numpy()).sum() + np.trace(np.cov(x.T) + data.cov.numpy() - 2 * root)
    assert row["fid"] == pytest.approx(fid, rel=1e-3)
    assert row["garment_accuracy"] == pytest.approx(judged["garment_right"].mean().item(), rel=1e-5)
    assert row["colour_accuracy"] == pytest.approx(judged["colour_right"].mean().item(), rel=1e-5)
    assert row["garment_accuracy"] > 0.5  # the labels belong to the prompts
    assert row["divergence_rate"] == 0.0
    assert len(set(problem.prompts)) == 500


def test_pictures_of_the_most_accurate_samplers_alone(tmp_path):
    given = {"samplers": ("adams-bashforth 2", "lml", "diffusers DEIS"), "nfe": (5,), "grids": ("karras",)}
    given |= {"model": "garments", "count": 6, "rmse_count": 4, "batch": 4, "reference_steps": 10, "grid_count": 4}
    rows = run_benchmark(options(tmp_path, **given, picture_samplers=1)).rows
    seen = {row["sampler"] for row in rows if row["fid"] is not None}
    ours = [row for row in rows if row["family"] == "fewstep" and row["best"]]
    assert seen == {min(ours, key=lambda row: row["rmse"])["sampler"], "diffusers DEIS"}
    assert {row["samples"] for row in rows if row["fid"] is not None} == {6}
    assert {row["samples"] for row in rows if row["fid"] is None} == {4}
    assert all(row["best"] for row in rows if row["fid"] is not None)


def test_saved_pictures_are_those_that_were_judged_and_evaluate_finds_them(tmp_path):
    from fewstep.eval.benchmark_problems import garments_problem
    from fewstep.eval.pictures import open_pictures

    given = {"model": "garments", "samplers": ("ddim",), "nfe": (5,), "count": 6, "rmse_count": 4, "batch": 4}
    given |= {"grids": ("default",), "reference_steps": 10, "metrics": ("accuracy",), "save_pictures": True}
    row = run_benchmark(options(tmp_path, **given), str(tmp_path / "copy" / "results.json")).rows[0]
    problem = garments_problem(device="cpu")
    latents = problem.run(Contender("ddim", "ddim"), None, 3.0, 5, range(4)).latents
    expected = ((problem.pictures(latents) + 1) / 2).clamp(0, 1)
    for path in (tmp_path / "out" / "results.json", tmp_path / "copy" / "results.json"):
        found = open_pictures(path)
        assert found.count == 6
        assert torch.allclose(next(iter(found.batches(4))).images, expected, atol=1.01 / 255)
    assert len(list((tmp_path / "out" / row["pictures"]).glob("*"))) == 6
    again = run_benchmark(options(tmp_path, **{**given, "count": 5}))  # fewer: not those of the run before
    assert open_pictures(tmp_path / "out" / "results.json").count == 5
    assert again.settings["pictures"] == again.rows[0]["pictures"] != row["pictures"]
    two = run_benchmark(options(tmp_path, **{**given, "count": 5, "nfe": (5, 6)}))
    assert "pictures" not in two.settings
    assert len({row["pictures"] for row in two.rows}) == 2


def test_what_is_asked_for_and_cannot_be_had_is_said(tmp_path):
    outcome = run_benchmark(options(tmp_path, limit_time=0.0))
    assert outcome.notes[0] == "fid, kid, accuracy are not measured on oracle:gaussian: it has no judge"
    assert run_benchmark(options(tmp_path, limit_time=0.0, metrics=("rmse",))).notes == []
    (tmp_path / "prompts.txt").write_text("a red bag\n")
    given = {"model": "garments", "prompts": str(tmp_path / "prompts.txt"), "limit_time": 0.0}
    assert "with prompts of your own no answers are known" in run_benchmark(options(tmp_path, **given)).notes[0]


def test_a_recipe_that_fits_no_number_of_calls_or_another_process_is_refused(tmp_path):
    from fewstep.eval.benchmark_run import check_fit

    made = Contender("tuned mine", "tuned", {}, ("vp",), only=(6, 8))
    check_fit([made], "vp", (5, 8))
    with pytest.raises(ValueError, match=r"tuned mine was tuned for 6, 8 network calls, and asked for are 5, 10"):
        check_fit([made], "vp", (5, 10))
    with pytest.raises(ValueError, match="tuned mine is for vp models, and this one is a flow model"):
        check_fit([made], "flow", (8,))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guidance", "abc"], "--guidance is a list of numbers such as 1,3,7.5"),
        (["--prompts", "nowhere.txt"], "there is no file of prompts 'nowhere.txt'"),
        (["--model", "oracle:gaussian", "--device", "cuda"], "leave --device away"),
        (
            ["--model", "oracle:gaussian", "--dtype", "float16", "--save-pictures"],
            "leave --dtype, --save-pictures away",
        ),
        (["--nfe", "five"], "list of whole numbers"),
        (["--metrics", "fdi"], "did you mean 'fid'"),
        (["--grids", "karas"], "did you mean 'karras'"),
        (["--guidance", "-1"], "guidance must be"),
        (["--count", "0"], "count must be"),
        (["--samplers", "ghbv"], "unknown sampler 'ghbv'"),
        (["--model", "oracle:mixtre"], "unknown exact model"),
        (["--limit-time", "nan"], "limit_time must be"),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(tmp_path, capsys, words, said):
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_shares_are_read_from_the_environment(monkeypatch):
    assert Share.of_environment() == Share(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Share.of_environment() == Share(1, 3)
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ValueError, match="two whole numbers, got 'x' and '3'"):
        Share.of_environment()
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="RANK must lie"):
        Share.of_environment()


def test_other_weights_of_the_decoder_are_another_cell_of_pictures_but_not_of_latents(tmp_path):
    from fewstep.eval.benchmark_problems import garments_problem
    from fewstep.eval.benchmark_run import Benchmark

    problem = garments_problem(device="cpu")
    made = Contender("ddim", "ddim")

    def keys():
        bench = Benchmark(options(tmp_path, model="garments", samplers=("ddim",)), problem)
        return [bench.cell(made, None, 3.0, 5, 4, pictures).key for pictures in (False, True)]

    before = keys()
    assert keys() == before
    with torch.no_grad():
        next(problem.pipe.vae.decoder.parameters()).mul_(1.01)
    after = keys()
    assert after[0] == before[0]
    assert after[1] != before[1]
