"""A panorama asked for, checked and laid out: how its tangent planes walk, how large they are, in which windows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from fewstep.samplers.posterior import ChainMethod, PosteriorMethod, Windows, posterior_method
from fewstep.samplers.posterior.operators import LinearOperator

from .base import RestorationPipeline
from .job import Job, make_job
from .problem import check_count
from .tiling import Frame, Layout

#: Pixels of all windows of planes that go through a network at once.
PIXELS_AT_ONCE = 2**16


def side_of(frame: Frame, width: int, fov: float, side: int | None) -> int:
    """Side of the planes of a panorama W columns wide, in pixels.

    Planes are as fine as the equator of the panorama, but no smaller than what the network was trained at, unless it is
    a fully convolutional one.

    Args:
        frame: of the network.
        width: W.
        fov: field of view in degrees.
        side: what was asked for, or None.

    Raises:
        ValueError: a side that the network does not take.
    """
    step = frame.divisor * frame.unit
    if side is not None:
        if check_count("side", side, 8) % step:
            raise ValueError(f"the side of a plane must be divisible by {step} for this network, got {side}")
        return side
    fine = math.tan(math.radians(fov) / 2) * width / math.pi
    least = 8 if frame.convolutional else max(frame.window) * frame.unit
    return -(-max(math.ceil(fine), least) // step) * step


def walk_of(method: str | PosteriorMethod | None) -> PosteriorMethod:
    """How planes walk down the noise levels: DDPM's ancestral steps, or a method of pictures that takes no gradients.

    Raises:
        ValueError: a method that cannot do without data of its own.
    """
    if method is None:
        return posterior_method("ddnm", eta=1.0)
    found = method if isinstance(method, PosteriorMethod) else posterior_method(method)
    if not isinstance(found, ChainMethod) or found.gradient or found.space == "latent":
        raise ValueError(
            f"planes are steered by the panorama, and {found.name} wants data of its own; take ddnm or ddnm-2m"
        )
    return found


def spherical_job(
    pipe: RestorationPipeline,
    fov: float,
    side: int | None,
    operator: Any,
    y: torch.Tensor | None,
    samples: int,
    method: Any = None,
    **options: Any,
) -> Job:
    """A request for panoramas; its layout is that of the windows on one plane, in units of the network.

    Args:
        pipe: the pipeline.
        fov, side: of the planes.
        operator, y, samples, method, options: as for `make_job`.

    Raises:
        ValueError, TypeError: what `make_job` raises; a nonlinear operator, a picture that is no panorama.
    """
    job = make_job(
        pipe.scheduler, pipe.frame, pipe.channels, "pixel", False, operator, y, samples,
        method=walk_of(method), tile="whole", **options,
    )  # fmt: skip
    if not isinstance(job.operator, LinearOperator):
        raise TypeError(f"panoramas need a linear operator, and {job.operator.name} is none")
    height, width = job.shape[1:]
    if height < 8 or width < 8 or width % 2:
        raise ValueError(
            f"a panorama has at least 8 rows and an even number of columns, got {height} x {width}; resize it first"
        )
    frame = pipe.frame
    cells = side_of(frame, width, fov, side) // frame.unit
    window = (cells, cells) if frame.convolutional else (min(cells, frame.window[0]), min(cells, frame.window[1]))
    windows = Windows.covering((cells, cells), window)
    batch = max(PIXELS_AT_ONCE // (window[0] * window[1]), 1)
    return dataclasses.replace(job, layout=Layout("whole" if len(windows) == 1 else "canvas", windows, batch=batch))
