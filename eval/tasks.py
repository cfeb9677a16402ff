"""The tasks of ``fewstep benchmark --task``, and their processes.

A task is a name, a class of options and a class of `task_run.Task`. On several devices, ``accelerate launch
--multi_gpu --num_processes N -m fewstep.eval.tasks text --nfe 8,16``.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fewstep.samplers.core.registry import nearest

from .benchmark_run import Outcome, Told, silent
from .task_options import TaskOptions, parse, read

#: Name -> module, class of the options, class of the task. `pictures` is the comparison of `benchmark`.
TASKS: dict[str, tuple[str, str, str]] = {
    "text": ("text_run", "TextOptions", "TextTask"),
    "tokens": ("token_run", "TokenOptions", "TokenTask"),
    "restoration": ("restoration_run", "RestorationOptions", "RestorationTask"),
    "editing": ("editing_run", "EditingOptions", "EditingTask"),
}


def options_class(name: str) -> type[TaskOptions]:
    """The options of a task.

    Raises:
        ValueError: an unknown task, with the nearest.
    """
    if name not in TASKS:
        known = ("pictures", *TASKS)
        raise ValueError(f"unknown task {name!r}{nearest(name, known)} Known are {', '.join(known)}")
    module, options, _ = TASKS[name]
    return getattr(importlib.import_module(f".{module}", __package__), options)


def options_of(name: str, given: dict[str, Any]) -> TaskOptions:
    """Options of a task from what was typed on the command line, lists as text.

    Raises:
        ValueError: an option that the task does not have, or a value out of range.
    """
    cls = options_class(name)
    known = cls.__dataclass_fields__
    if useless := [f"--{key.replace('_', '-')}" for key in given if key not in known]:
        raise ValueError(f"{', '.join(useless)} cannot be had with --task {name}")
    return cls(**{key: parse(cls, key, value) for key, value in given.items()})


def run(options: TaskOptions, json: str | None = None, told: Told = silent) -> tuple[Outcome, list[str]]:
    """Measure a task and write its files; returns the outcome, and what its rows say in short."""
    from .task_run import run_task

    module, _, task = TASKS[options.task]
    made = getattr(importlib.import_module(f".{module}", __package__), task)(options)
    with _helpers(options):
        outcome = run_task(made, json, told)
    return outcome, made.lines(outcome.rows, outcome.settings)


@contextmanager
def _helpers(options: TaskOptions) -> Iterator[None]:
    """The other processes that were asked for, while this one works; they may die."""
    from .benchmark_cells import Share

    if options.processes == 1 or Share.of_environment().world > 1:
        yield
        return
    words = [sys.executable, "-m", "fewstep.eval.tasks", options.task, *options.words(where=True)]
    started = [
        subprocess.Popen(
            words,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(options.processes)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(1, options.processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m fewstep.eval.tasks TASK``: 0 done, 3 stopped by the time limit, 2 bad options."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given:
            raise ValueError(f"name a task: {', '.join(TASKS)}")
        options = read(options_class(given[0]), given[1:], f"python -m fewstep.eval.tasks {given[0]}")
        if options.device is None and "LOCAL_RANK" in os.environ:
            from dataclasses import replace

            from .benchmark_run import own_device

            options = replace(options, device=own_device(None))
        from .benchmark import Progress

        outcome, lines = run(options, told=silent if os.environ.get("RANK", "0") != "0" else Progress())
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for line in (*lines, *outcome.notes, *map(str, outcome.files)):
        print(line)
    return 0 if outcome.complete else 3


if __name__ == "__main__":
    raise SystemExit(main())
