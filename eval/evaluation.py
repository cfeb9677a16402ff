"""One call from pictures to numbers: FID, KID, CMMD, precision and recall, CLIP score, fidelity of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .clip_score import ClipScore
from .features import FeatureNetwork, feature_network
from .fidelity import METRICS as PAIR_METRICS
from .fidelity import pair_fidelity, require_lpips
from .frechet import SQUARE_ROOTS, frechet_distance
from .kernel import clip_mmd, kernel_distance
from .manifold import precision_recall
from .pictures import PictureSet, open_pictures
from .prompts import prompts_of
from .references import cache_key, cached_statistics, check_reference, default_cache, find_reference
from .statistics import Statistics

#: Metrics between the pictures and a reference, and those that need the reference's features themselves.
REFERENCE_METRICS = ("fid", "kid", "cmmd", "precision-recall")
_FEATURE_METRICS = ("kid", "cmmd", "precision-recall")
METRICS = (*REFERENCE_METRICS, "clip", *PAIR_METRICS)

#: The CLIP model of the CLIP score where none is named.
DEFAULT_CLIP = "openai/clip-vit-large-patch14"
#: Below this many pictures an FID says more about their number than about them.
ENOUGH = 10_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        rows: flat objects with `metric`, `value`, `count` and, where there is one, `reference_count`; pairs have a
            `median` as well.
        settings: what the numbers depend on: network, hash, resize rule, dtype, reservoir, sqrtm, ...
        notes: what to be careful about, as sentences.
        statistics: of the pictures' features, or None where no metric asked for them.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    statistics: Statistics | None = None

    def __getitem__(self, metric: str) -> float:
        """The value of one metric: `fid`, `kid`, `cmmd`, `precision`, `recall`, `clip`, `psnr`, `ssim`, `lpips`."""
        for row in self.rows:
            if row["metric"] == metric:
                return row["value"]
        raise KeyError(metric)


def evaluate(
    pictures: Any,
    reference: Any = None,
    metrics: Sequence[str] = ("fid",),
    *,
    network: str | FeatureNetwork | None = None,
    weights: str | Path | None = None,
    sqrtm: str = "eigen",
    reservoir: int = 5000,
    neighbours: int = 3,
    pairs: Any = None,
    prompts: str | Path | None = None,
    clip_model: str | None = None,
    batch: int = 64,
    device: Any = None,
    signed: bool = False,
    cache: str | Path | bool = True,
    save_stats: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a set of pictures. Memory does not grow with their number.

    Args:
        pictures: what `open_pictures` takes.
        reference: for the metrics ``fid``, ``kid``, ``cmmd`` and ``precision-recall``: pictures, or an npz file of
            statistics (`Statistics.load`), or the name of shipped ones (``garments``).
        metrics: any of `METRICS`; may be empty with `save_stats`.
        network: see `feature_network`; by default the one that the reference names, else ``inception``.
        weights: a file of weights, for ``inception``.
        sqrtm: of the FID, see `frechet_of_moments`.
        reservoir: how many features at most are kept for ``kid``, ``cmmd`` and ``precision-recall``, on either side;
            which ones depends on the pictures' numbers alone.
        neighbours: k of ``precision-recall``, which is between equal numbers of either side.
        pairs: for ``psnr``, ``ssim`` and ``lpips``: the originals, see `pair_fidelity`.
        prompts: for ``clip``: see `prompts_of`.
        clip_model: for ``clip``: see `load_clip`; by default that of the network, else ViT-L/14 of OpenAI.
        batch: pictures that go through a network together.
        device: ``cpu``, ``cuda``, ...; by default the accelerator if there is one.
        signed: floats in arrays are in [-1, 1].
        cache: where statistics of reference pictures are kept; True is `default_cache`, False is nowhere.
        save_stats: npz file to write the statistics of the pictures to.
        progress: called with what is being done, pictures done and pictures in all.

    Raises:
        ValueError: an unknown name, or sets, files and options that do not fit each other.
        FileNotFoundError, ImportError: files, weights or packages that are not here, and how to get them.
    """
    metrics = _checked(metrics, reference, pairs, sqrtm, reservoir, batch, neighbours, save_stats)
    pictures = open_pictures(pictures, signed=signed)
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"pictures": pictures.where, "count": pictures.count}
    notes: list[str] = []
    statistics = None
    tell = progress or (lambda what, done, total: None)
    asked = [name for name in metrics if name in REFERENCE_METRICS]
    of_features = [name for name in asked if name in _FEATURE_METRICS]
    of_pairs = [name for name in metrics if name in PAIR_METRICS]
    # what cannot be had is refused before any network runs
    if "lpips" in of_pairs:
        require_lpips()
    originals = open_pictures(pairs, signed=signed) if of_pairs else None
    texts = prompts_of(pictures, prompts) if "clip" in metrics else []
    score = ClipScore(clip_model or _clip_of(network) or DEFAULT_CLIP, device) if "clip" in metrics else None
    if "precision-recall" in metrics and neighbours >= min(pictures.count, reservoir):
        raise ValueError(f"neighbours must be below the number of pictures that are kept, got {neighbours}")

    if asked or save_stats is not None:
        known = find_reference(reference, signed) if asked else None
        if isinstance(known, Statistics) and isinstance(network, str) and known.network not in (None, network):
            raise ValueError(f"the reference is of the network {known.network!r}, not of {network!r}")
        if not isinstance(network, FeatureNetwork):
            named = known.network if isinstance(known, Statistics) else None
            network = feature_network(network or named or "inception", weights=weights, device=device)
        keep = reservoir if of_features or save_stats is not None else 0
        if isinstance(known, PictureSet):
            known = _reference_statistics(known, network, keep, batch, cache, tell)
        if known is not None:
            check_reference(known, network, of_features)
        statistics = gather(pictures, network, keep, batch, tell)
        if save_stats is not None:
            statistics.save(save_stats)
        settings |= {"network": network.name, "hash": network.hash, "features": network.dim}
        settings |= {"resize": network.resize, "dtype": network.dtype, "moments": "float64"}
        if known is not None:
            rows += _compare(statistics, known, asked, sqrtm, neighbours)
            settings |= _reference_settings(reference, known, asked, sqrtm, reservoir, neighbours)
            notes += _cautions(statistics, known, asked)
    if score is not None:
        for part in pictures.batches(batch):
            score.update(part.images, texts[part.first : part.first + len(part.images)])
            tell("CLIP score", score.count, pictures.count)
        rows.append({"metric": "clip", "value": score.compute(), "count": score.count})
        settings |= {"clip_model": score.source, "clip_hash": score.hash}
        if score.cut:
            notes.append(f"{score.cut} prompts are longer than the CLIP model reads, and were cut")
    if originals is not None:
        found = pair_fidelity(pictures, originals, of_pairs, device=device, progress=partial(tell, "pairs"))
        equal = max(row.get("identical", 0) for row in found)
        if equal:
            notes.append(f"{equal} pictures equal their originals: the PSNR, infinite there, leaves them out")
        rows += found
        settings |= {"pairs": originals.where, "peak": 1.0}
    return Evaluation(rows, settings, notes, statistics)


