"""Samplers for discrete diffusion (masked and uniform noise), one method a file."""

from __future__ import annotations

from typing import Any

from ..core.registry import nearest
from .adams_bashforth import TokenAdamsBashforth
from .ctmc import MaskedProcess, Shaping, TokenProcess, UniformProcess
from .draws import Draws
from .euler import Euler
from .first_hitting import FirstHitting
from .grid import TokenGrid
from .maskgit import ConfidenceDecoding
from .method import TokenMethod, TokenPlan
from .order import spread_order
from .run import SkippingDenoiser, TokenResult, run_tokens
from .schedules import CosineMask, Geometric, LinearMask, LogLinear, NoiseSchedule, noise_schedule
from .stepping import Reading, TokenState, advance
from .tau_leaping import TauLeaping
from .theta_rk2 import ThetaRK2
from .theta_trapezoidal import ThetaTrapezoidal
from .tweedie import Tweedie
from .uniformization import Uniformization

#: Methods that run call by call, by name.
TOKEN_METHODS: dict[str, type[TokenMethod]] = {
    method.name: method
    for method in (TokenAdamsBashforth, ThetaTrapezoidal, ThetaRK2, TauLeaping, Euler, Tweedie, FirstHitting)
}

_SHORT = {
    "trapezoidal": "theta-trapezoidal",
    "rk2": "theta-rk2",
    "tau": "tau-leaping",
    "adams": "token-adams-bashforth",
}


def token_method(name: str, **fields: Any) -> TokenMethod:
    """A method by name with some fields set; short names are trapezoidal, rk2, tau and adams.

    Raises:
        ValueError: unknown name, with the nearest.
    """
    key = str(name).strip().lower().replace("_", "-")
    key = _SHORT.get(key, key)
    if key not in TOKEN_METHODS:
        known = [*TOKEN_METHODS, *_SHORT]
        raise ValueError(f"unknown token sampler {name!r}{nearest(key, known)} Known are {', '.join(known)}")
    return TOKEN_METHODS[key](**fields)


__all__ = [
    "TOKEN_METHODS",
    "ConfidenceDecoding",
    "CosineMask",
    "Draws",
    "Euler",
    "FirstHitting",
    "Geometric",
    "LinearMask",
    "LogLinear",
    "MaskedProcess",
    "NoiseSchedule",
    "Reading",
    "Shaping",
    "SkippingDenoiser",
    "TauLeaping",
    "ThetaRK2",
    "ThetaTrapezoidal",
    "TokenAdamsBashforth",
    "TokenGrid",
    "TokenMethod",
    "TokenPlan",
    "TokenProcess",
    "TokenResult",
    "TokenState",
    "Tweedie",
    "UniformProcess",
    "Uniformization",
    "advance",
    "noise_schedule",
    "run_tokens",
    "spread_order",
    "token_method",
]
