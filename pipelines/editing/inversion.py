"""Invert pictures: latents at the noise end, the way there, and the features to put back; once, for many edits."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.samplers import Grid, noise
from fewstep.samplers.inversion import Inversion as LatentInversion
from fewstep.samplers.inversion import Inverter, check_intervals, fields_of, inverter
from fewstep.samplers.inversion import invert as invert_latents

from ..loading import model_name
from .checks import check_guidance, check_prompts, checked_whole, listed
from .feature_store import FeatureMemory, FeatureStore, readable_bytes
from .frames import Frame
from .leg import Leg, Progress, injector_of
from .models import PROCESS, EditModel, edit_model
from .pictures import Picture, read_picture
from .strategy import Injection
from .trajectory import PathRecorder

#: Largest picture that a model is given, in areas of those that it was made for.
MOST_AREAS = 16


@dataclass(frozen=True, eq=False)
class Inversion:
    """Inverted pictures, for any number of edits with `edit`; `save` keeps them in one file.

    Attributes:
        pictures, frames: the pictures as they came, and how each was fitted into the model.
        prompts: what was said about them, one each.
        solver, fields: name of the inverter, and its fields.
        edges: noise levels e_0 (noise) ... e_N (data).
        guidance: guidance of the inversion; 1 is none.
        latents: what the solver found: the sample at e_0, the picture's latents, and what it kept.
        path: (N + 1, B, ...), the states at the edges.
        inputs: what the network saw, by (interval from the noise end, kind of call).
        injection: which features were recorded.
        features: the recorded features.
        model, fingerprint: name of the model, and a hash of its networks.
        conditioning: projections of the source prompts' embeddings.
        calls, seconds: what the inversion cost.
    """

    pictures: tuple[Picture, ...] = field(repr=False)
    frames: tuple[Frame, ...]
    prompts: tuple[str, ...]
    solver: str
    fields: Mapping[str, float]
    edges: tuple[float, ...]
    guidance: float
    latents: LatentInversion = field(repr=False)
    path: torch.Tensor = field(repr=False)
    inputs: Mapping[tuple[int, str], torch.Tensor] = field(repr=False)
    injection: Injection
    features: FeatureStore = field(repr=False)
    model: str
    fingerprint: str = field(repr=False)
    conditioning: Mapping[str, list[float]] = field(repr=False)
    calls: int = 0
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Intervals of the grid."""
        return len(self.edges) - 1

    @property
    def grid(self) -> Grid:
        """The noise levels as one samples on them."""
        return Grid(tuple(PROCESS.at_sigma(level) for level in self.edges))

    @property
    def inverter(self) -> Inverter:
        """The methods of both directions."""
        return inverter(self.solver, **self.fields)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what the model sees."""
        return self.frames[0].padded

    @property
    def memory(self) -> str:
        """Where the features are and how much room they take, as a sentence's part: "12.3 MB in host memory"."""
        place = {"device": "on the device", "host": "in host memory", "disk": "on disk"}[self.features.memory.place]
        return f"{readable_bytes(self.features.bytes)} {place}"

    def save(self, path: str | Path) -> None:
        """Write one .safetensors file that `load_inversion` reads, whole or not at all."""
        from .saving import save_inversion

        save_inversion(self, path)


def fit_pictures(
    model: EditModel, pictures: Any, size: str | int | Sequence[int] | None
) -> tuple[tuple[Picture, ...], tuple[Frame, ...], torch.Tensor]:
    """Read pictures and fit them into the model: pictures, frames, and pixels (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: pictures that would differ in size in the model; also what `read_picture` and `Frame.fit` raise.
    """
    read = tuple(read_picture(picture) for picture in listed(pictures, "picture"))
    frames = tuple(Frame.fit(picture.size, model.stride, model.area, size, model.smallest) for picture in read)
    sizes = sorted({frame.padded for frame in frames})
    if len(sizes) > 1:
        raise ValueError(
            f"pictures of one call must have one size in the model, and these have {sizes[0][0]}x{sizes[0][1]} and "
            f"{sizes[1][0]}x{sizes[1][1]}; give a size, or call once a picture"
        )
    width, height = frames[0].padded
    if width * height > MOST_AREAS * model.area:
        side = math.isqrt(int(MOST_AREAS * model.area))
        raise ValueError(
            f"{width}x{height} pixels are more than {MOST_AREAS} times what this model was made for "
            f"({math.isqrt(int(model.area))}x{math.isqrt(int(model.area))}) and would take more memory than is "
            f"sensible; give a size of at most {side}x{side}, or none"
        )
    fitted = [frame.inside(picture.opaque) for picture, frame in zip(read, frames, strict=True)]
    pixels = torch.from_numpy(np.ascontiguousarray(np.stack(fitted).transpose(0, 3, 1, 2)))
    return read, frames, pixels.float()


