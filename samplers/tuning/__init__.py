"""Tuning: noise levels and weights of a sampler fitted to one model's own trajectories, free of diffusers."""

from .fitting import FittedRun
from .programme import best_levels, local_errors
from .refining import refine
from .trajectory import Runner, Trajectory, record
from .tuner import Tuning, tune

__all__ = ["FittedRun", "Runner", "Trajectory", "Tuning", "best_levels", "local_errors", "record", "refine", "tune"]
