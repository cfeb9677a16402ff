"""Continuous-state samplers, one method a file."""

from .adams_bashforth import AdamsBashforth
from .exponential_adams import ExponentialAdams
from .ghvb import GHVB
from .heavy_ball import HeavyBall
from .lml import LML
from .nesterov import Nesterov
from .tuned import Tuned

__all__ = ["GHVB", "LML", "AdamsBashforth", "ExponentialAdams", "HeavyBall", "Nesterov", "Tuned"]
