"""Fidelity of pictures to their originals, pair by pair: PSNR, SSIM and LPIPS, by torchmetrics."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from .pictures import Folder, PictureSet, as_images, open_pictures, read_picture

METRICS = ("psnr", "ssim", "lpips")

Measure = Callable[[Tensor, Tensor], Tensor]


def pair_fidelity(
    pictures: Any,
    originals: Any,
    metrics: Sequence[str] = ("psnr", "ssim"),
    *,
    signed: bool = False,
    device: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Mean and median over all pairs of each metric.

    Args:
        pictures, originals: what `open_pictures` takes. Files of two folders belong together by their names below the
            folder, where the endings may differ; arrays by their order. Originals without a partner are left out.
        metrics: of ``psnr`` (dB, peak 1; more is better), ``ssim`` (-1 to 1; more is better; Wang et al., 2004,
            Gaussian window of 11 pixels, pictures mirrored at their border), ``lpips`` (less is better; Zhang et al.,
            2018, AlexNet).
        signed: floats in arrays are in [-1, 1].
        device: where LPIPS is computed.
        progress: called with pairs done and pairs in all.

    Returns:
        A row a metric: `metric`, `value` (the mean), `median`, `count`. Equal pictures have an infinite PSNR:
        `identical` says how many there are, and mean and median of the PSNR are over the others.

    Raises:
        ValueError: an unknown metric, a picture without an original, a pair of two sizes, pictures too small for SSIM.
        ImportError, FileNotFoundError: LPIPS without torchvision or its weights.
    """
    measures = {name: _measure(name, device) for name in metrics}
    mine, its = open_pictures(pictures, signed=signed), open_pictures(originals, signed=signed)
    total, pairs = _pairs(mine, its)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for done, (label, a, b) in enumerate(pairs, 1):
        if a.shape != b.shape:
            raise ValueError(
                f"{label} is {a.shape[-1]}x{a.shape[-2]} pixels and its original {b.shape[-1]}x{b.shape[-2]}; fidelity "
                "is between pictures of one size"
            )
        if "ssim" in measures and min(a.shape[-2:]) < 11:
            raise ValueError(f"{label} is {a.shape[-1]}x{a.shape[-2]} pixels, and SSIM needs at least 11x11")
        for name, measure in measures.items():
            found[name].append(float(measure(a, b)))
        if progress is not None:
            progress(done, total)
    return [_row(name, values) for name, values in found.items()]


def _row(name: str, values: list[float]) -> dict[str, Any]:
    finite = [value for value in values if math.isfinite(value)]
    row: dict[str, Any] = {"metric": name, "value": None, "median": None, "count": len(values)}
    if finite:
        row |= {"value": statistics.fmean(finite), "median": statistics.median(finite)}
    return row | ({"identical": len(values) - len(finite)} if name == "psnr" else {})


def _pairs(mine: PictureSet, its: PictureSet) -> tuple[int, Iterator[tuple[str, Tensor, Tensor]]]:
    if isinstance(mine, Folder) and isinstance(its, Folder):
        by_name = dict(zip(its.names(), its.files, strict=True))
        by_stem: dict[str, list[Path]] = {}
        for name, file in by_name.items():
            by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(file)
        files = []
        for name, file in zip(mine.names(), mine.files, strict=True):
            like = by_stem.get(str(PurePosixPath(name).with_suffix("")), [])
            partner = by_name.get(name) or (like[0] if len(like) == 1 else None)
            if partner is None:
                many = "several originals" if like else "no original"
                raise ValueError(f"{name!r} has {many} of its name in {its.where!r}")
            files.append((name, file, partner))

        def read(file: Path) -> Tensor:
            return as_images(read_picture(file)[None])

        return len(files), ((repr(name), read(a), read(b)) for name, a, b in files)
    if mine.count != its.count:
        raise ValueError(f"{mine.where} and {its.where} hold {mine.count} and {its.count} pictures, not pairs")
    both = zip(mine.batches(1), its.batches(1), strict=True)
    return mine.count, ((f"picture {a.first}", a.images, b.images) for a, b in both)


def _measure(name: str, device: Any) -> Measure:
    if name not in METRICS:
        from fewstep.samplers.core.registry import nearest

        raise ValueError(f"unknown metric {name!r} of pairs{nearest(name, METRICS)} Known are {', '.join(METRICS)}")
    if name == "lpips":
        return _lpips(device)
    if name == "psnr":
        from torchmetrics.functional.image import peak_signal_noise_ratio

        return lambda a, b: peak_signal_noise_ratio(a.double(), b.double(), data_range=1.0)
    from torchmetrics.functional.image import structural_similarity_index_measure

    def ssim(a: Tensor, b: Tensor) -> Tensor:
        found = structural_similarity_index_measure(a.double(), b.double(), data_range=1.0)
        return found if isinstance(found, Tensor) else found[0]

    return ssim


def require_lpips() -> None:
    """Raise a sentence where LPIPS cannot be had, within seconds.

    Raises:
        ImportError: torchvision is not installed.
        FileNotFoundError: the weights are not here and cannot be fetched.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise ImportError(
            "LPIPS needs the package torchvision of the same release as torch (its AlexNet), which is not installed; "
            "psnr and ssim need nothing more"
        )
    from .features import check_reachable

    name = "alexnet-owt-7be5be79.pth"
    if not (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file():
        check_reachable(f"https://download.pytorch.org/models/{name}", "LPIPS")


def _lpips(device: Any) -> Measure:
    require_lpips()
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    from fewstep.pipelines.loading import torch_device

    where = torch_device(device)
    measure = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(where)
    return lambda a, b: measure(a.to(where), b.to(where))
