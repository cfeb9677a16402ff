"""Which posterior method a run takes, from names and options or from what the operator measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fewstep.samplers.core.registry import nearest
from fewstep.samplers.posterior import PosteriorMethod, posterior_method, posterior_methods
from fewstep.samplers.posterior.chain import ChainMethod
from fewstep.samplers.posterior.operators import (
    AveragePool,
    CircularBlur,
    GaussianBlur,
    Grey,
    Identity,
    LinearOperator,
    Mask,
    MirrorBlur,
    Operator,
    Resample,
)

from .tasks import task_defaults

#: Steps of a run where nobody says how many: as published.
STEPS: Mapping[str, int] = {
    "ddnm": 100,
    "ddnm-plus": 100,
    "dps": 1000,
    "pigdm": 100,
    "moment-matching": 100,
    "diffpir": 100,
    "ddrm": 20,
    "red-diff": 100,
    "daps": 200,
    "dpir": 8,
    "stsl": 50,
    "psld": 1000,
    "latent-dps": 1000,
    "p2l": 1000,
    "ddnm-latent": 200,
}

#: Steps with a multistep sampler between the data corrections.
FEW_STEPS = 25

#: The nearest method of the other space.
_COUNTERPARTS = {
    "stsl": "moment-matching",
    "psld": "dps",
    "latent-dps": "dps",
    "p2l": "diffpir",
    "ddnm-latent": "ddnm",
    "ddnm": "ddnm-latent",
    "ddnm-plus": "ddnm-latent",
    "ddrm": "ddnm-latent",
    "diffpir": "ddnm-latent",
    "dps": "latent-dps",
    "pigdm": "stsl",
    "moment-matching": "stsl",
    "red-diff": "stsl",
    "daps": "stsl",
    "dpir": "ddnm-latent",
}


def task_of(operator: Operator) -> str:
    """The task that an operator belongs to, a name of `tasks.TASKS`; ``custom`` for those of one's own."""
    if isinstance(operator, Mask):
        return "inpaint"
    if isinstance(operator, Grey):
        return "colorize"
    if isinstance(operator, Identity):
        return "denoise"
    if isinstance(operator, GaussianBlur):
        return "gaussian-deblur"
    if isinstance(operator, (CircularBlur, MirrorBlur)):
        return "motion-deblur"
    if isinstance(operator, AveragePool):
        return _reduction(operator.factor)
    if isinstance(operator, Resample):
        return _reduction(operator.vertical.columns / operator.vertical.rows)
    return "custom"


def _reduction(factor: float) -> str:
    return "sr2" if factor < 3 else "sr4" if factor < 6 else "sr8"


def allowed_methods(space: str) -> tuple[str, ...]:
    """Names of the methods that run in ``"pixel"`` or ``"latent"`` space."""
    return tuple(sorted(name for name, cls in posterior_methods().items() if cls.space == space))


def check_space(method: PosteriorMethod, space: str) -> None:
    """Refuse a method of the other space, with the nearest one of this.

    Raises:
        ValueError: it is of the other.
    """
    if method.space == space or (space == "latent" and method.decodes):
        return
    words = {"pixel": "pictures", "latent": "latents"}
    near = _COUNTERPARTS.get(method.name)
    raise ValueError(
        f"{method.name} works on {words[method.space]} and this model on {words[space]}"
        + (f", did you mean {near!r}?" if near else ".")
        + f" Allowed are {', '.join(allowed_methods(space))}"
    )


def chosen_method(
    method: str | PosteriorMethod | None,
    options: Mapping[str, Any] | None,
    operator: Operator,
    noise_sigma: float,
    space: str,
    several: bool = False,
    local: bool = True,
) -> tuple[PosteriorMethod, int]:
    """The method of a run, and how many steps it takes where nobody says.

    Args:
        method: a name, a method, or None for the default of the operator's task.
        options: fields of the method set by hand.
        operator: decides together with `noise_sigma` where `method` is None.
        space: ``"pixel"`` or ``"latent"``.
        several: whether several pictures of each measurement are drawn, which a default shall tell apart.
        local: whether the model knows close-ups, see `tasks.task_defaults`.

    Raises:
        ValueError: unknown method or field (the nearest is suggested), a method of the other space, a field out of
            range.
    """
    fields, steps = dict(options or {}), None
    if method is None:
        name, own, steps = default_method(operator, noise_sigma, space, several, local)
        found = posterior_method(name, **{**own, **fields})
    elif isinstance(method, PosteriorMethod):
        known = [item.name for item in dataclasses.fields(method)]
        for field in fields:
            if field not in known:
                raise ValueError(
                    f"{method.name} has no field {field!r}{nearest(field, known)} Its fields are {', '.join(known)}"
                )
        found = dataclasses.replace(method, **fields)
    else:
        found = posterior_method(method, **fields)
    check_space(found, space)
    return found, steps if steps is not None else default_steps(found)


def default_method(
    operator: Operator, noise_sigma: float, space: str, several: bool = False, local: bool = True
) -> tuple[str, dict[str, Any], int]:
    """(name, fields, steps) for an operator and its noise, see `tasks.task_defaults`."""
    name, fields, steps = task_defaults(task_of(operator), noise_sigma, space, several, local)
    free = {} if isinstance(operator, LinearOperator) or name != "stsl" else {"init": "noise"}
    return name, {**fields, **free}, steps


def default_steps(method: PosteriorMethod) -> int:
    """Steps of a run with this method where nobody says how many."""
    if isinstance(method, ChainMethod) and method.sampler is not None:
        return FEW_STEPS
    return STEPS.get(method.name, 100)


def merged_options(
    options: Mapping[str, Any] | None,
    eta: float | None,
    renoise: float | None,
    time_travel: tuple[int, int] | None,
) -> dict[str, Any]:
    """Fields of the method from its options and from the arguments that stand for some of them.

    Raises:
        ValueError: eta and renoise together, one thing said twice, time travel that is no pair.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"method_options is a dictionary of fields of the method, got {type(options).__name__}")
    if eta is not None and renoise is not None:
        raise ValueError("eta and renoise both say how much of the noise is fresh; give one of them")
    said: dict[str, Any] = {"eta": eta, "renoise": renoise}
    if time_travel is not None:
        try:
            length, repeats = time_travel
        except (TypeError, ValueError):
            raise ValueError(f"time_travel is a pair (length, repeats) such as (10, 3), got {time_travel!r}") from None
        said |= {"travel_length": length, "travel_repeats": repeats}
    merged = dict(options or {})
    for name, value in said.items():
        if value is not None:
            if name in merged:
                raise ValueError(f"{name} was given twice: as an argument and in method_options")
            merged[name] = value
    return merged
