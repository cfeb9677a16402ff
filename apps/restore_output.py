"""What `fewstep restore` writes and says: pictures like those that came, maps of uncertainty, sheets, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import pictures
from .restore_files import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

    from .restore_run import Restored


def like_the_input(rgb: np.ndarray, restored: Restored) -> Image | np.ndarray:
    """(H, W, 3) in [0, 1] as the file of the input had it: 8 or 16 bits, grey or colours, with or without alpha.

    Returns:
        An 8-bit picture of PIL, or (H, W, C) uint16.
    """
    from PIL import Image

    measured = restored.measured
    values = np.clip(rgb[..., :1] if measured.grey else rgb, 0, 1)
    if measured.alpha is not None:
        values = np.concatenate([values, measured.alpha[..., None]], axis=2)
    if measured.picture.bits == 16:
        return np.rint(values * 65535).astype(np.uint16)
    whole = np.rint(values * 255).astype(np.uint8)
    return Image.fromarray(whole[..., 0] if whole.shape[2] == 1 else whole)


def write(targets: Targets, restored: Restored) -> None:
    """Write all files of a picture, or none of them.

    Raises:
        OSError: a file cannot be written; none of them is there then.
    """
    from PIL import Image

    about = {**restored.settings, "residual": restored.residual, **restored.scores}
    first = restored.settings["seed"]
    written: list[tuple[Any, Any, Mapping[str, Any]]] = []
    for i, (file, draw) in enumerate(zip(targets.samples, restored.draws, strict=False)):
        more = {"seed": first + i, "residual": restored.residuals[i], "key": None}
        written.append((file, like_the_input(draw, restored), {**about, **more}))
    if targets.uncertainty is not None and restored.deviation is not None:
        white = float(restored.deviation.max())
        grey = np.rint(255 * restored.deviation / (white or 1.0)).astype(np.uint8)
        shows = f"standard deviation of {len(restored.draws)} samples; white is {255 * white:.3g} of 255"
        written.append((targets.uncertainty, Image.fromarray(grey), {**about, "shows": shows, "key": None}))
    if targets.sheet is not None:
        written.append((targets.sheet, sheet(restored), {**about, "key": None}))
    if len(restored.draws) > 1:
        about |= {"mean_of": len(restored.draws)}
    written.append((targets.result, like_the_input(restored.rgb, restored), about))
    pictures.write_pictures(written)


def sheet(restored: Restored) -> Image:
    """Input | result | reference, all of the size of the result; transparency over white."""
    import dataclasses

    from PIL.Image import Resampling

    from fewstep.pipelines.editing.pictures import to_image

    measured, settings = restored.measured, restored.settings
    size = measured.size[::-1]

    def cell(rgb: np.ndarray) -> Image:
        alpha = measured.alpha if rgb.shape[:2] == measured.size else None
        opaque = rgb if alpha is None else dataclasses.replace(measured.picture, rgb=rgb, alpha=alpha).opaque
        return to_image(opaque).resize(size, Resampling.NEAREST)

    columns, images = ["input", "result"], [cell(measured.shown()), cell(restored.rgb)]
    if measured.clean is not None:
        columns.append("reference")
        images.append(cell(measured.clean))
    if restored.deviation is not None:
        columns.append("uncertainty")
        grey = restored.deviation / (restored.deviation.max() or 1.0)
        images.append(to_image(np.repeat(grey[..., None], 3, axis=2)))
    note = f"{settings['method']}, {settings['steps']} steps, {calls(restored)}"
    rows = [(measured.task.name, figures(restored), images)]
    return pictures.contact_sheet(rows, columns, measured.picture.name, note)


def calls(restored: Restored) -> str:
    """What it cost in network calls, in words."""
    count = restored.forward
    words = f"{count} network call{'s' if count != 1 else ''}"
    return f"{words} and {restored.backward} backward" if restored.backward else words


def figures(restored: Restored) -> str:
    """Fidelity where the clean picture is known, in words."""
    scores = restored.scores
    if not scores:
        return ""
    words = f"PSNR {_decibels(scores['psnr'])}"
    words += f", SSIM {scores['ssim']:.3f}" if scores.get("ssim") is not None else ""
    enlarged = restored.measured.task.factor > 1
    before = f" ({'bicubic' if enlarged else 'input'}: {_decibels(scores.get('psnr_before'))})"
    return words + (before if "psnr_before" in scores else "")


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f} dB"


def lines(targets: Targets, restored: Restored) -> list[str]:
    """What a run prints: what was done, how near it is where that is known, how well it explains the data, the cost."""
    measured, settings = restored.measured, restored.settings
    width, height = measured.picture.size
    to = f" -> {measured.size[1]}x{measured.size[0]}" if measured.size != (height, width) else ""
    several = f", mean of {len(restored.draws)} samples" if len(restored.draws) > 1 else ""
    said = [f"{measured.task.name}: {width}x{height}{to}, {settings['method']}, {settings['steps']} steps{several}"]
    if restored.scores:
        said.append(figures(restored))
    noise = settings["noise"]
    told = f" ({restored.residual / noise:.2f} of the noise)" if noise > 0 else ""
    spent = f"{calls(restored)}, {restored.seconds:.2f} seconds"
    said.append(f"Data residual: {restored.residual:.3f} of 255{told}; {spent}")
    said.append(f"Wrote {', '.join(str(file) for file in reversed(targets.files))}")
    return said


def summary(source: Any, targets: Targets, restored: Restored) -> dict[str, Any]:
    """The same for programs."""
    return {
        "picture": str(source),
        "files": [str(file) for file in reversed(targets.files)],
        "residual": restored.residual,
        "residuals": restored.residuals,
        "noise": restored.settings["noise"],
        **restored.scores,
        "forward": restored.forward,
        "backward": restored.backward,
        "seconds": round(restored.seconds, 3),
        "settings": restored.settings,
    }
