"""Masks: where a picture may change. White is edited, black is kept, grey is between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool2d

from .frames import Frame
from .pictures import Picture, open_image, read_picture

if TYPE_CHECKING:
    from .models import EditModel


def read_mask(source: Any, size: tuple[int, int], white: str = "may change") -> np.ndarray:
    """A mask from a file, from PIL or from an array.

    Args:
        source: a file's path, a PIL image or an array (H, W): booleans, 0 and 1, 8 or 16 bits, or floats in [0, 1].
            Colours count by their brightness, transparent pixels as black.
        size: (width, height) of the picture that it belongs to.
        white: what white says, for the sentence about a black mask.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        FileNotFoundError, ValueError, TypeError: no mask, a mask of another size, or one that is black everywhere.
    """
    if isinstance(source, str | Path):
        name, source = str(source), open_image(source, "mask")
    else:
        name = "the mask"
    if isinstance(source, np.ndarray) and source.dtype.kind in "iu" and source.size and source.max() <= 1:
        source = source.astype(bool)
    picture = read_picture(source)
    mask = picture.rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    if picture.alpha is not None:
        mask = mask * picture.alpha
    if mask.max() == 0:
        raise ValueError(f"{name} is black everywhere, so that there is nothing to do; white is what {white}")
    if mask.max() <= 1.5 / 255:
        mask = (mask > 0).astype(np.float32)  # a label map of zeros and ones
    if picture.size != size:
        raise ValueError(
            f"{name} has {picture.size[0]}x{picture.size[1]} pixels and the picture {size[0]}x{size[1]}; "
            "a mask must have the size of its picture"
        )
    return np.clip(mask, 0, 1).astype(np.float32)


def latent_mask(mask: np.ndarray, frame: Frame, cells: tuple[int, int]) -> torch.Tensor:
    """A mask in the grid of the latents: a cell is as white as its whitest pixel, so nothing white is lost.

    Args:
        mask: (H, W) of the original size.
        frame: how the picture was fitted; what it padded is kept.
        cells: (width, height) of the latents.

    Returns:
        (1, 1, h, w) float32.
    """
    fitted = frame.inside(mask[..., None], pad="constant")
    planes = torch.from_numpy(np.ascontiguousarray(fitted[..., 0]))[None, None]
    return adaptive_max_pool2d(planes, (cells[1], cells[0])).clamp(0, 1)


def read_masks(mask: Any, pictures: Sequence[Picture]) -> list[np.ndarray] | None:
    """A mask for every picture, from one or as many; None stays None."""
    if mask is None:
        return None
    given = list(mask) if isinstance(mask, list | tuple) else [mask] * len(pictures)
    if len(given) != len(pictures):
        raise ValueError(f"{len(given)} masks do not fit {len(pictures)} pictures")
    return [read_mask(one, picture.size) for one, picture in zip(given, pictures, strict=True)]


def packed_masks(
    model: EditModel, masks: Sequence[np.ndarray], frames: Sequence[Frame], x: torch.Tensor
) -> torch.Tensor:
    """Masks in the layout of the latents `x`."""
    cells = model.cells(frames[0].padded)
    planes = torch.cat([latent_mask(mask, frame, cells) for mask, frame in zip(masks, frames, strict=True)])
    channels = int(model.pipe.vae.config.latent_channels)
    return model.pack(planes.repeat(1, channels, 1, 1)).to(x)
