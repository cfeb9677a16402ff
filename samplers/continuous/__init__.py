"""Continuous-state samplers, one method a file."""

from .adams_bashforth import AdamsBashforth
from .exponential_adams import ExponentialAdams
from .fireflow import FireFlow
from .ghvb import GHVB
from .heavy_ball import HeavyBall
from .lml import LML
from .midpoint import Midpoint
from .nesterov import Nesterov
from .o_belm import OBELM
from .rf_inversion import RFInversion
from .tuned import Tuned
from .uni_inv import UniInv

__all__ = [
    "GHVB",
    "LML",
    "OBELM",
    "AdamsBashforth",
    "ExponentialAdams",
    "FireFlow",
    "HeavyBall",
    "Midpoint",
    "Nesterov",
    "RFInversion",
    "Tuned",
    "UniInv",
]
