"""Solver error: how far a sampler ends from the exact solution of its own ODE, from the same noise.

It is the figure behind quality at few steps that no metric's noise blurs: e_i = ||x_i - x_i*|| / sqrt(D), with x_i the
sample that n network calls gave and x_i* the solution of the same probability-flow ODE (same network, prompt, guidance
and noise). Reported are the root mean square of e_i and its median, which a few diverged samples do not move. What "the
same ODE from the same noise" means where grids differ is said in `benchmark_problems`.

The solution comes from a converged run, computed once and kept on disk under the hash of weights, prompts, guidance,
seeds and process. How converged it is, is measured against another solver: `Reference.residual`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .benchmark_cells import Cell, Share, Store, measure
from .benchmark_problems import ModelProblem, Problem, problem_of
from .contenders import Contender, contenders

#: Samples on which the reference is compared with the second solver.
CHECKED = 16
#: Network calls of the reference.
REFERENCE_STEPS = 200


@dataclass(frozen=True)
class Solver:
    """A sampler at a grid."""

    contender: Contender
    grid: str

    def __str__(self) -> str:
        return f"{self.contender.name} on the {self.grid} grid"


def reference_solvers(process: str) -> tuple[Solver, Solver]:
    """The solver of the reference and the one that checks it, for a forward process.

    Second-order exponential Adams and third-order Adams-Bashforth with the grid's own weights, on Karras' grid, which
    goes down to the lowest noise level of the process and converges some twenty times faster there than equal
    timesteps; for a flow on equal sigmas. Below the lowest noise level the network says nothing: both end with one
    first-order step from there, which is part of what the solution means.
    """
    grid = "trailing" if process == "flow" else "karras"
    second = {"order": 3, "weights": "variable", "euler_at_final": True}
    return (
        Solver(Contender("exponential-adams 2", "exponential-adams", {"order": 2}), grid),
        Solver(Contender("adams-bashforth 3 variable", "adams-bashforth", second), grid),
    )


def reference_cache() -> Path:
    """Where references are kept: fewstep/references in $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fewstep" / "references"


@dataclass(frozen=True)
class Reference:
    """Converged solutions.

    Attributes:
        latents: (count, ...) on the host.
        residual: root mean square distance to what the second solver gives, over the first `CHECKED` samples; an upper
            bound, but for chance, of the error of either.
        solver: which it was, in words.
        calls: network calls it took for each sample.
    """

    latents: torch.Tensor
    residual: float
    solver: str
    calls: int


def root_mean_square(difference: torch.Tensor) -> torch.Tensor:
    """Root mean square of each sample: (B, ...) -> (B,), float64."""
    return difference.double().flatten(1).square().mean(1).sqrt()


def _cell(problem: Problem, solver: Solver, guidance: float, steps: int, count: int, batch: int) -> Cell:
    settings = {
        "kind": "reference",
        "problem": dict(problem.fingerprint),
        "sampler": solver.contender.sampler,
        "fields": dict(solver.contender.fields),
        "grid": solver.grid,
        "guidance": float(guidance),
        "steps": steps,
    }
    return Cell(settings, count, batch)


