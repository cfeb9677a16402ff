"""Samplers: numerical methods for diffusion and flow models, and the diffusers schedulers made from them.

The mathematics needs torch alone. The scheduler classes (`GHVBScheduler`, `ExponentialAdamsScheduler`, ...) and
`SchedulerMixin` are loaded, and diffusers imported, when they are first asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .continuous import GHVB, LML, AdamsBashforth, ExponentialAdams, HeavyBall, Nesterov
from .core import oracle
from .core.grid import Grid, GridOptions, make_grid
from .core.method import Method, Plan, Reference, Spec, State
from .core.noise import generators, noise
from .core.process import EDM, Flow, Node, Process, VPContinuous, VPDiscrete, betas_of_schedule
from .core.registry import Resolved, aliases, methods, resolve
from .core.run import Result, run

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from .schedulers import FewstepScheduler, FewstepSchedulerOutput

    # made from the registry: their constructors take the common options and the method's fields
    AdamsBashforthScheduler: Any
    ExponentialAdamsScheduler: Any
    GHVBScheduler: Any
    HeavyBallScheduler: Any
    LMLScheduler: Any
    NesterovScheduler: Any

_SCHEDULERS = [f"{method.__name__}Scheduler" for method in methods().values()]

__all__ = [
    "EDM",
    "GHVB",
    "LML",
    "AdamsBashforth",
    "AdamsBashforthScheduler",
    "ExponentialAdams",
    "ExponentialAdamsScheduler",
    "FewstepScheduler",
    "FewstepSchedulerOutput",
    "Flow",
    "GHVBScheduler",
    "Grid",
    "GridOptions",
    "HeavyBall",
    "HeavyBallScheduler",
    "LMLScheduler",
    "Method",
    "Nesterov",
    "NesterovScheduler",
    "Node",
    "Plan",
    "Process",
    "Reference",
    "Resolved",
    "Result",
    "SchedulerMixin",
    "Spec",
    "State",
    "VPContinuous",
    "VPDiscrete",
    "aliases",
    "betas_of_schedule",
    "generators",
    "make_grid",
    "methods",
    "noise",
    "oracle",
    "resolve",
    "run",
    "scheduler_class",
]


def scheduler_class(method: str | Method) -> Any:
    """The diffusers scheduler class of a method, by the method's name or from a method object."""
    name = method.name if isinstance(method, Method) else resolve(method).method.name
    return getattr(sys.modules[__name__], f"{methods()[name].__name__}Scheduler")


def __getattr__(name: str) -> Any:
    if name in _SCHEDULERS or name in ("SchedulerMixin", "FewstepScheduler", "FewstepSchedulerOutput"):
        from diffusers.schedulers.scheduling_utils import SchedulerMixin

        from . import schedulers

        globals().update(
            schedulers.SCHEDULERS,
            SchedulerMixin=SchedulerMixin,
            FewstepScheduler=schedulers.FewstepScheduler,
            FewstepSchedulerOutput=schedulers.FewstepSchedulerOutput,
        )
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
