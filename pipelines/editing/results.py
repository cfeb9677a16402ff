"""What an edit gives back: pictures in the size that they came in, and how they were made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .frames import Frame, restored
from .inversion import Inversion
from .models import EditModel
from .pictures import Picture, psnr
from .strategy import Injection

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Edited:
    """Edited pictures, and how they came to be.

    Attributes:
        images: in the size and with the alpha of the pictures that were edited.
        pixels: (B, H, W, 3) in [0, 1], what the model made, before it was fitted back into the pictures.
        calls: forward passes of the network, without those of the inversion.
        seconds: time of the run, text and decoder included.
        settings: all that is needed to repeat it, as JSON knows it.
        recorded, hits, misses: features that had to be recorded again, that were put back, and that had no partner.
        psnr: in dB, of every picture against the one before, as the model sees them.
        latent_error: root mean square distance of the latents from those of the picture, over their own.
    """

    images: list[Image]
    pixels: np.ndarray = field(repr=False)
    calls: int
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    recorded: int = 0
    hits: int = 0
    misses: int = 0
    psnr: tuple[float, ...] = ()
    latent_error: tuple[float, ...] = ()

    @property
    def image(self) -> Image:
        """The first picture."""
        return self.images[0]


def recorded_settings(inversion: Inversion) -> dict[str, Any]:
    """What an edit's settings say of its inversion."""
    prompts = inversion.prompts
    return {
        "model": inversion.model,
        "source": prompts[0] if len(set(prompts)) == 1 else list(prompts),
        "picture": inversion.pictures[0].name if len(inversion.pictures) == 1 else len(inversion.pictures),
        "solver": inversion.solver,
        "fields": dict(inversion.fields),
        **dict(inversion.settings),
        "inversion_guidance": inversion.guidance,
    }


def injection_settings(injection: Injection, edges: Sequence[float]) -> dict[str, Any]:
    """What an edit's settings say of its injection."""
    blocks = injection.blocks
    return {
        "strategy": " ".join(injection.words) or "none",
        "inject_steps": injection.window(edges),
        "blocks": blocks if blocks is None or isinstance(blocks, str) else list(blocks),
        "ratios": list(injection.ratios),
        "scope": injection.scope,
        "strength": injection.strength,
    }


def finished(
    model: EditModel,
    pictures: Sequence[Picture],
    frames: Sequence[Frame],
    latents: torch.Tensor,
    source: torch.Tensor,
    masks: Sequence[np.ndarray] | None,
    begin: float,
    settings: dict[str, Any],
    **counts: int,
) -> Edited:
    """Decode, fit back into the pictures, and put the record together."""
    pixels = model.decode(latents, frames[0].padded).numpy().transpose(0, 2, 3, 1)
    images, apart = [], []
    for i, (picture, frame) in enumerate(zip(pictures, frames, strict=True)):
        images.append(restored(picture, frame, pixels[i], None if masks is None else masks[i]))
        apart.append(psnr(frame.inside(picture.opaque), pixels[i]))
    rows = (latents.flatten(1).double(), source.to(latents.device).flatten(1).double())
    error = (rows[0] - rows[1]).norm(dim=1) / rows[1].norm(dim=1).clamp_min(1e-12)
    about = {
        **settings,
        "width": pictures[0].size[0],
        "height": pictures[0].size[1],
        "pipeline": type(model.pipe).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "versions": {name: version(name) for name in ("fewstep", "diffusers", "transformers", "torch")},
    }
    seconds = time.perf_counter() - begin
    return Edited(
        images,
        pixels,
        seconds=seconds,
        settings=about,
        psnr=tuple(apart),
        latent_error=tuple(error.tolist()),
        **counts,
    )
