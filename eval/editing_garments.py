"""Edits of garment pictures that no model was trained on: colour, garment and background, in turn.

Painted pictures are made of the test pictures of Fashion-MNIST by `garments_data`, so that the mask of the garment is
known exactly. Without that data the pictures are drawn by the model `garments`, which is not the one that edits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

import fewstep.assets
from fewstep.assets.recipes.garments_data import (
    BACKGROUNDS,
    COLOURS,
    GARMENTS,
    canonical_caption,
    colourise,
    load_fashion_mnist,
)

from .editing_edits import Edit, EditSet, checked_items
from .features import hash_of_module
from .judge import Judge

#: Kind of an edit -> the question about it. One in three edits is of each kind.
KINDS = ("colour", "garment", "background")
_NAMES = {"colour": tuple(COLOURS), "garment": GARMENTS, "background": tuple(BACKGROUNDS)}
#: Seeds of drawn pictures begin here, so that they are no pictures of another benchmark.
_DRAWN_SEED = 70_000_000
#: Edits to choose settings by begin here, in the seeds and, painted, in the second half of the test pictures.
_TUNING = 5_000
#: Pictures that are painted of either half.
_MOST = 2_000


def garments_judge() -> Judge:
    """The shipped judge."""
    return Judge.from_pretrained(Path(fewstep.assets.__file__).parent / "models" / "garments-judge")


def painted_mask(grey: Tensor) -> Tensor:
    """The opacity of garments as they are painted: (B, 28, 28) -> (B, 32, 32) in [0, 1].

    A picture is ``a garment + (1 - a) ground``; of two paintings on the grounds g1 and g2 the difference is
    ``(1 - a) (g1 - g2)``.
    """
    grounds = list(BACKGROUNDS)
    zero = torch.zeros(len(grey), dtype=torch.int64)
    white, black = (colourise(grey, zero, zero + grounds.index(name)) for name in ("white", "black"))
    apart = (torch.tensor(BACKGROUNDS["white"]) - torch.tensor(BACKGROUNDS["black"]))[:, None, None]
    return (1 - (white - black) / (2 * apart)).mean(1).clamp(0, 1)


def found_mask(pictures: Tensor) -> Tensor:
    """The opacity of garments in pictures that were not painted: (B, 3, H, W) in [0, 1] -> (B, H, W) in [0, 1].

    The ground is the median of the border, and a pixel is garment by its largest difference to it in a channel: none
    up to 0.06, all from 0.2 on (`garments_data`: no colour is nearer to a ground than that).
    """
    border = torch.cat([pictures[..., 0, :], pictures[..., -1, :], pictures[..., :, 0], pictures[..., :, -1]], dim=-1)
    off = (pictures - border.median(dim=-1).values[..., None, None]).abs().amax(1)
    return ((off - 0.06) / 0.14).clamp(0, 1)


class GarmentEdits(EditSet):
    """The common part: which edits, their prompts and regions.

    Args:
        seed: of the first edit.
        tuning: the edits to choose settings by, which share neither pictures nor seeds with the others.
    """

    kinds: ClassVar[tuple[str, ...]] = KINDS

    def __init__(self, seed: int = 0, tuning: bool = False) -> None:
        self.judge = garments_judge()
        self.seed, self.tuning = seed, tuning

    def edits(self, items: range) -> list[Edit]:
        """Edit i changes ``KINDS[i % 3]`` to one of the other values, each as likely."""
        pictures, labels, masks = self._pictures(checked_items(self, items))
        made = []
        for i, picture, label, mask in zip(items, pictures, labels, masks, strict=True):
            kind = KINDS[i % len(KINDS)]
            names = _NAMES[kind]
            draw = torch.Generator().manual_seed(self._seed_of(i) + 1_000_000_000)
            apart = int(torch.randint(1, len(names), (1,), generator=draw))
            new = dict(label) | {kind: (label[kind] + apart) % len(names)}
            made.append(
                Edit(
                    picture.permute(1, 2, 0).contiguous().numpy(),
                    _caption(label),
                    _caption(new),
                    kind,
                    (1 - mask if kind == "background" else mask).numpy(),
                    {kind: self.judge.labels[kind].index(names[new[kind]])},
                    tuple(other for other in KINDS if other != kind),
                )
            )
        return made

    def _seed_of(self, i: int) -> int:
        return self.seed + i + (_TUNING if self.tuning else 0)

    def _pictures(self, items: range) -> tuple[Tensor, list[dict[str, int]], Tensor]:
        """Pictures (B, 3, 32, 32) in [0, 1] as 8 bits hold them, what they show, opacity of the garment (B, 32, 32)."""
        raise NotImplementedError


class PaintedEdits(GarmentEdits):
    """Pictures painted of the test set of Fashion-MNIST: those in which the judge finds what their caption says.

    A garment that the judge takes for another one before any edit could not be seen to be kept.

    Args:
        data: the .npz file or the folder of `load_fashion_mnist`.
        seed: of the first edit, and of the paint.
        tuning: as in `GarmentEdits`.

    Raises:
        FileNotFoundError, ValueError: no such data.
    """

    def __init__(self, data: str | Path, seed: int = 0, tuning: bool = False) -> None:
        super().__init__(seed, tuning)
        found = load_fashion_mnist(data)
        order = torch.randperm(len(found["x_test"]), generator=torch.Generator().manual_seed(20))
        half = (len(order) + 1) // 2
        order = (order[half:] if tuning else order[:half])[:_MOST]
        grey, garment = torch.from_numpy(found["x_test"])[order], torch.from_numpy(found["y_test"])[order]
        draw = torch.Generator().manual_seed(2 * seed + tuning)
        colour = torch.randint(len(COLOURS), (len(order),), generator=draw)
        ground = torch.randint(len(BACKGROUNDS), (len(order),), generator=draw)
        pictures = _in_bytes(colourise(grey, colour, ground, draw) / 2 + 0.5)
        labels = {"colour": colour, "garment": garment, "background": ground}
        seen = self.judge.answers(2 * pictures - 1)
        right = torch.ones(len(order), dtype=torch.bool)
        for kind, values in labels.items():
            theirs = torch.tensor([self.judge.labels[kind].index(name) for name in _NAMES[kind]])
            right &= seen[kind] == theirs[values]
        self._shown, self._masks = pictures[right], painted_mask(grey[right])
        self._labels = {kind: values[right].tolist() for kind, values in labels.items()}
        self.most = len(self._shown)
        self.about = {"pictures": "the test pictures of Fashion-MNIST, painted", "tuning": tuning}
        self.fingerprint = {
            "pictures": "painted",
            "data": float(found["x_test"].astype(np.float64).mean()),
            "seed": seed,
            "tuning": tuning,
            "judge": hash_of_module(self.judge),
        }

    def _pictures(self, items: range) -> tuple[Tensor, list[dict[str, int]], Tensor]:
        labels = [{kind: self._labels[kind][i] for kind in KINDS} for i in items]
        return self._shown[items.start : items.stop], labels, self._masks[items.start : items.stop]


class DrawnEdits(GarmentEdits):
    """Pictures drawn by another model, of every caption in turn; what they show is what the judge finds in them.

    Args:
        model: of text to picture, trained on garments.
        seed, tuning: as in `GarmentEdits`.
        device: of that model.
    """

    def __init__(self, model: str = "garments", seed: int = 0, tuning: bool = False, device: Any = None) -> None:
        from fewstep.pipelines.loading import load

        super().__init__(seed, tuning)
        self._pipe = cast(Any, load(model, device=device))
        self.most = 1_000_000 if tuning else _TUNING
        self.about = {"pictures": f"drawn by {model}, which does not edit them", "tuning": tuning}
        self.fingerprint = {
            "pictures": "drawn",
            "model": hash_of_module(self._pipe.unet),
            "seed": seed,
            "tuning": tuning,
            "judge": hash_of_module(self.judge),
        }

    def _pictures(self, items: range) -> tuple[Tensor, list[dict[str, int]], Tensor]:
        from fewstep.pipelines import generate

        found = []
        for i in items:  # one call a picture: a batch may differ in the last bit, and the judge at an edge
            label = {"garment": i % 10, "colour": (i // 10 + i) % 10, "background": (i // 3) % 5}
            made = generate(self._pipe, _caption(label), steps=12, guidance=3, seed=_DRAWN_SEED + self._seed_of(i))
            found.append(np.asarray(made.images[0].convert("RGB")))
        pictures = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
        answers = self.judge.answers(2 * pictures - 1)
        labels = [
            {kind: _NAMES[kind].index(self.judge.labels[kind][int(answers[kind][row])]) for kind in KINDS}
            for row in range(len(pictures))
        ]
        return pictures, labels, found_mask(pictures)


def _caption(label: dict[str, int]) -> str:
    return canonical_caption(label["garment"], label["colour"], label["background"])


def _in_bytes(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255).round() / 255
