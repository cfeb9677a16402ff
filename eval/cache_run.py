"""The comparison of caches as a run that can be stopped: one cell a sampler and guidance scale, then its files.

What is measured is said in `cache_benchmark`. The caches of one sampler and one guidance scale are measured together,
since their times only compare when the runs alternate: such a group is the cell of `benchmark_cells` that a run which
was stopped does not measure again. Everything runs in one process, because a neighbour would spoil the times.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps, loads
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .benchmark_cells import Arrays, Cell, OutOfTime, Share, Store, measure
from .benchmark_options import positive
from .benchmark_run import Outcome, Told, check_fit, silent
from .cache_benchmark import FIGURES, HOSTS, judge, measure_caches, split_caches
from .contenders import Contender, select
from .features import hash_of_module


@dataclass(frozen=True)
class CacheOptions:
    """What a comparison of caches measures.

    Attributes:
        caches: texts as `cache_benchmark.split_caches` knows them.
        model: a shipped model, a folder, or a name on the hub.
        samplers: words that `contenders.select` understands.
        steps: network calls of the full run.
        guidance: guidance scales.
        count: pictures.
        seed: of the first picture.
        batch: pictures that go through the network together.
        repeats: runs of everything; the best time counts.
        prompts: file of prompts, one a line, for other models than `garments`.
        out: folder of the results.
        limit_time: seconds after which the run stops, between two cells.
        device, dtype: as in `fewstep.pipelines.load`.
    """

    caches: tuple[str, ...]
    model: str = "garments"
    samplers: tuple[str, ...] = HOSTS
    steps: int = 30
    guidance: tuple[float, ...] = (1.0, 3.0)
    count: int = 24
    seed: int = 0
    batch: int = 24
    repeats: int = 3
    prompts: str | None = None
    out: str = "benchmark"
    limit_time: float | None = None
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        from fewstep.pipelines.loading import find_model

        found = [name for text in self.caches for name in split_caches(text)]
        if not found or not self.samplers or not self.guidance:
            raise ValueError("name at least one cache, sampler and guidance scale")
        object.__setattr__(self, "caches", tuple(dict.fromkeys(found)))
        for name in ("steps", "count", "batch", "repeats"):
            positive(name, getattr(self, name))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        for guidance in self.guidance:
            if not 0 <= guidance < float("inf"):
                raise ValueError(f"guidance must be a finite number of at least 0, got {guidance!r}")
        if self.limit_time is not None and not self.limit_time >= 0:
            raise ValueError(f"limit_time must be a number of seconds of at least 0, got {self.limit_time!r}")
        if self.model.startswith("oracle:"):
            raise ValueError(f"{self.model} is an exact model without a network; caches need a model such as garments")
        find_model(self.model)
        if self.model != "garments" and self.prompts is None:
            raise ValueError(
                f"the model {self.model!r} brings no prompts of its own; give a file of prompts, one a line"
            )
        if self.model == "garments":  # before a model is loaded
            check_fit(select(self.samplers), "vp", (self.steps,))

    def command(self) -> str:
        """The command line that measures the same; where the results are and how long is left out."""
        given = ["fewstep", "benchmark", "--cache", ",".join(self.caches), "--model", self.model]
        given += ["--samplers", ",".join(self.samplers), "--steps", str(self.steps)]
        given += ["--guidance", ",".join(f"{g:g}" for g in self.guidance), "--count", str(self.count)]
        given += ["--batch", str(self.batch), "--seed", str(self.seed)]
        for name in ("prompts", "device", "dtype"):
            if getattr(self, name) is not None:
                given += [f"--{name}", getattr(self, name)]
        return shlex.join(given)


def run_cache_benchmark(options: CacheOptions, json: str | None = None, told: Told = silent) -> Outcome:
    """Measure, and write ``caches.json``, ``caches.md``, ``caches.csv`` and a plot into `options.out`.

    Args:
        options: what to measure.
        json: a second place for the result file, written once everything is measured.
        told: hears how far it is.

    Raises:
        ValueError: several processes were started.
        OSError: the folder cannot be written.
    """
    from fewstep.pipelines import load_model

    from .benchmark_problems import ModelProblem, measure_hash
    from .benchmark_run import read_prompts
    from .cache_output import write_cache_outputs

    if Share.of_environment().world > 1:
        raise ValueError("caches are measured by one process alone, for the sake of their times; start one")
    begin = time.monotonic()
    texts = None
    if options.prompts is not None:
        lines = read_prompts(options.prompts)
        texts = [lines[i % len(lines)] for i in range(options.count)]
    store = Store(Path(options.out) / "cells")
    pipe: Any = load_model(options.model, device=options.device, dtype=options.dtype)
    problem = ModelProblem(pipe, texts or [options.model], options.seed, options.model)
    pipe.set_progress_bar_config(disable=True)
    hosts = select(options.samplers, problem.process)
    check_fit(hosts, problem.process, (options.steps,))
    for host in hosts:  # what this model cannot have is refused before anything is measured
        problem.make_scheduler(host, None, 1.0)
    store.forget_failures()
    common = {
        "kind": "cache",
        "problem": dict(problem.fingerprint),
        "code": measure_hash("cache_benchmark", "cache_built_in", "judge"),
        "judging": problem.judging() | ({"judge": hash_of_module(judge())} if options.model == "garments" else {}),
        "threads": torch.get_num_threads(),
        **{name: getattr(options, name) for name in ("steps", "count", "batch", "repeats")},
        "caches": list(options.caches),
    }
    host_of: dict[str, Contender] = {}
    cells = []
    for host in hosts:
        hidden = sorted(f"{key}={value.__name__}" for key, value in host.hidden.items())
        for scale in options.guidance:
            own = {"sampler": host.name, "method": host.sampler, "fields": dict(host.fields), "hidden": hidden}
            cells.append(Cell({**common, **own, "guidance": float(scale)}, 1, 1))
            host_of[cells[-1].key] = host

    def compute(cell: Cell, items: range) -> dict[str, Any]:
        found = measure_caches(
            pipe,
            options.steps,
            [cell.settings["guidance"]],
            options.count,
            options.caches,
            [host_of[cell.key]],
            texts,
            options.batch,
            options.repeats,
            options.seed,
        )
        return {"rows": np.array(dumps(found, allow_nan=False))}

    def said(done: int, all_: int, cell: Cell) -> None:
        told("caches", done, all_, f"{cell.settings['sampler']} g {cell.settings['guidance']:g}")

    complete = True
    try:
        measure(store, cells, compute, _rows, Share(), lambda: _is_over(begin, options.limit_time), said)
    except OutOfTime:
        complete = False
    rows = [row for cell in cells for row in _reported(cell, store.settle(cell, _rows))]
    settings = {
        "model": options.model,
        "samples": options.count,
        "seeds": [options.seed, options.seed + options.count - 1],
        "psnr": "median over pictures, to the run without a cache",
        "seconds": f"best of {options.repeats}, interleaved",
        "threads": torch.get_num_threads(),
        "device": problem.device.type,
        "complete": complete,
    }
    files = write_cache_outputs(options.out, options.command(), settings, rows, json)
    outcome = Outcome(rows, settings, complete, files)
    if not files:
        outcome.notes.append(f"{options.out} keeps its result, which has more rows than this run, which was stopped")
    elif json and not complete:
        outcome.notes.append(f"{json} is written once everything is measured")
    return outcome


def _is_over(begin: float, limit: float | None) -> bool:
    return limit is not None and time.monotonic() - begin >= limit


def _rows(cell: Cell, arrays: Arrays) -> dict[str, Any]:
    return {"rows": loads(str(arrays["rows"][0]))}


def _reported(cell: Cell, found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows of a cell; of one that cannot be measured one row that says why, of one not yet measured none."""
    if found is None:
        return []
    if "error" not in found:
        return list(found["rows"])
    s = cell.settings
    row = {"sampler": s["sampler"], "cache": "none", "guidance": s["guidance"], "steps": s["steps"]}
    return [{**row, **dict.fromkeys(FIGURES), "note": found["error"]}]
