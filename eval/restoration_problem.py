"""Pictures, degraded and restored: what a comparison of restorations measures on.

A degraded picture is a function of the picture and of a seed: the noise, and which pixels are missing. Everything that
goes in and out is in [-1, 1]; figures are of pictures clamped to [0, 1].
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.restoration.tasks import degrade, task_defaults, task_operator
from fewstep.samplers.posterior import posterior_method
from fewstep.samplers.posterior.operators import REC601, Operator

from .restoration_classical import restore_classically
from .restoration_contenders import DEFAULT, NOISY, Restorer

#: What is measured of every picture.
FIGURES = ("psnr", "psnr_luma", "ssim", "residual")


@dataclass(frozen=True)
class Degradation:
    """What happens to pictures.

    Attributes:
        task: of `restoration_contenders.DEGRADATIONS`.
        noise: standard deviation in 255ths of the range of a pixel; 0 for none.
        missing: inpaint: share of pixels that are missing.
    """

    task: str
    noise: float = 0.0
    missing: float = 0.5

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in the scale of [-1, 1]."""
        return 2 * self.noise / 255

    def operator(self, size: tuple[int, int], seeds: Sequence[int]) -> Operator:
        """A, one for all pictures but for the mask, of which each seed has its own."""
        if self.task != "inpaint":
            return task_operator(self.task, size)
        rows = [torch.rand(1, *size, generator=torch.Generator().manual_seed(2 * seed + 1)) for seed in seeds]
        return task_operator(self.task, size, mask=(torch.stack(rows) >= self.missing).float())

    def measured(self, clean: Tensor, seeds: Sequence[int]) -> tuple[Operator, Tensor]:
        """A and y = A (2 x - 1) + noise of pictures (B, 3, H, W) in [0, 1]."""
        operator = self.operator((clean.shape[-2], clean.shape[-1]), seeds)
        generators = [torch.Generator().manual_seed(2 * seed) for seed in seeds]
        return operator, degrade(self.task, clean, operator, self.sigma, generators)


def degradation(task: str, noise: float, blur_noise: float) -> Degradation:
    """The degradation of a task with the noise of the benchmark.

    Args:
        task: its name.
        noise: of denoise, in 255ths.
        blur_noise: of the two blurs, in 255ths.
    """
    return Degradation(task, 0.0 if task not in NOISY else noise if task == "denoise" else blur_noise)


def drawn_pictures(count: int, side: int) -> list[Tensor]:
    """Pictures made from formulas, (3, side, side) in [0, 1]: soft waves of colour, edges of discs, fine stripes."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side, dtype=torch.float64),) * 2, indexing="ij")
    pictures = []
    for k in range(count):
        g = torch.Generator().manual_seed(k)
        waves, discs = torch.rand(3, 3, generator=g, dtype=torch.float64), torch.rand(4, 6, generator=g).double()
        picture = 0.5 + 0.3 * torch.sin(2 * math.pi * (waves[:, 0, None, None] * 2 * x + waves[:, 1, None, None] * y))
        for cx, cy, radius, *colour in discs.tolist():
            inside = (x - cx) ** 2 + (y - cy) ** 2 < (0.1 + 0.2 * radius) ** 2
            picture = torch.where(inside, torch.tensor(colour, dtype=torch.float64)[:, None, None], picture)
        picture = picture + 0.08 * torch.sin(2 * math.pi * (8 + 4 * k) * (x + y)) * (x > 0.6)
        pictures.append(picture.clamp(0, 1).float())
    return pictures


def read_pictures(folder: str | Path, count: int, side: int | None) -> tuple[list[str], list[Tensor]]:
    """Names and pictures (3, H, W) in [0, 1]: the last `count` of a folder by name, cut to a square at the centre.

    Args:
        folder: of picture files; ``drawn`` for pictures made from formulas.
        count: how many; fewer if there are no more.
        side: of the square; None for whole pictures, cut to multiples of 8.

    Raises:
        ValueError, FileNotFoundError: no folder, no pictures, pictures smaller than the square.
    """
    from .pictures import Folder, as_images, read_picture

    if folder == "drawn":
        return [f"formula {k}" for k in range(count)], drawn_pictures(count, side or 64)
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{str(folder)!r} is no folder; name one with pictures, such as the Kodak suite, or drawn"
        )
    found = Folder(Path(folder))
    names, files = found.names()[-count:], found.files[-count:]
    pictures = []
    for name, file in zip(names, files, strict=True):
        picture = as_images(read_picture(file)[None])[0]
        height, width = picture.shape[1:]
        if side is not None and min(height, width) < side:
            raise ValueError(f"{name!r} is {width}x{height} pixels, and a square of {side} is to be cut from it")
        tall, wide = (side, side) if side is not None else (height // 8 * 8, width // 8 * 8)
        if not tall or not wide:
            raise ValueError(f"{name!r} is {width}x{height} pixels, and both sides must be at least 8")
        top, left = (height - tall) // 2, (width - wide) // 2
        pictures.append(picture[:, top : top + tall, left : left + wide].contiguous())
    return names, pictures


def luma(pictures: Tensor) -> Tensor:
    """Rec. 601 luma of (B, 3, H, W), (B, 1, H, W)."""
    weights = torch.tensor(REC601, dtype=pictures.dtype, device=pictures.device)
    return (pictures * weights[:, None, None]).sum(1, keepdim=True)


def psnr(pictures: Tensor, clean: Tensor) -> Tensor:
    """PSNR in dB of every picture, peak 1, (B,)."""
    error = (pictures.double() - clean.double()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-20).log10()


def figures(pictures: Tensor, clean: Tensor, lpips: Any = None) -> dict[str, Tensor]:
    """What is measured of pictures (B, 3, H, W) in [0, 1], one number a picture."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = {"psnr": psnr(pictures, clean), "psnr_luma": psnr(luma(pictures), luma(clean))}
    if min(clean.shape[-2:]) >= 11:
        ssim: Any = structural_similarity_index_measure(
            pictures.double(), clean.double(), data_range=1.0, reduction="none"
        )
        found["ssim"] = ssim.reshape(-1)
    if lpips is not None:
        found["lpips"] = torch.stack([lpips(a[None], b[None]) for a, b in zip(pictures, clean, strict=True)]).double()
    return found