def invert(
    pipe: Any,
    picture: Any,
    source_prompt: str | Sequence[str],
    *,
    steps: int = 8,
    solver: str = "fireflow",
    guidance: float = 1.0,
    injection: Injection | None = None,
    size: str | int | Sequence[int] | None = None,
    skip: int = 0,
    memory: FeatureMemory | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **fields: float,
) -> Inversion:
    """Invert pictures with a pipeline: take them to the noise that the model would have made them of.

    Args:
        pipe: a Flux, Stable Diffusion 3 or Stable Diffusion pipeline of diffusers; left as it is.
        picture: one or a list: files, PIL images, arrays (see `read_picture`).
        source_prompt: what the picture shows; one text, or one for every picture. May be empty.
        steps: intervals of the grid, N.
        solver: ``fireflow`` (N + 1 calls), ``midpoint`` (2 N), ``euler`` (N; on epsilon models this is DDIM inversion),
            ``uni-inv``, ``rf-inversion`` or ``exact``; see `fewstep.samplers.inverter`.
        guidance: 1 is none; inverting with another is a different equation and loses the picture.
        injection: which features to record; None is `Injection()`, the published default. An edit that needs others
            computes them again, at one call of the network for every call of the window.
        size: None: the picture's own size where the model takes it, else its own area; ``"own"``, N or "WxH".
        skip: intervals at the noise end to leave out: less noise, more of the picture stays.
        memory: where features are kept; None is host memory without a limit.
        seed: of the noise that ``rf-inversion`` is pulled to; a whole number of at least 0.
        progress: told after every call of the solver.
        **fields: of ``rf-inversion``: gamma, eta, start, stop.

    Raises:
        ValueError: an argument out of range, a picture or a pipeline that cannot be used, features over the budget.
        FloatingPointError: the inversion ended in values that are no finite numbers.
    """
    made = inverter(solver, **fields)
    steps, skip = checked_whole("steps", steps, 1), checked_whole("skip", skip, 0)
    if skip >= steps:
        raise ValueError(f"skip must be below the {steps} steps, got {skip}")
    check_intervals(made, steps - skip)
    seed = checked_whole("seed", seed, 0)
    guidance = check_guidance(guidance)
    injection = Injection() if injection is None else injection
    model = edit_model(pipe)
    _warn_of_distilled(model)
    pictures, frames, pixels = fit_pictures(model, picture, size)
    prompts = check_prompts(listed(source_prompt, "prompt"), len(pictures), "the source prompt")
    begin = time.perf_counter()
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(model.free)
        x0 = model.encode(pixels)
        grid = model.grid(steps, x0).tail(skip)
        edges = tuple(node.sigma for node in grid.nodes)
        window = injection.window(edges)
        condition = model.condition(prompts, guidance)
        store = FeatureStore(memory)
        injector = injector_of(stack, model, injection if window else None, store, x0)
        recorder = PathRecorder(made.name, edges, x0)
        total = len(made.forward.stages(PROCESS, grid.reversed()))
        leg = Leg(
            model,
            condition,
            frames[0].padded,
            injector=injector,
            mode="record",
            window=window,
            recorder=recorder,
            keep_inputs=True,
            progress=progress,
            total=total,
        )
        target = None
        if made.needs_target:
            target = noise(x0.shape[1:], [seed + i for i in range(len(pictures))], device=x0.device)
        found = invert_latents(leg, made, PROCESS, grid, x0, target=target, on_call=leg.on_call)
        if not bool(torch.isfinite(found.sample).all()):
            raise FloatingPointError(
                f"the inversion by {made.name} ended in values that are not finite numbers; take more steps, another "
                "solver or a wider number format"
            )
        fingerprint = model.fingerprint()
    return Inversion(
        pictures,
        frames,
        tuple(prompts),
        made.name,
        fields_of(made),
        edges,
        guidance,
        found,
        recorder.path(found.sample),
        leg.inputs,
        replace(injection),
        store,
        model_name(pipe),
        fingerprint,
        condition.fingerprint(),
        leg.calls,
        time.perf_counter() - begin,
        {"steps": steps, "skip": skip, "seed": seed, "size": size if isinstance(size, str | int) else None},
    )


def _warn_of_distilled(model: EditModel) -> None:
    """Models distilled to few steps have no smooth path from picture to noise."""
    if model.distilled:
        warnings.warn(
            "this model was distilled to a few steps (as FLUX.1-schnell); inversions of it are poor with every method",
            stacklevel=3,
        )
