"""Noise levels of a flow-matching pipeline: those that it would sample with itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.samplers import Flow, Grid


def flow_grid(config: Mapping[str, Any], steps: int, tokens: int) -> Grid:
    """The grid of `steps` intervals from noise to data.

    Uniform times 1, 1 - 1/N, ..., 1/N, shifted as the scheduler's configuration says (for Flux by the number of image
    tokens), then clean data; the same levels serve both directions.

    Args:
        config: of the pipeline's scheduler.
        steps: intervals.
        tokens: patches of the picture.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from ..quiet import quiet

    with quiet():
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    settings = scheduler.config
    low, high = settings.get("base_image_seq_len", 256), settings.get("max_image_seq_len", 4096)
    slope = (settings.get("max_shift", 1.15) - settings.get("base_shift", 0.5)) / (high - low)
    mu = settings.get("base_shift", 0.5) + slope * (tokens - low)
    shifted = {"mu": mu} if settings.use_dynamic_shifting else {}
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), **shifted)
    levels = [float(sigma) for sigma in scheduler.sigmas.double()]
    process = Flow()
    return Grid(tuple(process.at_sigma(min(max(level, 0.0), 1.0)) for level in levels))
