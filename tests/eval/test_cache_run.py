"""The comparison of caches as a run: stopped and continued it is the same, its files hold its rows, bad options are
refused before anything is measured."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.cache_benchmark import measure_caches
from fewstep.eval.cache_output import caches_table, markdown_table
from fewstep.eval.cache_run import CacheOptions, run_cache_benchmark

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

COST = ("seconds", "speedup")


def figures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in COST} for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_models

    made = tmp_path_factory.mktemp("caches")
    tiny_models.stable_diffusion(made / "tokens").save_pretrained(made / "tiny")
    (made / "prompts.txt").write_text("a boot\n\na bag\n")
    return made


def options(folder: Path, out: str, **more: Any) -> CacheOptions:
    given: dict[str, Any] = {"model": str(folder / "tiny"), "prompts": str(folder / "prompts.txt"), "seed": 5}
    given |= {"caches": ("none,ab:2,2,taylorseer,fewer-steps",), "samplers": ("ddim",), "repeats": 1}
    return CacheOptions(**{**given, "steps": 10, "count": 3, "batch": 2, "out": str(folder / out), **more})


def test_rows_are_those_of_the_measurement_and_the_files_hold_them(folder: Path) -> None:
    from fewstep.pipelines import load_model

    outcome = run_cache_benchmark(options(folder, "whole"), str(folder / "copy.json"))
    assert outcome.complete
    prompts = ["a boot", "a bag", "a boot"]  # the file's lines, from the start again
    caches = ["none", "ab:2,2", "taylorseer", "fewer-steps"]
    pipe: Any = load_model(folder / "tiny")
    pipe.set_progress_bar_config(disable=True)
    by_hand = measure_caches(pipe, 10, [1.0, 3.0], 3, caches, ["ddim"], prompts, 2, 1, 5)
    assert figures(outcome.rows) == figures(by_hand)
    other = measure_caches(pipe, 10, [1.0], 3, caches, ["ddim"], prompts, 2, 1, 6)
    assert other[1]["psnr"] != by_hand[1]["psnr"]  # the seed counts
    report = json.loads((folder / "whole" / "caches.json").read_text())
    assert report["rows"] == json.loads((folder / "copy.json").read_text())["rows"] == outcome.rows
    assert report["settings"]["seeds"] == [5, 7]
    assert report["command"].startswith("fewstep benchmark --cache none,ab:2,2,taylorseer,fewer-steps --model")
    with (folder / "whole" / "caches.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["real_calls"] for line in table] == [str(r["real_calls"] or "") for r in outcome.rows]
    assert (folder / "whole" / "caches.md").read_text() == markdown_table(outcome.rows)
    assert (folder / "whole" / "caches.png").stat().st_size > 1000
    assert figures(run_cache_benchmark(options(folder, "whole", limit_time=0.0)).rows) == figures(outcome.rows)


def test_a_run_that_was_stopped_measures_only_what_is_missing(folder: Path) -> None:
    first: list[str] = []

    def interrupt(phase: str, done: int, all_: int, text: str) -> None:
        first.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cache_benchmark(options(folder, "stopped"), told=interrupt)
    assert first == ["ddim g 1"]
    stopped = run_cache_benchmark(options(folder, "stopped", limit_time=0.0))
    assert not stopped.complete
    assert {row["guidance"] for row in stopped.rows} == {1.0}
    assert json.loads((folder / "stopped" / "caches.json").read_text())["settings"]["complete"] is False
    second: list[str] = []
    whole = run_cache_benchmark(options(folder, "stopped"), told=lambda phase, done, all_, text: second.append(text))
    assert second == ["ddim g 3"]
    assert whole.rows[: len(stopped.rows)] == stopped.rows
    assert {row["guidance"] for row in whole.rows} == {1.0, 3.0}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"caches": ("teacache",)}, "unknown cache 'teacache'"),
        ({"caches": ("",)}, "name at least one cache"),
        ({"model": "oracle:gaussian"}, "an exact model without a network"),
        ({"prompts": None}, "brings no prompts"),
        ({"prompts": "nowhere.txt"}, "there is no file of prompts 'nowhere.txt'"),
        ({"samplers": ("diffusers:EDMEulerScheduler",)}, "is for EDM models"),
        ({"samplers": ("ghbv",)}, "did you mean 'ghvb"),
        ({"samplers": ("diffusers:Nope",)}, "Nope"),
        ({"guidance": (float("nan"),)}, "guidance must be"),
        ({"count": 0}, "count must be"),
        ({"seed": -1}, "seed must be"),
        ({"limit_time": float("nan")}, "limit_time must be"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(folder: Path, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run_cache_benchmark(options(folder, "refused", **more))
    assert not list((folder / "refused").glob("caches.*"))


def test_samplers_are_named_as_in_the_comparison_of_samplers(folder: Path) -> None:
    given = {"samplers": ("diffusers DPM++ ?M", "ghvb 2.5"), "caches": ("none",), "guidance": (1.0,)}
    rows = run_cache_benchmark(options(folder, "words", **given)).rows
    assert [row["sampler"] for row in rows] == ["diffusers DPM++ 2M", "diffusers DPM++ 3M", "ghvb 2.5"]


def test_a_run_that_is_stopped_leaves_what_has_more_rows(folder: Path) -> None:
    given = {"caches": ("none",), "guidance": (1.0,)}
    whole = run_cache_benchmark(options(folder, "rich", **given))
    before = (folder / "rich" / "caches.json").read_bytes()
    stopped = run_cache_benchmark(options(folder, "rich", **given, seed=9, limit_time=0.0), str(folder / "no.json"))
    assert whole.complete
    assert not stopped.complete
    assert "keeps its result" in stopped.notes[0]
    assert (folder / "rich" / "caches.json").read_bytes() == before
    assert not (folder / "no.json").exists()


def test_several_processes_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process alone"):
        run_cache_benchmark(options(folder, "refused"))


def test_the_table_sets_every_cache_beside_fewer_steps() -> None:
    def row(cache: str, calls: int | None, psnr: float | None, garment: float | None = 0.9, note: str = "") -> Any:
        seconds = None if calls is None else calls / 10
        given = {"sampler": "ddim", "guidance": 3.0, "steps": 10, "colour_accuracy": garment, "skipped": 0}
        speed = None if calls is None else 10 / calls
        figures = {"psnr": psnr, "garment_accuracy": garment, "seconds": seconds, "speedup": speed, "note": note}
        return {"cache": cache, "real_calls": calls, **given, **figures}

    rows = [
        row("none", 10, None, note="the same pictures"),
        row("ab:2,4", 5, 41.0, 0.8),
        row("ab:2,2", 8, 50.0),
        row("magcache", None, None, None, "not supported: no CacheMixin"),
        row("fewer-steps", 8, 44.5),
        row("fewer-steps", 5, 42.0),
    ]
    lines = caches_table({"rows": rows}).splitlines()
    assert lines[0] == "| cache | calls | ddim, g 3 |"
    assert lines[2:6] == [
        "| ab:2,2 | 8 | 50.0 dB, 1.25 x |",
        "| fewer-steps | 8 | 44.5 dB, 1.25 x |",
        "| ab:2,4 | 5 | 41.0 dB, 2.00 x |",
        "| fewer-steps | 5 | 42.0 dB, 2.00 x |",
    ]
    assert "the caches are -1.0 to 5.5 dB above fewer steps." in lines[-1]
    assert "in 1 of 2 cells, where the share is off by at most 10 %." in lines[-1]
    assert lines[-1].endswith("`magcache`: not supported: no CacheMixin.")
