"""A restoration asked for, checked and laid out: what it will do, and what it will cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.samplers import Grid, VPDiscrete
from fewstep.samplers.posterior import LinearOperator, Operator, PosteriorMethod, PosteriorPlan

from .methods import chosen_method, merged_options
from .problem import as_checked_operator, check_fit, check_sigma, picture_shape
from .schedule import grid_of, process_of
from .tiling import Frame, Layout, lay_out


@dataclass(frozen=True)
class RestorationPlan:
    """What a run will do, known before its first network call.

    Attributes:
        forward, backward: network evaluations a sample, windows and guidance counted; an upper bound for
            moment-matching, which may stop early.
        moves: moves of the method over all windows and stages: what the progress bar counts.
        windows: that every noise level visits.
        tile: ``whole``, ``canvas``, ``msr`` or ``hir``.
        steps: noise levels.
        method: with all its fields.
    """

    forward: int
    backward: int
    moves: int
    windows: int
    tile: str
    steps: int
    method: PosteriorMethod


@dataclass(frozen=True)
class Job:
    """A request, checked and laid out."""

    operator: Operator
    shape: tuple[int, int, int]
    noise_sigma: float
    method: PosteriorMethod
    process: VPDiscrete
    grid: Grid
    layout: Layout
    samples: int
    calls: int

    def posterior_plan(self) -> PosteriorPlan:
        """The moves of the method."""
        return self.method.plan(self.process, self.grid)

    def plan(self) -> RestorationPlan:
        """Counts known beforehand."""
        plan = self.posterior_plan()
        cost, layout = self.method.cost(plan), self.layout
        return RestorationPlan(
            forward=cost.forward * layout.count * self.calls,
            backward=cost.backward * layout.count * self.calls,
            moves=len(plan.moves) * layout.passes,
            windows=layout.count,
            tile=layout.mode,
            steps=self.grid.calls,
            method=self.method,
        )

    def settings(self, unit: int) -> dict[str, Any]:
        """Everything that says what the run is; `unit` is the pixels of a latent's side, or 1."""
        windows = self.layout.windows
        fields = {}
        for item in dataclasses.fields(self.method):
            value = getattr(self.method, item.name)
            fields[item.name] = value if isinstance(value, (str, int, float, type(None))) else str(value)
        return {
            "method": self.method.name,
            "method_options": fields,
            "steps": self.grid.calls,
            "timesteps": [round(t, 3) for t in self.grid.timesteps],
            "operator": self.operator.name,
            "linear": isinstance(self.operator, LinearOperator),
            "noise_sigma": self.noise_sigma,
            "size": list(self.shape[1:]),
            "tile": self.layout.mode,
            "windows": self.layout.count,
            "window": [n * unit for n in windows.window],
            "overlap": [(n - s) * unit for n, s in zip(windows.window, windows.stride, strict=True)],
            "samples": self.samples,
            "prediction": self.process.prediction,
        }


def make_job(
    scheduler: Any,
    frame: Frame,
    channels: int,
    space: str,
    accelerated: bool,
    operator: Any,
    y: torch.Tensor | None,
    samples: int,
    *,
    noise_sigma: float = 0.0,
    method: str | PosteriorMethod | None = None,
    method_options: Mapping[str, Any] | None = None,
    num_inference_steps: int | None = None,
    eta: float | None = None,
    renoise: float | None = None,
    time_travel: tuple[int, int] | None = None,
    tile: str | None = None,
    window: int | Sequence[int] | None = None,
    overlap: int | Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    calls: int = 1,
    several: bool = False,
) -> Job:
    """Check a request and lay it out.

    Args:
        scheduler, frame, channels, space, accelerated: of the pipeline.
        operator: anything with ``A``.
        y: the measurement, one a sample; None for a plan alone.
        samples: pictures that are drawn together.
        calls: network evaluations in a call of the denoiser: 2 with guidance.
        several: whether they are several of each measurement.
        others: as for a call of the pipelines.

    Raises:
        ValueError, TypeError: something that cannot be; the sentence says what is allowed.
    """
    sigma = check_sigma(noise_sigma)
    process = process_of(scheduler)
    options = merged_options(method_options, eta, renoise, time_travel)
    shape = picture_shape(as_checked_operator(operator, None, None), y, size, channels)
    found = as_checked_operator(operator, torch.zeros(1) if y is None else y, shape)
    if y is not None:
        check_fit(found, y, shape)
    drawn = several or not (eta is renoise is time_travel is None)  # who asks for fresh noise wants draws
    chosen, steps = chosen_method(method, options, found, sigma, space, drawn, frame.convolutional)
    grid = grid_of(scheduler, process, steps if num_inference_steps is None else num_inference_steps)
    if space == "latent" and tile in ("msr", "hir"):
        raise ValueError(
            f"tile={tile!r} works on pixels, and this model on latents; take tile='canvas', or a pixel model"
        )
    layout = lay_out(
        frame, (-(-shape[1] // frame.unit), -(-shape[2] // frame.unit)), tile=tile, window=window, overlap=overlap,
        samples=samples, gradient=chosen.gradient, accelerated=accelerated, operator=found,
    )  # fmt: skip
    return Job(found, shape, sigma, chosen, process, grid, layout, samples, calls)
