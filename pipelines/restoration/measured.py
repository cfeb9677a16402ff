"""From a picture file to a measurement, and from what the model drew back to a picture like the one that came."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewstep.samplers.posterior.operators import REC601, LinearOperator, Operator, symmetric_measurement
from fewstep.samplers.posterior.operators.separable import LARGEST_SIDE

from ..editing.pictures import Picture
from .tasks import Task, degrade, find_task, task_operator

#: Most pixels of a restored picture: some twenty float32 copies of it are held at once, 16 GB of memory.
MOST_PIXELS = 2**26
#: Tasks whose operators are matrices of the sides of the picture.
_SEPARABLE = ("sr2", "sr4", "sr8", "gaussian-deblur")


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement, and what is needed to make a picture of what is drawn for it.

    Attributes:
        task: what is undone.
        picture: as it came.
        y: (1, ...), in the scale of [-1, 1].
        operator: A.
        noise_sigma: what the method is told, in the scale of [-1, 1].
        size: (H, W) of the result.
        clean: (H, W, 3) in [0, 1], the picture before it was degraded; None for a real measurement.
        alpha: (H, W) in [0, 1] of the result; None for an opaque one.
        channels: that the model draws, 3 or 1.
    """

    task: Task
    picture: Picture
    y: torch.Tensor
    operator: Operator
    noise_sigma: float
    size: tuple[int, int]
    clean: np.ndarray | None = None
    alpha: np.ndarray | None = None
    channels: int = 3

    @property
    def grey(self) -> bool:
        """Whether the result is grey: the model is; or the picture, and its colours are not what is asked for."""
        return self.channels == 1 or (self.picture.grey and self.task.name not in ("colorize", "custom"))

    def shown(self) -> np.ndarray:
        """The measurement as a picture, (h, w, 3) in [0, 1]; the picture itself where it is none."""
        y = self.y[0]
        if self.clean is None or y.ndim != 3 or y.shape[0] not in (1, 3):
            return self.picture.rgb
        return ((y + 1) / 2).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).float().cpu().numpy()

    def finished(self, drawn: torch.Tensor) -> np.ndarray:
        """(H, W, 3) in [0, 1] of what the model drew, (C, H, W) in [0, 1]: without colours if the picture has none."""
        rgb = drawn.float().cpu().permute(1, 2, 0).numpy()
        return np.repeat(rgb.mean(2, keepdims=True), 3, axis=2) if self.grey else rgb

    def residual(self, rgb: np.ndarray) -> float:
        """Root mean square of y - A x over what was measured, in the scale of 0 to 255."""
        x = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None, : self.channels].to(self.y) * 2 - 1
        off = (self.y - self.operator.A(x)).float().square().sum() / self.operator.count(self.y).float().mean()
        return float(off.sqrt()) * 127.5


def rounding(bits: int) -> float:
    """Standard deviation of the error of rounding to so many bits, in the scale of 0 to 255: 0.29 for 8 bits."""
    return 255 / (2**bits - 1) / math.sqrt(12)


def measured(
    task: str | Task,
    picture: Picture,
    *,
    sigma: float = 0.0,
    simulate: bool = False,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    **options: Any,
) -> Measured:
    """The measurement that a picture is, or, to try a method out, one made of a clean picture.

    The grey channel of a grey picture is measured three times with one noise. That says as much as three measurements
    with independent noise of sqrt(3) times the size, which is what the model is told.

    Args:
        task: what was done to the picture.
        picture: the measurement; with `simulate` a clean picture that is degraded first.
        sigma: noise in the scale of 0 to 255; of a measurement from a file at least the error of its rounding.
        simulate: degrade the picture.
        seed: of the noise that `simulate` adds.
        size: (H, W) of the result, custom tasks only; by default that of the measurement.
        channels: that the model draws, 3, or 1 for grey pictures alone.
        options: of `task_operator`.

    Raises:
        ValueError: noise out of range, a result that is too large, options that do not fit the picture.
    """
    task = find_task(task)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite number of at least 0, in the scale of 0 to 255; got {sigma!r}")
    if channels not in (1, 3) or (channels == 1 and task.name == "colorize"):
        raise ValueError(f"{task.name} is not for a model that draws pictures of {channels} channels")
    width, height = picture.size
    if simulate or task.name != "custom" or size is None:
        size = (height, width) if simulate else task.clean_size(height, width)
    check_size(task, size)
    operator = task_operator(task, size, **options)
    rgb, clean = bled(picture), picture.rgb
    if channels == 1:
        rgb, clean = (np.repeat((part @ REC601)[..., None], 3, 2).astype(np.float32) for part in (rgb, clean))
    values = torch.from_numpy(np.ascontiguousarray(rgb[..., :channels])).permute(2, 0, 1)[None]
    alpha = None if picture.alpha is None else resized(picture.alpha, size)
    found = Measured(task, picture, values, operator, 0.0, size, clean if simulate else None, alpha, channels)
    if simulate:
        generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + 1) % 2**63)  # not the seed of the draws
        y = degrade(task, values[:, :1] if found.grey else values, operator, 2 * sigma / 255, generator)
    else:
        y = _as_measurement(task, operator, values, size)
    told = sigma
    if found.grey and task.name != "custom":
        y = y[:, :1].expand(-1, channels, -1, -1).contiguous()
        told *= math.sqrt(channels)
    return dataclasses.replace(
        found, y=y, noise_sigma=2 * (told if simulate else max(told, rounding(picture.bits))) / 255
    )


