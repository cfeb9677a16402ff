"""Operators: how a picture became a measurement. A short file a family; any object with ``A`` can stand for them."""

from .base import LinearOperator, Operator, Spectrum
from .blur import CircularBlur, GaussianBlur, MirrorBlur, crop_canvas, gaussian_kernel, motion_kernel, pad_canvas
from .compose import Chain, LinearChain, compose
from .dense import Dense
from .foreign import as_operator, load_operator
from .jpeg import Jpeg
from .pointwise import REC601, Grey, Identity, Mask
from .pooling import AveragePool
from .ranges import UnitRange, symmetric_measurement, symmetric_sigma, unit_measurement
from .resample import Resample, resampling_matrix
from .separable import Separable
from .solvers import cgls, conjugate_gradients

__all__ = [
    "REC601",
    "AveragePool",
    "Chain",
    "CircularBlur",
    "Dense",
    "GaussianBlur",
    "Grey",
    "Identity",
    "Jpeg",
    "LinearChain",
    "LinearOperator",
    "Mask",
    "MirrorBlur",
    "Operator",
    "Resample",
    "Separable",
    "Spectrum",
    "UnitRange",
    "as_operator",
    "cgls",
    "compose",
    "conjugate_gradients",
    "crop_canvas",
    "gaussian_kernel",
    "load_operator",
    "motion_kernel",
    "pad_canvas",
    "resampling_matrix",
    "symmetric_measurement",
    "symmetric_sigma",
    "unit_measurement",
]
