"""Token schedulers by the names of their solvers, and what may be set on each."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.samplers import TOKEN_METHODS, token_method
from fewstep.samplers.core.registry import nearest

#: Solver of models that come without one.
DEFAULT_SOLVER = "adams"

#: Diffusers' confidence decoding, the biased rival.
CONFIDENCE = "confidence"

#: Method -> scheduler class, and the options that make it this method.
_CLASSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "token-adams-bashforth": ("DiscreteAdamsBashforthScheduler", {}),
    "theta-trapezoidal": ("DiscreteThetaScheduler", {"algorithm": "trapezoidal"}),
    "theta-rk2": ("DiscreteThetaScheduler", {"algorithm": "rk2"}),
    "tau-leaping": ("DiscreteTauLeapingScheduler", {"method": "tau"}),
    "euler": ("DiscreteTauLeapingScheduler", {"method": "euler"}),
    "tweedie": ("DiscreteTauLeapingScheduler", {"method": "tweedie"}),
    "first-hitting": ("FirstHittingScheduler", {}),
}
_SHORT = {
    "token-adams-bashforth": "adams",
    "theta-trapezoidal": "trapezoidal",
    "theta-rk2": "rk2",
    "tau-leaping": "tau",
}
_COMMON = ("noise_schedule", "schedule_eps", "t_start", "t_end", "time_grid", "final_fill", "prediction_type")


def solvers() -> list[str]:
    """Short names of all solvers."""
    return [*(_SHORT.get(name, name) for name in _CLASSES), CONFIDENCE]


def _method_name(solver: str) -> str:
    known = [*_CLASSES, *_SHORT.values(), CONFIDENCE, "maskgit"]
    key = str(solver).strip().lower().replace("_", "-")
    if key in (CONFIDENCE, "maskgit"):
        return CONFIDENCE
    try:
        name = token_method(key).name
    except ValueError:
        name = ""
    if name not in _CLASSES:
        raise ValueError(f"unknown solver {solver!r}{nearest(key, known)} Known are {', '.join(solvers())}")
    return name


def solver_options(solver: str) -> dict[str, dataclasses.Field[Any] | inspect.Parameter]:
    """What may be set on a solver, by name: the fields of its method, and options of its scheduler.

    Raises:
        ValueError: an unknown solver; the nearest is given.
    """
    from fewstep.samplers import token_schedulers

    name = _method_name(solver)
    if name == CONFIDENCE:
        from diffusers import AmusedScheduler

        return {"masking_schedule": inspect.signature(AmusedScheduler.__init__).parameters["masking_schedule"]}
    parameters = inspect.signature(token_schedulers.TOKEN_SCHEDULERS[_CLASSES[name][0]].__init__).parameters
    fields = {item.name: item for item in dataclasses.fields(TOKEN_METHODS[name]) if item.name in parameters}
    return {**fields, **{key: parameters[key] for key in _COMMON}}


def owners_of(option: str) -> list[str]:
    """Solvers that have an option."""
    return [name for name in solvers() if option in solver_options(name)]


def token_scheduler(solver: str = DEFAULT_SOLVER, **options: Any) -> Any:
    """A token scheduler by the name of its solver: adams, trapezoidal, rk2, tau, euler, tweedie, first-hitting, or
    confidence, which is diffusers' `AmusedScheduler`.

    Raises:
        ValueError: an unknown solver or option (the nearest is given), or an option out of range.
    """
    from fewstep.samplers import token_schedulers

    name, known = _method_name(solver), solver_options(solver)
    for key in options:
        if key not in known:
            raise ValueError(f"{solver} has no option {key!r}{nearest(key, known)} Its options are {', '.join(known)}")
    if name == CONFIDENCE:
        from diffusers import AmusedScheduler

        if options.get("masking_schedule", "cosine") not in ("cosine", "linear"):
            raise ValueError(f"masking_schedule must be 'cosine' or 'linear', got {options['masking_schedule']!r}")
        return AmusedScheduler(mask_token_id=None, **options)
    kind, fixed = _CLASSES[name]
    try:
        scheduler = token_schedulers.TOKEN_SCHEDULERS[kind](**fixed, **options)
        scheduler.set_timesteps(4)  # a grid that cannot be is found here, before a model is loaded
    except TypeError as error:
        raise ValueError(str(error)) from error
    return token_schedulers.TOKEN_SCHEDULERS[kind](**fixed, **options)


def set_solver(pipe: Any, solver: str, **options: Any) -> Any:
    """Put a solver on a text pipeline, keeping what belongs to its model (mask token, noise schedule, meaning of the
    output, temperature and nucleus), and return the pipeline.

    Raises:
        ValueError: as `token_scheduler`.
    """
    scheduler = token_scheduler(solver, **options)
    config = pipe.scheduler.config
    kept = ("mask_token_id", "noise_schedule", "schedule_eps", "prediction_type", "temperature", "top_p")
    own = {key: config[key] for key in kept if key in config and key in scheduler.config and key not in options}
    scheduler.register_to_config(**own)
    if hasattr(scheduler, "_build"):
        scheduler = type(scheduler).from_config(scheduler.config)
    pipe.scheduler = scheduler
    return pipe


def solver_in(folder: str | Path) -> str:
    """Solver of a saved pipeline, by the file of its scheduler; the default where there is none that can be read."""
    try:
        config = json.loads((Path(folder) / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not a saved pipeline, or one that its loading will complain about
        return DEFAULT_SOLVER
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind == "AmusedScheduler":
        return CONFIDENCE
    for name, (known, fixed) in _CLASSES.items():
        if kind == known and all(config.get(key) == value for key, value in fixed.items()):
            return _SHORT.get(name, name)
    return DEFAULT_SOLVER


def solver_settings(scheduler: Any) -> dict[str, Any]:
    """What `token_scheduler` needs to make a scheduler again: solver and fields."""
    config = scheduler.config
    if not hasattr(scheduler, "method"):
        return {"solver": CONFIDENCE, "fields": {"masking_schedule": config.get("masking_schedule")}}
    name = scheduler.method.name
    defaults = {key: item.default for key, item in solver_options(name).items()}
    methods = {item.name for item in dataclasses.fields(TOKEN_METHODS[name])}
    fields = {key: config[key] for key, default in defaults.items() if key in methods or config[key] != default}
    return {"solver": _SHORT.get(name, name), "fields": fields}