def reference_solutions(
    problem: Problem,
    guidances: Sequence[float],
    count: int,
    *,
    steps: int = REFERENCE_STEPS,
    batch: int = 50,
    cache: str | Path | None = None,
    share: Share | None = None,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[int, int, Cell], None] = lambda done, all_, cell: None,
) -> dict[float, Reference]:
    """Converged solutions of samples 0 .. count - 1 at each guidance, from disk where they are.

    Args:
        problem: model, prompts and noise.
        guidances: guidance scales.
        count: number of samples.
        steps: network calls of the reference.
        batch: samples that go through the network together.
        cache: folder; by default `reference_cache`.
        share, stop, told: as in `benchmark_cells.measure`.

    Raises:
        FloatingPointError: a reference came out as values that are not finite.
        RuntimeError: the solver failed.
    """
    store = Store(reference_cache() if cache is None else cache)
    solver, second = reference_solvers(problem.process)
    cells = [_cell(problem, solver, g, steps, count, batch) for g in guidances]
    checks = [_cell(problem, second, g, steps, min(CHECKED, count), batch) for g in guidances]

    if share is None or share.rank == 0:
        store.forget_failures([*cells, *checks])

    def compute(cell: Cell, items: range) -> Mapping[str, Any]:
        which = second if cell.settings["sampler"] == second.contender.sampler else solver
        run = problem.run(which.contender, which.grid, cell.settings["guidance"], steps, items)
        return {"latents": run.latents.numpy(), "calls": run.calls}

    def merge(cell: Cell, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"calls": int(arrays["calls"].max()), "samples": len(arrays["latents"])}

    rows = measure(store, [*cells, *checks], compute, merge, share, stop, told)
    found = {}
    for g, cell, check, row in zip(guidances, cells, checks, rows, strict=False):
        whole, other = store.joined(cell), store.joined(check)
        if whole is None or other is None:
            reason = store.failure(cell) or store.failure(check) or "a part is missing"
            raise RuntimeError(f"the reference solution at guidance {g:g} could not be computed: {reason}")
        latents = torch.from_numpy(whole["latents"])
        if not latents.isfinite().all():
            raise FloatingPointError(
                f"the reference solution at guidance {g:g} is not finite: {solver} diverged in {steps} steps"
            )
        off = root_mean_square(latents[: len(other["latents"])] - torch.from_numpy(other["latents"]))
        residual = float(off.square().mean().sqrt())
        found[g] = Reference(latents, residual, f"{solver}, checked by {second}", row["calls"])
    return found


@dataclass(frozen=True)
class SolverError:
    """What `solver_error` found.

    Attributes:
        rmse: root mean square error over all entries of all samples; infinite if one is not finite.
        median: median over the samples of their root mean square errors.
        errors: (count,) of every sample.
        calls: network calls for each sample, counted.
        grid: name of the grid.
        reference: the solution it was compared with.
    """

    rmse: float
    median: float
    errors: torch.Tensor
    calls: float
    grid: str
    reference: Reference


def solver_error(
    model: Any,
    sampler: str | Contender,
    *,
    nfe: int = 8,
    guidance: float = 1.0,
    grid: str | None = None,
    count: int = 64,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    batch: int = 50,
    reference_steps: int = REFERENCE_STEPS,
    cache: str | Path | None = None,
    **fields: Any,
) -> SolverError:
    """Distance of a sampler's result to the solution of the same ODE from the same noise.

    Args:
        model: a pipeline, the name of a model (``garments``), ``oracle:mixture`` and the like, or a `Problem`.
        sampler: a contender of the benchmark, or any name that `fewstep.pipelines.set_sampler` takes.
        nfe: network calls.
        guidance: guidance scale.
        grid: name of a grid; by default the sampler's own on this model.
        count: number of samples.
        prompts: of a pipeline; sample i takes prompt i, from the start again. `garments` has its own.
        seed: of the first sample.
        batch: samples that go through the network together.
        reference_steps: network calls of the reference.
        cache: folder of references; by default `reference_cache`.
        **fields: fields of the sampler.

    Raises:
        ValueError: unknown model, sampler, field or grid; a number out of range.
    """
    for name, value in (("nfe", nfe), ("count", count), ("batch", batch), ("reference_steps", reference_steps)):
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if isinstance(model, Problem):
        problem = model
    elif isinstance(model, str):
        problem = problem_of(model, prompts, seed)
    else:
        problem = ModelProblem(model, prompts or [""], seed)
    if isinstance(sampler, Contender):
        made = sampler
    else:
        known = contenders(problem.process)
        made = known.get(sampler, Contender(sampler, sampler))
    if fields:
        made = Contender(made.name, made.sampler, {**made.fields, **fields}, steps=made.steps, hidden=made.hidden)
    steps = made.steps(nfe)
    names = problem.grids(made, steps)
    problem.make_scheduler(made, grid, guidance)  # what is wrong with the sampler is said before the reference is made
    found = reference_solutions(problem, [guidance], count, steps=reference_steps, batch=batch, cache=cache)[guidance]
    errors, calls = [], 0.0
    for start in range(0, count, batch):
        items = range(start, min(start + batch, count))
        run = problem.run(made, grid, guidance, steps, items)
        errors.append(root_mean_square(run.latents - found.latents[items.start : items.stop]))
        calls = run.calls
    each = torch.cat(errors)
    rmse = float(each.square().mean().sqrt()) if each.isfinite().all() else float("inf")
    return SolverError(rmse, float(each.median()), each, calls, grid or next(iter(names)), found)
