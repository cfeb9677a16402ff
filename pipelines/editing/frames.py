"""How a picture fits into a model: scaled with its aspect kept, then padded; and the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures import BACKDROP, Picture, to_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Frame:
    """How a picture fits into a model: scaled with its aspect kept, then padded; both are undone afterwards.

    Attributes:
        original, scaled, padded: (width, height) in pixels of the picture, of the scaled one, and of the model's input.
    """

    original: tuple[int, int]
    scaled: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def fit(
        cls,
        original: tuple[int, int],
        stride: int,
        area: float,
        size: str | int | Sequence[int] | None = None,
        smallest: float = 1.0,
    ) -> Frame:
        """The frame of a picture.

        Args:
            original: (width, height) of the picture.
            stride: what the model's width and height must be multiples of.
            area: pixels that the model was made for.
            size: None keeps the picture's size where the model can take it, from `smallest` of `area` to `area`, and
                else scales to `area`; ``"own"`` keeps it always; N, "WxH" or (width, height) is a box to fill.
            smallest: part of `area` from which a picture is taken as it is.

        Raises:
            ValueError: a size that is none, or no multiple of `stride`.
        """
        width, height = original
        if size is None or size == "own":
            pixels = width * height
            if size == "own" or smallest * area <= pixels <= area:
                return cls(original, original, (_up(width, stride), _up(height, stride)))
            near = _scaled(original, math.sqrt(area / pixels))
            box = (_near(near[0], stride), _near(near[1], stride))
        else:
            box = _box(size, stride)
        scaled = _scaled(original, min(box[0] / width, box[1] / height))
        return cls(original, (min(scaled[0], box[0]), min(scaled[1], box[1])), box)

    @property
    def _offset(self) -> tuple[int, int]:
        return (self.padded[0] - self.scaled[0]) // 2, (self.padded[1] - self.scaled[1]) // 2

    def inside(self, values: np.ndarray, pad: str = "edge") -> np.ndarray:
        """(H, W, C) of the original size -> of the model's size. `pad` as in `numpy.pad`: "edge", or "constant" (0)."""
        left, top = self._offset
        sides = [(top, self.padded[1] - self.scaled[1] - top), (left, self.padded[0] - self.scaled[0] - left), (0, 0)]
        mode: Any = pad
        return np.pad(_resized(values, self.scaled), sides, mode=mode)

    def outside(self, values: np.ndarray) -> np.ndarray:
        """(H, W, C) of the model's size -> of the original size."""
        left, top = self._offset
        width, height = self.scaled
        return _resized(values[top : top + height, left : left + width], self.original)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _up(side: int, stride: int) -> int:
    return -(-side // stride) * stride


def _near(side: int, stride: int) -> int:
    return max(stride, round(side / stride) * stride)


def _box(size: str | int | Sequence[int], stride: int) -> tuple[int, int]:
    from ..generation import parse_size

    box = parse_size(size)
    assert box is not None
    if box[0] % stride or box[1] % stride:
        raise ValueError(
            f"width and height must be multiples of {stride} for this model, got {box[0]}x{box[1]}; "
            f"the nearest is {_near(box[0], stride)}x{_near(box[1], stride)}"
        )
    return box


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, C) at another (width, height), antialiased; unchanged where the size is the same."""
    if (values.shape[1], values.shape[0]) == size:
        return values
    from PIL import Image

    planes = [Image.fromarray(np.ascontiguousarray(values[..., c], dtype=np.float32)) for c in range(values.shape[2])]
    scaled = [np.asarray(plane.resize(size, Image.Resampling.LANCZOS)) for plane in planes]
    return np.clip(np.stack(scaled, axis=2), 0, 1)


def restored(picture: Picture, frame: Frame, edited: np.ndarray, mask: np.ndarray | None = None) -> Image:
    """An edited picture in the size and with the alpha of the one that it was made from.

    Args:
        picture: the one before.
        frame: how it was fitted.
        edited: (H, W, 3) of the model's size in [0, 1].
        mask: (H, W) of the original size in [0, 1]; where it is 0 the pixels are those of `picture`, exactly.
    """
    rgb = frame.outside(edited)
    if picture.alpha is not None:  # take the white away again that shone through
        alpha = picture.alpha[..., None]
        rgb = np.where(alpha > 0, (rgb - BACKDROP * (1 - alpha)) / np.maximum(alpha, 1 / 255), picture.rgb)
    rgb = np.clip(rgb, 0, 1)
    if mask is not None:
        part = mask[..., None]
        rgb = np.where(part > 0, part * rgb + (1 - part) * picture.rgb, picture.rgb)
    return to_image(rgb, picture.alpha)
