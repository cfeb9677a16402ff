"""The benchmark: our samplers and diffusers' own at equal numbers of network calls, on the same noise and grids.

Run with ``fewstep benchmark`` or ``python -m fewstep.eval.benchmark``. In several processes of one machine with
``--processes N``, on several devices with ``accelerate launch --multi_gpu --num_processes N -m fewstep.eval.benchmark``
(which starts N processes where there is no GPU, too; with ``--cpu`` accelerate starts one, unless there is MPI). The
processes share nothing but the folder `out`.

What is measured and how is said in the modules it is made of: `contenders` (who, and at what price),
`benchmark_problems` (on what, from which noise), `solver_errors` (against which solution), `benchmark_metrics` (the
columns), `benchmark_cells` (how a run stops, goes on and is shared).

Every contender runs at its default grid, which is what ``from_config(pipe.scheduler.config)`` gives it, and at the best
of the named grids that it knows: the one with the smallest solver error over the first `grid_count` samples, chosen for
every guidance and number of calls. Both are rows of the result.

With ``--save-pictures`` a row's ``pictures`` is a folder beside ``results.json`` that ``fewstep evaluate`` takes. Where
there is one such folder alone, ``settings.pictures`` names it, and ``fewstep evaluate OUT/results.json`` finds it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .benchmark_options import Options, command_of, options_of, parser, positive
from .benchmark_run import Benchmark, Outcome, Told, silent


def run_benchmark(options: Options, json: str | None = None, problem: Any = None, told: Told = silent) -> Outcome:
    """Measure, and write ``results.json``, ``table.md``, ``table.csv`` and plots into `options.out`.

    Args:
        options: what to measure.
        json: a second place for the result file (``assets/results/samplers-garments.json``), written once everything
            is measured.
        problem: what to measure on; by default what `options.model` says.
        told: hears how far it is.

    Only the first of several processes writes.
    """
    from .benchmark_output import write_outputs

    bench = Benchmark(options, problem, told)
    with _helpers(options):
        outcome = bench.run()
    if bench.share.rank == 0:
        outcome.files = write_outputs(options.out, command_of(options), outcome.settings, outcome.rows, json)
        if not outcome.files:
            outcome.notes.append(
                f"{options.out} keeps its result, which has more rows than this run, which was stopped"
            )
        elif json and not outcome.complete:
            outcome.notes.append(f"{json} is written once everything is measured")
    return outcome


@contextmanager
def _helpers(options: Options) -> Iterator[None]:
    """The other processes that were asked for, while this one works. They may die: see `measure`."""
    from .benchmark_cells import Share

    count = options.processes
    if count == 1 or Share.of_environment().world > 1:
        yield
        return
    words = shlex.split(command_of(replace(options, processes=1), where=True))[1:]
    started = [
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(1, count)
    ]
    try:
        yield
    finally:
        for process in started:  # all there is to do is done, or this process was stopped
            process.terminate()
            process.wait()


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for every row that could not be measured."""
    return [
        f"{row['sampler']} ({row['grid']}), g {row['guidance']:g}, {row['nfe']} calls failed: {row['error']}"
        for row in rows
        if row.get("error")
    ]


class Progress:
    """Says how far a run is on standard error: at most a line every few seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.every, self.last, self.phase, self.begin = every, 0.0, "", 0.0

    def __call__(self, phase: str, done: int, all_: int, text: str) -> None:
        at = time.monotonic()
        if phase != self.phase:
            self.phase, self.begin = phase, at
        if at - self.last < self.every and done < all_:
            return
        self.last = at
        left = (at - self.begin) / max(done, 1) * (all_ - done)
        print(f"{phase}: {done}/{all_} parts, about {left / 60:.0f} min left; {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m fewstep.eval.benchmark``: 0 done, 3 stopped by the time limit, 2 bad options."""
    given = parser().parse_args(arguments)
    try:
        options = options_of(given)
        if given.threads is not None:
            import torch

            positive("threads", given.threads)
            torch.set_num_threads(given.threads)
        outcome = run_benchmark(options, given.json, told=silent if os.environ.get("RANK", "0") != "0" else Progress())
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for line in (*failures(outcome.rows), *outcome.notes):
        print(line, file=sys.stderr)
    for path in outcome.files:
        print(path)
    return 0 if outcome.complete else 3


if __name__ == "__main__":
    raise SystemExit(main())
