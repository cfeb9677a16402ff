"""Pipelines that draw pictures as tokens (aMUSEd), and the solvers of discrete diffusion on them by name.

A sampler of theirs is written ``tokens:adams``, ``tokens:trapezoidal``, ... (see `text_solvers.solvers`), as the
schedulers of diffusers are ``diffusers:CLASS``: a name alone would not say which kind of model it is for.
"""

from __future__ import annotations

from typing import Any

#: Prefix of a sampler that is a solver of discrete diffusion.
TOKENS = "tokens:"


def draws_tokens(pipe: Any) -> bool:
    """Whether a pipeline draws tokens and decodes them by a codebook, so that samplers of noise do not fit it."""
    return "mask_token_id" in getattr(getattr(pipe, "scheduler", None), "config", ())


def token_options(sampler: str) -> dict[str, Any]:
    """What may be set on ``tokens:SOLVER``.

    Raises:
        ValueError: an unknown solver; the nearest is given.
    """
    from .text_solvers import solver_options

    return dict(solver_options(sampler.removeprefix(TOKENS)))


def check_token_sampler(sampler: str, grid: str | None, **fields: Any) -> None:
    """Refuse what `set_token_sampler` would refuse, without a pipeline.

    Raises:
        ValueError: a grid, an unknown solver or field, a field out of range.
    """
    from .text_solvers import token_scheduler

    if grid is not None:
        raise ValueError(f"{sampler} has no grid of noise levels; leave {grid!r} away, its own is the field time_grid")
    token_scheduler(sampler.removeprefix(TOKENS), **fields)


def set_token_sampler(pipe: Any, sampler: str, grid: str | None = None, **fields: Any) -> Any:
    """Put ``tokens:SOLVER`` on a pipeline, keeping its mask token and temperature, and return the pipeline.

    Raises:
        ValueError: as `check_token_sampler`, or a sampler or a pipeline of the other kind.
    """
    from .text_solvers import set_solver, solvers

    known = ", ".join(TOKENS + name for name in solvers())
    if not sampler.startswith(TOKENS):
        raise ValueError(f"{type(pipe).__name__} draws tokens, and {sampler!r} moves noise; its samplers are {known}")
    check_token_sampler(sampler, grid, **fields)
    if not draws_tokens(pipe):
        raise ValueError(f"{type(pipe).__name__} draws no tokens, so it cannot be sampled by {sampler!r}")
    return set_solver(pipe, sampler.removeprefix(TOKENS), **fields)


def token_settings(scheduler: Any) -> dict[str, Any] | None:
    """Sampler, fields and grid of a token scheduler, as `loading.sampler_settings` gives them; None for others."""
    from .text_solvers import solver_settings

    if "mask_token_id" not in scheduler.config:
        return None
    found = solver_settings(scheduler)
    return {"sampler": TOKENS + found["solver"], "fields": found["fields"], "grid": None}


def draws_as_one(pipe: Any) -> bool:
    """Whether the scheduler takes one generator for a whole batch, so that a picture is its seed only when alone."""
    return type(pipe.scheduler).__name__ == "AmusedScheduler"
