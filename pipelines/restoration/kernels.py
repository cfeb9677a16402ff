"""Blur kernels in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..editing.pictures import open_image, read_picture


def read_kernel(path: str | Path) -> torch.Tensor:
    """A blur kernel from a picture (its brightness) or a .npy array, (h, w) float64 with odd sides and sum 1.

    An even side gets a line of zeros at its end, so that the pixel at half of it stays the centre.

    Raises:
        FileNotFoundError, ValueError: no file, no kernel in it, or one that is black.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".npy":
        if not file.is_file():
            raise FileNotFoundError(f"there is no kernel {str(path)!r}")
        try:
            values = np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
        except (ValueError, OSError, EOFError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is not an array of numbers that can be read: {error}") from error
    else:
        values = read_picture(open_image(file, "kernel")).rgb.mean(2, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all() or not values.sum() > 0:
        raise ValueError(f"{str(path)!r} holds no blur kernel: two sides, finite numbers and a sum above 0 are needed")
    kernel = torch.from_numpy(np.pad(values, [(0, 1 - side % 2) for side in values.shape]))
    return kernel / kernel.sum()
