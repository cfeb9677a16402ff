"""One process' part in a task of the benchmark: cells of (sampler, number of calls, ...), rows, files.

A `Task` says what its cells are, how a part of one is measured and what the arrays of all parts come to; stopping,
continuing and sharing are those of `benchmark_cells`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fewstep.pipelines.files import write_atomically

from .benchmark_cells import Arrays, Cell, OutOfTime, Share, Store, measure
from .benchmark_output import csv_table, is_poorer
from .benchmark_problems import hash_of_sources
from .benchmark_run import Outcome, Told, silent
from .results import write_results
from .task_options import TaskOptions

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Planned:
    """A cell, and the columns of its row that are known before it is measured."""

    cell: Cell
    row: Mapping[str, Any]
    contender: Any = field(compare=False, default=None)


class Task(ABC):
    """Something that samplers are compared on.

    Attributes:
        name: for ``--task``.
        columns: of a row, which are None where the cell failed.
        options: what to measure.
        notes: sentences about what was asked for and is not there.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    options: TaskOptions
    notes: list[str]

    @abstractmethod
    def plan(self) -> list[Planned]:
        """All cells, in the order of the rows."""

    @abstractmethod
    def compute(self, planned: Planned, items: range) -> Mapping[str, Any]:
        """Arrays of one part."""

    @abstractmethod
    def merge(self, cell: Cell, arrays: Arrays) -> Mapping[str, Any]:
        """Columns of a row from all parts of a cell."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the rows have in common."""

    @abstractmethod
    def markdown(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        """All rows as a table."""

    @abstractmethod
    def lines(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
        """What the rows say in short."""

    @abstractmethod
    def plots(self, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> list[Path]:
        """Draw them; raises ImportError without matplotlib."""


def run_task(task: Task, json: str | None = None, told: Told = silent) -> Outcome:
    """Measure, and write ``results.json``, ``table.md``, ``table.csv`` and plots into the folder of the options.

    Args:
        task: what to measure.
        json: a second place for the result file, written once everything is measured.
        told: hears how far it is.

    Only the first of several processes writes.
    """
    options = task.options
    if json and Path(json).is_dir():
        raise IsADirectoryError(f"{json} is a folder; --json is the file that the result is written to")
    share = Share.of_environment()
    if share.world == 1:
        share = Share(0, options.processes)
    store = Store(Path(options.out) / "cells")
    if share.rank == 0:
        store.forget_failures()
    plan = task.plan()
    of_key = {planned.cell.key: planned for planned in plan}
    begin = time.monotonic()

    def compute(cell: Cell, items: range) -> Mapping[str, Any]:
        return task.compute(of_key[cell.key], items)

    def merge(cell: Cell, arrays: Arrays) -> Mapping[str, Any]:
        return task.merge(cell, arrays)

    def is_over() -> bool:
        return options.limit_time is not None and time.monotonic() - begin >= options.limit_time

    def said(done: int, all_: int, cell: Cell) -> None:
        row = of_key[cell.key].row
        told(task.name, done, all_, f"{row['sampler']}, {row['nfe']} calls")

    complete = True
    try:
        measure(store, [planned.cell for planned in plan], compute, merge, share, is_over, said)
    except OutOfTime:
        complete = False
    rows: list[dict[str, Any]] = []
    for planned in plan:
        found = store.row(planned.cell)
        if found is not None:
            rows.append({**planned.row, **dict.fromkeys(task.columns), **found})
    settings = {**task.settings(), "complete": complete}
    outcome = Outcome(rows, settings, complete, notes=list(task.notes))
    outcome.notes += [f"{r['sampler']}, {r['nfe']} calls failed: {r['error']}" for r in rows if r.get("error")]
    if share.rank == 0:
        outcome.files = _write(task, rows, settings, json)
        if not outcome.files:
            outcome.notes.append(
                f"{options.out} keeps its result, which has more rows than this run, which was stopped"
            )
        elif json and not complete:
            outcome.notes.append(f"{json} is written once everything is measured")
    return outcome


def _write(task: Task, rows: Sequence[Row], settings: Mapping[str, Any], json: str | None) -> list[Path]:
    folder, command = Path(task.options.out), task.options.command()
    files = [folder / "results.json"]
    if is_poorer(files[0], settings, rows):
        return []
    write_results(files[0], command, settings, rows)
    if json and settings["complete"]:
        files.append(Path(json))
        write_results(json, command, settings, rows)
    for name, text in (("table.md", task.markdown(rows, settings)), ("table.csv", csv_table(rows))):
        write_atomically(folder / name, text.encode())
        files.append(folder / name)
    with contextlib.suppress(ImportError):
        files += task.plots(rows, settings, folder)
    return files


def over_seeds(values: Sequence[float | None], digits: int = 5) -> tuple[float | None, float | None]:
    """(mean, standard deviation) over the seeds; None where one is missing, and no spread of a single one."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if len(known) < len(values):
        return None, None
    mean = float(f"{np.mean(known):.{digits}g}")
    return mean, float(f"{np.std(known, ddof=1):.3g}") if len(known) > 1 else None


def split_by_seed(items: int, seeds: int) -> list[slice]:
    """The items of each seed."""
    each = items // seeds
    return [slice(k * each, (k + 1) * each) for k in range(seeds)]


@functools.cache
def versions_of_tokens(*modules: str) -> dict[str, str]:
    """Versions that tokens drawn by a solver depend on; of our own code the hash of what draws and measures them."""
    import fewstep.samplers

    samplers = Path(str(fewstep.samplers.__file__)).parent
    files = [*samplers.glob("discrete/*.py"), samplers / "token_schedulers.py"]
    files += [Path(__file__).with_name(f"{module}.py") for module in ("task_run", *modules)]
    libraries = {name: version(name) for name in ("diffusers", "torch", "transformers")}
    return {**libraries, "code": hash_of_sources([(file.name, file) for file in files])}


def item_seeds(options: TaskOptions, items: range) -> list[int]:
    """The seeds of some items."""
    return [options.seed + i for i in items]