def _as_measurement(task: Task, operator: Operator, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A picture (1, C, h, w) in [0, 1] as y in the scale of [-1, 1]."""
    if task.name in ("inpaint", "colorize"):
        return operator.A(2 * values - 1)
    if task.name == "custom":
        like = torch.zeros(1, values.shape[1], *size)
        made = tuple(operator.A(like).shape)
        if made[1:2] == (1,):
            values = values.mean(1, keepdim=True)
        if made != tuple(values.shape):
            raise ValueError(
                f"{operator.name} makes {made[1:]} of pictures of {size[1]}x{size[0]}, and the file holds "
                f"{tuple(values.shape[1:])}; say how large the result is, if it has another size than the file"
            )
        if isinstance(operator, LinearOperator):
            return symmetric_measurement(operator, values, like)
    return 2 * values - 1


def check_size(task: Task, size: tuple[int, int]) -> None:
    """Refuse a result that this machine could not hold, before anything of its size is made.

    Raises:
        ValueError: which says what to do.
    """
    height, width = size
    what = f"the result would have {width}x{height} pixels"
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{what}, and at most {MOST_PIXELS:,} pixels are restored at once; cut the picture into parts, or make it "
            "smaller first"
        )
    if task.name in _SEPARABLE and max(size) > LARGEST_SIDE:
        raise ValueError(
            f"{what}, and {task.name} takes sides of at most {LARGEST_SIDE}; cut the picture into parts, or make it "
            "smaller first"
        )


def bled(picture: Picture) -> np.ndarray:
    """(H, W, 3): the colours, with those under full transparency taken from around, so that they spoil no border."""
    if picture.alpha is None or picture.alpha.min() > 0 or picture.alpha.max() == 0:
        return picture.rgb
    hidden = picture.alpha[..., None] == 0
    weighed = np.concatenate([picture.rgb, np.ones_like(hidden, dtype=np.float32)], 2) * ~hidden
    filled = weighed
    height, width = hidden.shape[:2]
    while (filled[..., 3] == 0).any():  # each time from a version half as large, where nothing was known yet
        height, width = -(-height // 2), -(-width // 2)
        coarse = resized(resized(weighed, (height, width), True), hidden.shape[:2], True)
        filled = np.where(filled[..., 3:] > 0, filled, np.where(coarse[..., 3:] > 1e-6, coarse, 0))
        if height == width == 1:
            break
    return np.where(hidden, filled[..., :3] / np.maximum(filled[..., 3:], 1e-6), picture.rgb).astype(np.float32)


def resized(planes: np.ndarray, size: tuple[int, int], bilinear: bool = False) -> np.ndarray:
    """(h, w) or (h, w, C) in [0, 1] at another size (H, W), bicubic and antialiased unless said otherwise."""
    from PIL import Image

    if planes.shape[:2] == tuple(size):
        return planes
    way = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    flat = planes[..., None] if planes.ndim == 2 else planes
    parts = [Image.fromarray(np.ascontiguousarray(flat[..., c], dtype=np.float32)) for c in range(flat.shape[2])]
    made = np.stack([np.asarray(part.resize(size[::-1], way)) for part in parts], 2).clip(0, 1)
    return made[..., 0] if planes.ndim == 2 else made
