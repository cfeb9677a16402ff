"""What a restoration returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput

from fewstep.samplers.core.registry import nearest

#: How pictures are handed out.
OUTPUT_TYPES = ("pil", "pt", "np", "raw")


@dataclass
class RestorationOutput(BaseOutput):
    """Restored pictures, how well they explain the measurement, and what they cost.

    Attributes:
        images: pictures of PIL; or (B, C, H, W) torch or (B, H, W, C) numpy in [0, 1]; or, for ``"raw"``, (B, C, H, W)
            in the scale of [-1, 1] without any clamping.
        residual: root mean square of y - A x over the measured numbers, (B,), in the scale of [-1, 1], of the pictures
            before they are clamped to their range; about noise_sigma for a true picture.
        trace: the same for the network's clean estimate at every downward move, before the data corrected it, (M, B).
        forward: network evaluations a sample, counted at the network: a window is one, guidance makes two of each.
        backward: vector-Jacobian products through the network a sample, counted alike.
        seconds: wall-clock time of the run.
        settings: everything that says how the run was made; numbers, strings and lists only.
    """

    images: Any
    residual: torch.Tensor
    trace: torch.Tensor
    forward: int
    backward: int
    seconds: float
    settings: dict[str, Any]


def check_output_type(output_type: str, channels: int) -> None:
    """Refuse an unknown form of output, and PIL for pictures that it has no mode for."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(
            f"unknown output_type {output_type!r}{nearest(str(output_type), OUTPUT_TYPES)} Known are "
            f"{', '.join(OUTPUT_TYPES)}"
        )
    if output_type == "pil" and channels not in (1, 3, 4):
        raise ValueError(
            f"PIL has no pictures of {channels} channels; ask for output_type 'pt', 'np' or 'raw' of this model"
        )


def handed_out(pictures: torch.Tensor, output_type: str) -> Any:
    """Pictures (B, C, H, W) in the scale of [-1, 1] in the form that was asked for."""
    if output_type == "raw":
        return pictures
    unit = (pictures / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return unit
    array: np.ndarray = unit.permute(0, 2, 3, 1).float().cpu().numpy()
    if output_type == "np":
        return array
    from PIL import Image

    whole = (array * 255).round().astype("uint8")
    return [Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture) for picture in whole]