def gather(
    pictures: PictureSet, network: FeatureNetwork, reservoir: int, batch: int = 64, progress: Progress | None = None
) -> Statistics:
    """Statistics of the features of a set of pictures."""
    found = Statistics(reservoir, network=network.name, hash=network.hash)
    for part in pictures.batches(batch):
        found.update(network(part.images), np.arange(part.first, part.first + len(part.images)))
        if progress is not None:
            progress(f"features of {Path(pictures.where).name}", found.count, pictures.count)
    return found


def _checked(
    metrics: Sequence[str],
    reference: Any,
    pairs: Any,
    sqrtm: str,
    reservoir: int,
    batch: int,
    neighbours: int,
    save_stats: Any,
) -> list[str]:
    from fewstep.samplers.core.registry import nearest

    metrics = list(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{nearest(name, METRICS)} Known are {', '.join(METRICS)}")
    if sqrtm not in SQUARE_ROOTS:
        raise ValueError(
            f"unknown square root {sqrtm!r}{nearest(sqrtm, SQUARE_ROOTS)} Known are {', '.join(SQUARE_ROOTS)}"
        )
    if not metrics and save_stats is None:
        raise ValueError(f"say at least one metric of {', '.join(METRICS)}, or where to save the statistics")
    of_reference = [name for name in metrics if name in REFERENCE_METRICS]
    if of_reference and reference is None:
        raise ValueError(
            f"{of_reference[0]} is a distance to a reference: a folder, an npz file of statistics, garments"
        )
    of_pairs = [name for name in metrics if name in PAIR_METRICS]
    if of_pairs and pairs is None:
        raise ValueError(f"{of_pairs[0]} is between pairs of pictures: say --pairs FOLDER with the originals")
    for name, value, low in (("reservoir", reservoir, 2), ("batch", batch, 1), ("neighbours", neighbours, 1)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    return metrics


def _reference_statistics(
    pictures: PictureSet, network: FeatureNetwork, reservoir: int, batch: int, cache: str | Path | bool, tell: Progress
) -> Statistics:
    def make() -> Statistics:
        return gather(pictures, network, reservoir, batch, tell)

    if cache is False:
        return make()
    folder = default_cache() if cache is True else Path(cache)
    return cached_statistics(folder, cache_key(pictures, network, reservoir), make)


def _compare(
    mine: Statistics, its: Statistics, asked: Sequence[str], sqrtm: str, neighbours: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in asked:
        if name == "fid":
            value = frechet_distance(mine, its, sqrtm)
            rows.append({"metric": "fid", "value": value, "count": mine.count, "reference_count": its.count or None})
            continue
        x, y = mine.features, its.features
        if x is None or y is None:
            raise ValueError(f"{name} needs features, and one of the two statistics holds none")
        if name == "precision-recall":
            least = min(len(x), len(y))
            values = precision_recall(y[:least], x[:least], neighbours)
            rows += [
                {"metric": metric, "value": value, "count": least, "reference_count": least}
                for metric, value in zip(("precision", "recall"), values, strict=True)
            ]
        else:
            value = (kernel_distance if name == "kid" else clip_mmd)(x, y)
            rows.append({"metric": name, "value": value, "count": len(x), "reference_count": len(y)})
    return rows


def _reference_settings(
    reference: Any, known: Statistics, asked: Sequence[str], sqrtm: str, reservoir: int, neighbours: int
) -> dict[str, Any]:
    where = str(reference) if isinstance(reference, str | Path) else "given as an object"
    found: dict[str, Any] = {"reference": where, "reference_count": known.count or None}
    if "fid" in asked:
        found["sqrtm"] = sqrtm
    if any(name in _FEATURE_METRICS for name in asked):
        found["reservoir"] = reservoir
    if "precision-recall" in asked:
        found["neighbours"] = neighbours
    return found


def _cautions(mine: Statistics, its: Statistics, asked: Sequence[str]) -> list[str]:
    notes = []
    if its.network is None:
        notes.append("the reference does not say which network it is of; it must be the same")
    if "fid" in asked:
        for whose, count in (("", mine.count), (" of the reference", its.count)):
            if not count:
                notes.append("the reference does not say how many pictures it is of")
            elif count < mine.dim:
                notes.append(
                    f"{count:,} pictures{whose} are fewer than the {mine.dim:,} features: the covariance is singular, "
                    "and the FID far too large"
                )
            elif count < ENOUGH:
                notes.append(
                    f"{count:,} pictures{whose} are below {ENOUGH:,}: the FID is too large by a bias that falls with "
                    "their number; compare only at equal numbers"
                )
    return notes


def _clip_of(network: str | FeatureNetwork | None) -> str | None:
    name = network.name if isinstance(network, FeatureNetwork) else network
    return name.removeprefix("clip:") if name is not None and name.startswith("clip:") else None
