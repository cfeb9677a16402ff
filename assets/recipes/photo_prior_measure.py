"""What `photo-prior` is good for: four tasks on photographs it has not seen, against what needs no network.

    python -m fewstep.assets.recipes.photo_prior --stage measure --photographs kodak --out assets/models

Every figure is the PSNR of Rec. 601 luma, the mean over photographs. The network restores by the default method of each
task (`fewstep.pipelines.restoration.tasks`), and its evaluations for one picture are counted. The weights of total
variation and Wiener filter are the best on photographs 01 to 18, as

    python -m fewstep.assets.recipes.photo_prior_measure kodak

finds them; they stand in `fewstep.eval.restoration_classical`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fewstep.eval.restoration_classical import WEIGHTS, restore_classically
from fewstep.eval.restoration_contenders import DEFAULT, Restorer
from fewstep.eval.restoration_problem import Degradation, degradation, luma, psnr, restore

from .photo_prior_data import TRAINED, read_photographs

NOISE, BLUR_NOISE = 25.0, 2.55
"""Noise of denoising and of the blurred measurement, in 255ths of the range of a pixel."""


@dataclass(frozen=True)
class Bar:
    """What the network must do at least: `margin` dB more than the best of some classical ways."""

    task: str
    rivals: tuple[str, ...]
    margin: float


BARS = (
    Bar("sr2", ("bicubic",), 0.5),
    Bar("inpaint", ("biharmonic",), 1.0),
    Bar("denoise", ("total variation", "wiener"), 0.0),
    Bar("gaussian-deblur", ("total variation", "wiener"), 0.0),
)


def cut(photographs: Sequence[Tensor], side: int) -> list[Tensor]:
    """The centre squares of photographs (3, H, W) uint8, in [0, 1]; whole ones, to multiples of 8, for side 0."""
    made = []
    for photograph in photographs:
        height, width = photograph.shape[1:]
        tall, wide = (min(side, height), min(side, width)) if side else (height // 8 * 8, width // 8 * 8)
        top, left = (height - tall) // 2, (width - wide) // 2
        made.append(photograph[:, top : top + tall, left : left + wide].float() / 255)
    return made


def degraded(photographs: Sequence[Tensor], what: Degradation) -> Iterator[tuple[Tensor, Any, Tensor]]:
    """Every photograph (1, 3, H, W) with its operator and measurement in [-1, 1]; the noise is that of its number."""
    for seed, photograph in enumerate(photographs):
        yield photograph[None], *what.measured(photograph[None], [seed])


def classical(photographs: Sequence[Tensor], what: Degradation, way: str, weight: float | None = None) -> float:
    """Mean luma PSNR of a classical way."""
    found = []
    for clean, operator, y in degraded(photographs, what):
        size = (clean.shape[-2], clean.shape[-1])
        restored = restore_classically(way, what.task, (y + 1) / 2, operator, what.noise / 255, size, weight)
        found.append(float(psnr(luma(restored.clamp(0, 1)), luma(clean))))
    return sum(found) / len(found)


def measure_bar(pipe: Any, photographs: Sequence[Tensor], bar: Bar) -> dict[str, Any]:
    """The default of a task and its rivals, in dB.

    Args:
        pipe: pixel restoration pipeline.
        photographs: (3, H, W) each, in [0, 1].
        bar: what is asked for.
    """
    from fewstep.pipelines.restoration.tasks import task_defaults

    what = degradation(bar.task, NOISE, BLUR_NOISE)
    method, fields, steps = task_defaults(bar.task, what.sigma)
    default = Restorer(DEFAULT, DEFAULT)
    rows = [restore(pipe, default, what, p[None], steps, [seed]) for seed, p in enumerate(photographs)]
    each = [float(psnr(luma(r.pictures), luma(p[None]))) for r, p in zip(rows, photographs, strict=True)]
    rivals = {way: classical(photographs, what, way) for way in bar.rivals}
    mean, wanted = sum(each) / len(each), max(rivals.values()) + bar.margin
    return {
        "task": bar.task,
        "method": method,
        "fields": dict(fields),
        "calls": max(row.forward + row.backward for row in rows),
        "luma PSNR": round(mean, 3),
        "each": [round(value, 2) for value in each],
        "rivals": {way: round(value, 3) for way, value in rivals.items()},
        "wanted": round(wanted, 3),
        "holds": mean >= wanted,
        "seconds a photograph": round(sum(row.seconds for row in rows) / len(rows), 2),
    }


def measure_bars(folder: Path, photographs: Sequence[Tensor], side: int = 0, dtype: str = "float32") -> dict[str, Any]:
    """All of `BARS` on the squares of this side, or on whole photographs.

    Args:
        folder: of the model.
        photographs: (3, H, W) uint8.
        side: of the centre square; 0 for all of it.
        dtype: of the network.
    """
    from fewstep.pipelines.restoration import load_restoration

    pipe: Any = load_restoration(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    pictures = cut(photographs, side)
    return {"side": side or "whole", "dtype": dtype, "tasks": [measure_bar(pipe, pictures, bar) for bar in BARS]}


def best_weight(photographs: Sequence[Tensor], what: Degradation, way: str, tries: int = 3) -> tuple[float, float]:
    """The weight of a classical way with the best luma PSNR, of sqrt(2)^k times the known one, and that PSNR."""
    weights = [WEIGHTS[what.task, way].at(what.noise / 255) * 2 ** (k / 2) for k in range(-tries, tries + 1)]
    found = [(classical(photographs, what, way, weight), weight) for weight in weights]
    best, weight = max(found)
    return weight, best


def tune(
    photographs: Annotated[Path, typer.Argument(help="Folder with the Kodak suite.")],
    side: Annotated[int, typer.Option(help="Of the centre squares; 0 for whole photographs.")] = 128,
) -> None:
    """Find the weights of total variation and Wiener filter on the photographs that trained."""
    pictures = cut(read_photographs(photographs, TRAINED), side)
    torch.set_num_threads(1)
    for task, way in WEIGHTS:
        weight, best = best_weight(pictures, degradation(task, NOISE, BLUR_NOISE), way)
        print(f"{task}, {way}: weight {weight:.3g}, luma PSNR {best:.3f}")


if __name__ == "__main__":
    typer.run(tune)
