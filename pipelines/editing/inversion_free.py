"""FlowEdit: from a picture to its edit without inverting it, by the difference of two velocities.

z_edit moves along v(z_tar; target) - v(z_src; source), where z_src is the picture with fresh noise and z_tar the same
noise around z_edit. With one prompt and one guidance the difference is 0 and the picture comes back exactly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.samplers import noise

from ..loading import model_name
from .checks import check_guidance, check_prompts, checked_whole, listed
from .inversion import fit_pictures
from .leg import Leg, Progress
from .masks import packed_masks, read_masks
from .models import EditModel, edit_model
from .results import Edited, finished

#: (share of the steps that is used, guidance of the source, of the target), by class of the model: the authors'
#: settings for Flux (24 of 28 steps) and SD 3 (33 of 50); for a U-Net those of SD 3 at its own guidance.
_USUAL = {
    "FluxEditModel": (24 / 28, 1.5, 5.5),
    "StableDiffusion3EditModel": (33 / 50, 3.5, 13.5),
    "StableDiffusionEditModel": (33 / 50, 1.0, 3.0),
}


@dataclass(frozen=True)
class FlowEdit:
    """Settings of FlowEdit. None is the authors' choice for the model.

    Over the edges e_0 (noise) ... e_N (data), from interval ``skip`` on, with x the picture and fresh noise eps:

        z_src = (1 - e_i) x + e_i eps,   z_tar = z_edit + z_src - x,   z_edit += (e_{i+1} - e_i) (v(z_tar) - v(z_src)),

    the difference averaged over `average` draws; the `last` intervals are plain Euler sampling with the target prompt.

    Attributes:
        skip: intervals at the noise end that are left out: more keeps more of the picture.
        last: intervals at the data end that are sampled plainly.
        average: draws of noise a step.
        source_guidance, guidance: of the two velocities.

    Reference: Kulikov et al. 2025, FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models
    (arXiv 2412.08629).
    """

    skip: int | None = None
    last: int = 0
    average: int = 1
    source_guidance: float | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        for name, value, low in (("skip", self.skip or 0, 0), ("last", self.last, 0), ("average", self.average, 1)):
            checked_whole(name, value, low)
        for guidance in (self.source_guidance, self.guidance):
            if guidance is not None:
                check_guidance(guidance)

    def resolved(self, model: EditModel, steps: int) -> FlowEdit:
        """The settings with the model's usual ones in place of None.

        Raises:
            ValueError: no interval is left.
        """
        share, source, target = _USUAL[type(model).__name__]
        skip = round(steps * (1 - share)) if self.skip is None else int(self.skip)
        if skip + self.last > steps or skip >= steps:
            raise ValueError(
                f"of {steps} steps {skip} are skipped and {self.last} sampled plainly: none is left to edit"
            )
        return FlowEdit(
            skip,
            int(self.last),
            int(self.average),
            source if self.source_guidance is None else self.source_guidance,
            target if self.guidance is None else self.guidance,
        )


def flow_edit(
    pipe: Any,
    picture: Any,
    source_prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    settings: FlowEdit | None = None,
    *,
    steps: int = 28,
    seed: int = 0,
    mask: Any = None,
    size: str | int | Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Edited:
    """Edit pictures without inverting them.

    Args:
        pipe: a Flux, Stable Diffusion 3 or Stable Diffusion pipeline; left as it is.
        picture, source_prompt, size: as in `invert`.
        target_prompt, mask: as in `edit`.
        settings: see `FlowEdit`.
        steps: intervals of the whole grid; two calls of the network each, and one more for each of both guidances above
            1 that is classifier-free.
        seed: of the first picture's noise; the next has the next.
        progress: told after every step.

    Raises:
        ValueError, FloatingPointError: as `invert` and `edit`.
    """
    steps, seed = checked_whole("steps", steps, 1), checked_whole("seed", seed, 0)
    model = edit_model(pipe)
    use = (settings or FlowEdit()).resolved(model, steps)
    assert use.skip is not None
    assert use.source_guidance is not None
    assert use.guidance is not None
    pictures, frames, pixels = fit_pictures(model, picture, size)
    sources = check_prompts(listed(source_prompt, "prompt"), len(pictures), "the source prompt")
    targets = check_prompts(listed(target_prompt, "prompt"), len(pictures), "the target prompt")
    masks = read_masks(mask, pictures)
    begin = time.perf_counter()
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(model.free)
        x = model.encode(pixels)
        inside = None if masks is None else packed_masks(model, masks, frames, x)
        edges = [node.sigma for node in model.grid(steps, x).nodes]
        legs = [
            Leg(model, model.condition(prompts, guidance), frames[0].padded)
            for prompts, guidance in ((sources, use.source_guidance), (targets, use.guidance))
        ]
        z, plain = x, None
        for i in range(use.skip, steps):
            step = edges[i + 1] - edges[i]
            draws = [_draw(x, seed, i, k, use.average) for k in range(use.average)]
            if i >= steps - use.last:
                plain = z + edges[i] * (draws[0] - x) if plain is None else plain
                plain = plain + step * legs[1].evaluate(plain, edges[i])
            else:
                apart = torch.zeros_like(x)
                for draw in draws:
                    noisy = (1 - edges[i]) * x + edges[i] * draw
                    near = legs[1].evaluate(noisy + (z - x), edges[i])
                    apart = apart + (near - legs[0].evaluate(noisy, edges[i])) / use.average
                z = z + step * (apart if inside is None else inside * apart)
            if progress is not None:
                progress(i + 1 - use.skip, steps - use.skip)
        result = z if plain is None else plain
        about = {
            "model": model_name(pipe),
            "source": sources[0] if len(set(sources)) == 1 else sources,
            "target": targets[0] if len(set(targets)) == 1 else targets,
            "picture": pictures[0].name if len(pictures) == 1 else len(pictures),
            "solver": "flowedit",
            "fields": {"last": use.last, "average": use.average, "source_guidance": use.source_guidance},
            "steps": steps,
            "skip": use.skip,
            "seed": seed,
            "size": size if isinstance(size, str | int) else None,
            "guidance": use.guidance,
            "mask": mask is not None,
        }
        return finished(model, pictures, frames, result, x, masks, begin, about, calls=sum(leg.calls for leg in legs))


def _draw(x: torch.Tensor, seed: int, step: int, number: int, average: int) -> torch.Tensor:
    """Noise of one step; every picture has draws of its own, whatever its batch."""
    seeds = [(seed + row) * 1_000_003 + step * average + number for row in range(len(x))]
    return noise(x.shape[1:], seeds, device=x.device)
