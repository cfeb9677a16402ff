"""Edits, the models that make them, and the figures of what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .editing_edits import Edit, EditSet
from .editing_measures import ClipSimilarity, Places, dino_places, judge_places, judged, outside, structure_distance
from .editing_methods import EditMethod, EditRun, round_trip, run_method

#: Figures of an edit, an entry each; NaN where there is none.
FIGURES = (
    "reached", "kept", "both", "structure", "psnr_outside", "ssim_outside", "clip", "clip_edited",
    "reconstruction_psnr", "latent_error",
)  # fmt: skip


class EditingProblem:
    """What is edited with what, and how it is measured.

    Args:
        edits: the pictures and prompts.
        pipes: place (``flow``, ``epsilon``) -> pipeline.
        dino: folder of a vision transformer for the structure distance; None: the judge's, if there is a judge.
        clip: a CLIP model for similarities; None: none.
        seed: of the first edit.
    """

    def __init__(
        self, edits: EditSet, pipes: Mapping[str, Any], dino: str | None = None, clip: str | None = None, seed: int = 0
    ) -> None:
        from fewstep.pipelines.editing.models import edit_model

        self.edits, self.pipes, self.seed = edits, dict(pipes), seed
        models = {place: edit_model(pipe) for place, pipe in self.pipes.items()}
        device = next(iter(models.values())).device
        self.doubled = {
            place: not getattr(model.denoiser.config, "guidance_embeds", False) for place, model in models.items()
        }
        self.places: Places | None = None
        self.structure = "none"
        if dino is not None:
            self.places, self.structure = dino_places(dino, device), "keys of DINO"
        elif edits.judge is not None:
            self.places, self.structure = judge_places(edits.judge), "features of the judge"
        self.clip = None if clip is None else ClipSimilarity(clip, device)
        self.fingerprint: dict[str, Any] = {
            "edits": edits.fingerprint,
            "models": {place: model.fingerprint() for place, model in models.items()},
            "dtype": {place: str(model.dtype).removeprefix("torch.") for place, model in models.items()},
            "device": device.type,
            "structure": self.structure if dino is None else f"{self.structure} {dino}",
            "clip": None if self.clip is None else self.clip.hash,
            "seed": seed,
        }
        self._kept: dict[tuple[str, range], dict[Any, Any]] = {}

    def run(
        self, method: EditMethod, steps: int, items: range, together: Sequence[EditMethod] = ()
    ) -> tuple[dict[str, Any], Tensor]:
        """Make some edits: their figures, calls and seconds, and the pictures (B, 3, H, W) in [0, 1].

        Small pictures share inversions with the methods `together`.
        """
        edits, seed = self.edits.edits(items), self.seed + items.start
        pipe = self.pipes[method.place]
        if self.edits.judge is None:
            made = run_method(pipe, method, steps, edits, seed)
        else:
            kept = self._kept.setdefault((method.place, items), {})
            made = run_method(pipe, method, steps, edits, seed, kept, together)
        pictures = torch.stack([_planes(np.asarray(image.convert("RGB"))) for image in made.images])
        return {**self.figures(pictures, edits), **self._common(made, edits)}, pictures

    def trip(self, method: EditMethod, steps: int, items: range) -> dict[str, Any]:
        """Invert and sample again with the same prompt and without guidance."""
        edits = self.edits.edits(items)
        made = round_trip(self.pipes[method.place], method, steps, edits, self.seed + items.start)
        return {**{name: np.full(len(edits), np.nan) for name in FIGURES}, **self._common(made, edits)}

    def _common(self, made: EditRun, edits: Sequence[Edit]) -> dict[str, Any]:
        nothing = np.full(len(edits), np.nan)
        return {
            "reconstruction_psnr": nothing if made.reconstructions is None else np.array(made.reconstructions),
            "latent_error": nothing if made.latent_errors is None else np.array(made.latent_errors),
            "calls": np.full(len(edits), made.calls),
            "seconds": made.seconds,
            "kind": np.array([self.edits.kinds.index(edit.kind) for edit in edits]),
        }

    def figures(self, pictures: Tensor, edits: Sequence[Edit]) -> dict[str, np.ndarray]:
        """What there is to say of edited pictures (B, 3, H, W) in [0, 1]."""
        found = {name: np.full(len(edits), np.nan) for name in FIGURES}
        originals = torch.stack([torch.from_numpy(edit.picture).permute(2, 0, 1) for edit in edits])
        found |= outside(pictures, originals, [edit.region for edit in edits])
        if self.edits.judge is not None:
            found |= judged(self.edits.judge, pictures, originals, edits)
        if self.places is not None:
            found["structure"] = structure_distance(self.places(pictures), self.places(originals)).double().numpy()
        if self.clip is not None:
            targets = [edit.target for edit in edits]
            found["clip"] = self.clip.of(pictures, targets)
            have = [row for row, edit in enumerate(edits) if edit.region is not None]
            if have:
                regions = torch.stack([torch.from_numpy(np.asarray(edits[row].region)) for row in have])[:, None]
                found["clip_edited"][have] = self.clip.of(pictures[have] * regions, [targets[row] for row in have])
        return found


def _planes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