@dataclass(frozen=True)
class Restored:
    """What a restorer gave and cost.

    Attributes:
        pictures: (B, 3, H, W) in [0, 1].
        residual: root mean square of y - A x over what was measured, in the scale of [-1, 1], (B,).
        forward, backward: network evaluations for one picture, those of all its draws together.
        seconds: of all pictures.
    """

    pictures: Tensor
    residual: Tensor
    forward: int
    backward: int
    seconds: float


def method_of(restorer: Restorer, degraded: Degradation, pipe: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and fields of the posterior method that a restorer means for a degradation and a pipeline."""
    if restorer.method != DEFAULT:
        return restorer.method, restorer.fields
    name, fields, _ = task_defaults(degraded.task, degraded.sigma, pipe.space, local=pipe.frame.convolutional)
    return name, fields


def steps_within(pipe: Any, operator: Operator, size: tuple[int, int], budget: int, **options: Any) -> int:
    """The most noise levels whose network evaluations, forward and backward, fit into a budget; 0 if none do."""
    for steps in range(budget, 0, -1):
        plan = pipe.plan(operator, size, num_inference_steps=steps, **options)
        if (plan.forward + plan.backward) // plan.windows <= budget:
            return steps
    return 0


def restore(
    pipe: Any, restorer: Restorer, degraded: Degradation, clean: Tensor, calls: int, seeds: Sequence[int]
) -> Restored:
    """Degrade pictures and restore them within a number of network evaluations each.

    Args:
        pipe: restoration pipeline; unused by the classical ones.
        restorer: how.
        degraded: what happens to them.
        clean: (B, 3, H, W) in [0, 1].
        calls: evaluations for one picture.
        seeds: one a picture; of missing pixels, noise and draws.

    Raises:
        ValueError: the method cannot do with so few evaluations, or with this operator.
    """
    operator, y = degraded.measured(clean, seeds)
    size = (clean.shape[-2], clean.shape[-1])
    if restorer.origin == "classical":
        begin = time.perf_counter()
        pictures = restore_classically(
            restorer.method, degraded.task, (y + 1) / 2, operator, degraded.noise / 255, size
        ).clamp(0, 1)
        return Restored(pictures, misfit(operator, y, pictures), 0, 0, time.perf_counter() - begin)
    if restorer.origin == "deepinv":
        from .restoration_deepinv import restore_with_deepinv

        single = [degraded.operator(size, [seed]) for seed in seeds]
        return restore_with_deepinv(pipe, restorer.method, single, y, degraded.sigma, calls, seeds)
    name, fields = method_of(restorer, degraded, pipe)
    options = {"method": posterior_method(name, **fields), "noise_sigma": degraded.sigma}
    steps = steps_within(pipe, operator, size, calls // restorer.draws, **options)
    if not steps:
        raise ValueError(f"{restorer.name} needs more than {calls} network evaluations")
    generators = [
        torch.Generator().manual_seed(seed * 64 + draw + 2**40) for seed in seeds for draw in range(restorer.draws)
    ]
    each = operator
    if restorer.draws > 1:
        each = degraded.operator(size, [seed for seed in seeds for _ in range(restorer.draws)])
    out = pipe(
        y.to(pipe.device), each, num_inference_steps=steps, num_samples=restorer.draws, generator=generators,
        output_type="raw", **options,
    )  # fmt: skip
    drawn = (out.images.float().cpu() + 1) / 2
    pictures = drawn.unflatten(0, (len(clean), restorer.draws)).mean(1).clamp(0, 1)
    windows = out.settings["windows"]
    forward, backward = (n // windows * restorer.draws for n in (out.forward, out.backward))
    return Restored(pictures, misfit(operator, y, pictures), forward, backward, out.seconds)


def misfit(operator: Operator, y: Tensor, pictures: Tensor) -> Tensor:
    """Root mean square of y - A x of pictures in [0, 1] over what was measured, in the scale of [-1, 1], (B,)."""
    off = y - operator.A(2 * pictures - 1)
    return off.double().flatten(1).square().sum(1).div(operator.count(y)).sqrt()
