"""The forward process and the noise levels of a run, read from any scheduler that has ``alphas_cumprod``.

Nothing of the scheduler but alpha-bar, its timesteps and its prediction type is used: clipping, thresholding and the
last step are those of the posterior method, and every run ends at clean data.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fewstep.samplers import Grid, GridOptions, VPDiscrete, make_grid
from fewstep.samplers.core.grid import CLEAN

#: A run on a schedule whose noise, sigma over alpha, goes far beyond that of a linear one (157), as cosine schedules do
#: (to 20,000), begins at `START` instead: there a picture in [-1, 1] is invisible already, and the first of a few steps
#: is not lost between levels of which one is a thousand times the other.
FAR, START = 160.0, 30.0

#: What a network may predict; the other types belong to flows.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def process_of(scheduler: Any) -> VPDiscrete:
    """The variance-preserving process of a scheduler.

    Raises:
        ValueError: a scheduler without ``alphas_cumprod`` (flows, EDM), or another prediction type.
    """
    name, bar = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if bar is None:
        raise ValueError(
            f"{name} has no alphas_cumprod, so it is no scheduler of a variance-preserving model; restoration allows "
            "those alone: DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler and others"
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise ValueError(
            f"{name} has the prediction type {prediction!r}; restoration knows {', '.join(PREDICTION_TYPES)}"
        )
    own = getattr(scheduler, "process", None)
    if isinstance(own, VPDiscrete):
        return own
    return VPDiscrete(tuple(_precise(scheduler, torch.as_tensor(bar)).tolist()), prediction)


def _precise(scheduler: Any, bar: torch.Tensor) -> np.ndarray:
    """alpha-bar in float64: from the betas where they say the same, since 1 - alpha-bar loses digits in float32."""
    given, betas = bar.detach().cpu().double().numpy(), getattr(scheduler, "betas", None)
    if betas is not None:
        found = np.cumprod(1 - torch.as_tensor(betas).detach().cpu().double().numpy())
        if found.shape == given.shape and np.allclose(found, given, rtol=1e-4, atol=1e-7):
            found[-1] = given[-1]  # at zero terminal signal some schedulers put 2^-24 there
            return found
    return given


def _timesteps(scheduler: Any, steps: int) -> list[float] | None:
    """The timesteps that the scheduler would take, without repetitions; None where it takes another number of them."""
    own = copy.deepcopy(scheduler)
    try:
        own.set_timesteps(steps)
    except (AssertionError, NotImplementedError, TypeError, ZeroDivisionError, IndexError):
        return None
    told = [float(t) for t in own.timesteps]
    times = [t for i, t in enumerate(told) if i == 0 or t < min(told[:i])]
    return times if len(times) == steps else None


def grid_of(scheduler: Any, process: VPDiscrete, steps: int) -> Grid:
    """Noise levels of a run over so many steps: those of the scheduler (but see `START`), then clean data.

    A scheduler whose steps are no single network calls (Heun, KDPM2, PNDM's warm-up) gives its spacing alone.

    Raises:
        ValueError: steps that are no whole number from 1 to the timesteps of the training; noise levels at which the
            network says nothing.
    """
    most = len(process.alphas_cumprod)
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= most:
        raise ValueError(f"num_inference_steps must be a whole number from 1 to {most}, got {steps!r}")
    times = _timesteps(scheduler, int(steps))
    if times is None:
        config = scheduler.config
        options = GridOptions(
            spacing=config.get("timestep_spacing", "leading"), steps_offset=int(config.get("steps_offset", 0))
        )
        grid = make_grid(process, int(steps), options)
    else:
        nodes = [process.at(min(max(t, 0.0), most - 1.0)) for t in times]
        grid = Grid((*(node for node in nodes if node.sigma > 0), CLEAN))
    first = grid.nodes[0]
    if process.prediction == "epsilon" and (math.isinf(first.ratio) or first.alpha == 0):
        raise ValueError(
            "at its first noise level no signal is left (zero terminal SNR), where a network that predicts the noise "
            "says nothing of the picture; use a model with v_prediction, timestep_spacing 'leading', or a scheduler "
            "with rescale_betas_zero_snr=False"
        )
    if FAR < first.ratio < math.inf:
        grid = _begun_at(process, grid, START)
    assert all(a.ratio > b.ratio for a, b in pairwise(grid.nodes))
    return grid


def _begun_at(process: VPDiscrete, grid: Grid, start: float) -> Grid:
    """As many levels, the first at `start`: those above it are spaced geometrically between it and the next."""
    count = sum(node.ratio > start for node in grid.nodes)
    rest = grid.nodes[count:]
    share = max(rest[0].ratio, start / 2) / start
    return Grid((*(process.at_sigma(start * share ** (k / count)) for k in range(count)), *rest))
