"""Guidance: how a conditional and an unconditional prediction become one. Pure functions of tensors."""

from .cfg import cfg
from .cfg_zero import cfg_zero, optimised_scale, zero_velocity
from .interval import GuidanceInterval, noise_level

__all__ = ["GuidanceInterval", "cfg", "cfg_zero", "noise_level", "optimised_scale", "zero_velocity"]
