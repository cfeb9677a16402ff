"""What is shown of a restoration: before and after, doubt, what of the data is not explained, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..restore_run import Restored

#: A residual is shown at most so many times as large as it is.
GAIN = 8


def picture_of(rgb: np.ndarray) -> Image:
    from fewstep.pipelines.editing.pictures import to_image

    return to_image(rgb)


def before(made: Restored) -> Image:
    """The measurement, as large as the result."""
    from PIL import Image as Images

    size = made.measured.size[::-1]
    return picture_of(made.measured.shown()).resize(size, Images.Resampling.NEAREST)


def grey(values: np.ndarray) -> Image:
    """(H, W) as grey, the largest white."""
    scaled = values / (float(values.max()) or 1.0)
    return picture_of(np.repeat(scaled[..., None], 3, axis=2))


def residual_gain(noise: float) -> float:
    """How many times as large a residual is shown: as much as leaves three deviations of the noise in range.

    Args:
        noise: its standard deviation, of 255.
    """
    return float(f"{min(GAIN, 127.5 / (3 * noise)) if noise > 0 else GAIN:.1g}")


def residual_map(made: Restored) -> Image | None:
    import torch

    found = made.measured
    channels = found.channels
    x = torch.from_numpy(np.ascontiguousarray(made.rgb)).permute(2, 0, 1)[None, :channels].to(found.y) * 2 - 1
    off = (found.y - found.operator.A(x)).float()
    if off.ndim != 4 or off.shape[1] not in (1, 3):
        return None
    shown = (
        (off[0] / 2 * residual_gain(made.settings["noise"]) + 0.5)
        .clamp(0, 1)
        .expand(3, -1, -1)
        .permute(1, 2, 0)
        .cpu()
        .numpy()
    )
    return picture_of(shown)


def figures(made: Restored) -> list[tuple[str, str]]:
    about, noise = made.settings, made.settings["noise"]
    told = f" ({made.residual / noise:.2f} of the noise)" if noise > 0 else ""
    found = [
        ("method", f"{about['method']}, {about['steps']} steps"),
        ("data residual", f"{made.residual:.3g} of 255{told}"),
    ]
    for name, unit in (("psnr", " dB"), ("ssim", ""), ("psnr_before", " dB")):
        value = made.scores.get(name)
        if value is not None:
            label = "PSNR before" if name == "psnr_before" else name.upper()
            found.append((label, f"{value:.2f}{unit}" if unit else f"{value:.3f}"))
    if made.deviation is not None:
        found.append(("deviation", f"{255 * float(np.sqrt((made.deviation**2).mean())):.3g} of 255 between samples"))
    return found
