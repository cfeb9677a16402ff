"""The columns of a sampler's row: from the samples of one part to arrays, and from all parts to figures.

**Divergence.** The magnitude score of Wizadwongsa et al. 2023 (arXiv 2307.11118) on a model's own scale: the latents
are normalised by channel with mean and deviation of the reference solutions, their absolute values are maximised over
channels and over blocks (a map of at most 16 x 16 stays), set to zero below tau = 3, and averaged. A picture of a
converged solver scores about 0. One that scores above 1, where on average every place lies far outside of what the
model draws, or that has values which are not finite, has diverged.

**FID and KID** are distances of the judge's features to those of the data. The captions of `garments` are balanced over
garments, colours and backgrounds, not drawn at random: with few samples the unbiased estimate of KID comes out too low
(below zero), by the same amount for every sampler. Compare rows with each other, not with figures from elsewhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .benchmark_problems import Problem, Sampled
from .solver_errors import Reference, root_mean_square

#: What can be asked for. `rmse` is solver error, the others need pictures of a judged model, but for `divergence`.
METRICS = ("rmse", "divergence", "fid", "kid", "accuracy")
PICTURE_METRICS = ("fid", "kid", "accuracy")
#: The columns of each.
COLUMNS = {
    "rmse": ("rmse", "median_error"),
    "divergence": ("divergence_rate", "magnitude"),
    "fid": ("fid",),
    "kid": ("kid",),
    "accuracy": ("garment_accuracy", "colour_accuracy", "background_accuracy"),
}

TAU = 3.0
DIVERGED = 1.0
_MAP = 16


def magnitude_score(latents: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Magnitude score of each sample: (B, C, ...) -> (B,); infinite where a value is not finite.

    Args:
        latents: samples.
        mean, deviation: (C,) of the channels of sound ones.
    """
    shape = (1, -1, *([1] * (latents.ndim - 2)))
    far = ((latents.double() - mean.double().reshape(shape)) / deviation.double().reshape(shape)).abs()
    far = far.nan_to_num(nan=math.inf, posinf=math.inf).amax(1)
    if far.ndim == 3:
        blocks = [max(1, side // _MAP) for side in far.shape[1:]]
        far = F.max_pool2d(far[:, None], blocks)[:, 0]
    far = far.flatten(1)
    return torch.where(far < TAU, 0.0, far).mean(1)


def channel_statistics(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel of (B, C, ...), (C,) each."""
    channels = latents.double().transpose(0, 1).flatten(1)
    return channels.mean(1), channels.std(1, correction=0).clamp(min=1e-12)


def measured_arrays(
    problem: Problem, run: Sampled, items: range, reference: Reference, pictures: bool
) -> dict[str, Any]:
    """What is kept of a part: one entry a sample, and what the part cost."""
    arrays: dict[str, Any] = {
        "calls": float(run.calls),
        "seconds": run.seconds,
        "step_microseconds": run.step_microseconds,
        "memory": run.memory,
        "magnitude": magnitude_score(run.latents, *channel_statistics(reference.latents)).numpy(),
    }
    known = min(len(items), max(0, len(reference.latents) - items.start))
    off = np.full(len(items), -1.0)  # beyond the reference: not measured
    if known:
        truth = reference.latents[items.start : items.start + known]
        off[:known] = root_mean_square(run.latents[:known] - truth).numpy()
    arrays["distance"] = off
    if pictures:
        arrays |= {name: values.numpy() for name, values in problem.judged(run.latents, items).items()}
    return arrays


def number(value: float, digits: int = 6) -> float | None:
    """A figure for JSON, with so many significant digits; None where it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def row_of_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a cell from its joined parts; None where one was not measured or has no meaning."""
    off = arrays["distance"]
    off = off[~(off < 0)]  # NaN stays: it was measured, and is not finite
    magnitude = arrays["magnitude"]
    row: dict[str, Any] = {"calls": number(float(arrays["calls"].mean()))}
    row |= {column: None for columns in COLUMNS.values() for column in columns}
    if len(off):
        row["rmse"] = number(math.sqrt(np.square(off).mean()))
        row["median_error"] = number(float(np.median(np.nan_to_num(off, nan=math.inf))))
    if row["calls"] is not None and row["calls"] == int(row["calls"]):
        row["calls"] = int(row["calls"])
    row["divergence_rate"] = number(float((magnitude > DIVERGED).mean()))
    row["magnitude"] = number(float(magnitude.mean()))
    if "features" in arrays and len(arrays["features"]) > 1:
        features = torch.from_numpy(arrays["features"])
        fid, kid = distances_to_data(features)
        row |= {"fid": number(fid), "kid": number(kid)}
    for question in ("garment", "colour", "background"):
        if f"{question}_right" in arrays:
            row[f"{question}_accuracy"] = number(float(arrays[f"{question}_right"].mean()))
    return row | {
        "seconds": number(float(arrays["seconds"].sum()), 4),
        "scheduler_microseconds": number(float(np.median(arrays["step_microseconds"])), 4),
        "peak_memory_mib": number(float(arrays["memory"].max()), 4),
    }


def statistics_path() -> Path:
    """Where the statistics of the garments data are."""
    import fewstep.assets

    return Path(fewstep.assets.__file__).parent / "statistics" / "garments.npz"


@functools.cache
def _data() -> Any:
    from .statistics import Statistics

    path = statistics_path()
    return Statistics.load(path) if path.is_file() else None


def distances_to_data(features: torch.Tensor) -> tuple[float, float]:
    """(FID, KID) of judge features (N, F) to those of the garments data; NaN where the statistics are not there.

    The covariance of fewer samples than features is singular: such an FID is defined, but says little.
    """
    from .frechet import frechet_distance
    from .kernel import kernel_distance
    from .statistics import Statistics

    data = _data()
    if data is None:
        return math.nan, math.nan
    drawn = Statistics()
    drawn.update(features)
    kept = data.features
    return frechet_distance(drawn, data), math.nan if kept is None else kernel_distance(features, kept)
