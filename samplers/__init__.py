"""Samplers: numerical methods for diffusion and flow models, and the diffusers schedulers made from them.

The mathematics needs torch alone. The scheduler classes (`GHVBScheduler`, `ExponentialAdamsScheduler`, ...) and
`SchedulerMixin` are loaded, and diffusers imported, when they are first asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .cache import ABCacheConfig, parse_cache
from .continuous import (
    GHVB,
    LML,
    OBELM,
    AdamsBashforth,
    ExponentialAdams,
    FireFlow,
    HeavyBall,
    Midpoint,
    Nesterov,
    RFInversion,
    Tuned,
    UniInv,
)
from .core import oracle
from .core.grid import Grid, GridOptions, make_grid
from .core.method import Method, Plan, Reference, Spec, Stage, State
from .core.noise import generators, noise
from .core.process import EDM, Flow, Node, Process, VPContinuous, VPDiscrete, betas_of_schedule
from .core.registry import Resolved, aliases, methods, resolve
from .core.run import Result, run
from .discrete import (
    TOKEN_METHODS,
    MaskedProcess,
    Reading,
    Shaping,
    TokenGrid,
    TokenMethod,
    UniformProcess,
    run_tokens,
    token_method,
)
from .guidance import GuidanceInterval, cfg, cfg_zero
from .inversion import INVERTERS, Inversion, Inverter, fields_of, invert, inverter, regenerate
from .posterior import PosteriorMethod, PosteriorResult, posterior_method, posterior_methods, run_posterior

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    from .cache import ab_cache, ab_cache_stats, apply_ab_cache, remove_ab_cache, reset_ab_cache
    from .schedulers import FewstepScheduler, FewstepSchedulerOutput
    from .token_schedulers import (
        DiscreteAdamsBashforthScheduler,
        DiscreteTauLeapingScheduler,
        DiscreteThetaScheduler,
        FirstHittingScheduler,
        TokenScheduler,
        TokenSchedulerOutput,
    )

    # made from the registry: their constructors take the common options and the method's fields
    AdamsBashforthScheduler: Any
    ExponentialAdamsScheduler: Any
    FireFlowScheduler: Any
    GHVBScheduler: Any
    HeavyBallScheduler: Any
    LMLScheduler: Any
    MidpointScheduler: Any
    NesterovScheduler: Any
    OBELMScheduler: Any
    TunedScheduler: Any
    # the same, from data to noise
    EulerInverseScheduler: Any
    FireFlowInverseScheduler: Any
    MidpointInverseScheduler: Any
    OBELMInverseScheduler: Any
    UniInvInverseScheduler: Any

_SCHEDULERS = [f"{method.__name__}Scheduler" for method in methods().values()]

_INVERSE_SCHEDULERS = (
    "EulerInverseScheduler",
    "FireFlowInverseScheduler",
    "MidpointInverseScheduler",
    "OBELMInverseScheduler",
    "UniInvInverseScheduler",
)

_TOKEN_SCHEDULERS = (
    "DiscreteAdamsBashforthScheduler",
    "DiscreteTauLeapingScheduler",
    "DiscreteThetaScheduler",
    "FirstHittingScheduler",
    "TokenScheduler",
    "TokenSchedulerOutput",
)

_CACHE = ("ab_cache", "ab_cache_stats", "apply_ab_cache", "remove_ab_cache", "reset_ab_cache")

__all__ = [
    "EDM",
    "GHVB",
    "INVERTERS",
    "LML",
    "OBELM",
    "TOKEN_METHODS",
    "ABCacheConfig",
    "AdamsBashforth",
    "AdamsBashforthScheduler",
    "DiscreteAdamsBashforthScheduler",
    "DiscreteTauLeapingScheduler",
    "DiscreteThetaScheduler",
    "EulerInverseScheduler",
    "ExponentialAdams",
    "ExponentialAdamsScheduler",
    "FewstepScheduler",
    "FewstepSchedulerOutput",
    "FireFlow",
    "FireFlowInverseScheduler",
    "FireFlowScheduler",
    "FirstHittingScheduler",
    "Flow",
    "GHVBScheduler",
    "Grid",
    "GridOptions",
    "GuidanceInterval",
    "HeavyBall",
    "HeavyBallScheduler",
    "Inversion",
    "Inverter",
    "LMLScheduler",
    "MaskedProcess",
    "Method",
    "Midpoint",
    "MidpointInverseScheduler",
    "MidpointScheduler",
    "Nesterov",
    "NesterovScheduler",
    "Node",
    "OBELMInverseScheduler",
    "OBELMScheduler",
    "Plan",
    "PosteriorMethod",
    "PosteriorResult",
    "Process",
    "RFInversion",
    "Reading",
    "Reference",
    "Resolved",
    "Result",
    "SchedulerMixin",
    "Shaping",
    "Spec",
    "Stage",
    "State",
    "TokenGrid",
    "TokenMethod",
    "TokenScheduler",
    "TokenSchedulerOutput",
    "Tuned",
    "TunedScheduler",
    "UniInv",
    "UniInvInverseScheduler",
    "UniformProcess",
    "VPContinuous",
    "VPDiscrete",
    "ab_cache",
    "ab_cache_stats",
    "aliases",
    "apply_ab_cache",
    "betas_of_schedule",
    "cfg",
    "cfg_zero",
    "fields_of",
    "generators",
    "invert",
    "inverter",
    "make_grid",
    "methods",
    "noise",
    "oracle",
    "parse_cache",
    "posterior_method",
    "posterior_methods",
    "regenerate",
    "remove_ab_cache",
    "reset_ab_cache",
    "resolve",
    "run",
    "run_posterior",
    "run_tokens",
    "scheduler_class",
    "token_method",
]


def scheduler_class(method: str | Method) -> Any:
    """The diffusers scheduler class of a method, by the method's name or from a method object."""
    name = method.name if isinstance(method, Method) else resolve(method).method.name
    return getattr(sys.modules[__name__], f"{methods()[name].__name__}Scheduler")


def __getattr__(name: str) -> Any:
    if name in _CACHE:
        from . import cache

        return getattr(cache, name)
    if name in _TOKEN_SCHEDULERS:
        from . import token_schedulers

        return getattr(token_schedulers, name)
    if name in _SCHEDULERS or name in (
        *_INVERSE_SCHEDULERS,
        "SchedulerMixin",
        "FewstepScheduler",
        "FewstepSchedulerOutput",
    ):
        from diffusers.schedulers.scheduling_utils import SchedulerMixin

        from . import schedulers

        globals().update(
            {**schedulers.SCHEDULERS, **schedulers.INVERSE_SCHEDULERS},
            SchedulerMixin=SchedulerMixin,
            FewstepScheduler=schedulers.FewstepScheduler,
            FewstepSchedulerOutput=schedulers.FewstepSchedulerOutput,
        )
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
