"""Restoration: measurements and what made them in, pictures out, with pixel and latent diffusion models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import RestorationPipeline
    from .cat import CATOutput, edit_corrupted
    from .job import RestorationPlan
    from .latent import StableDiffusionRestorationPipeline
    from .loading import DEFAULT_PRIOR, load_restoration, restoration_of
    from .omnidirectional import OmnidirectionalWrapper
    from .output import RestorationOutput
    from .pixel import PixelRestorationPipeline

__all__ = [
    "DEFAULT_PRIOR",
    "CATOutput",
    "OmnidirectionalWrapper",
    "PixelRestorationPipeline",
    "RestorationOutput",
    "RestorationPipeline",
    "RestorationPlan",
    "StableDiffusionRestorationPipeline",
    "edit_corrupted",
    "load_restoration",
    "restoration_of",
]

_HOMES = {
    "RestorationPipeline": ".base",
    **dict.fromkeys(("CATOutput", "edit_corrupted"), ".cat"),
    "OmnidirectionalWrapper": ".omnidirectional",
    "RestorationPlan": ".job",
    **dict.fromkeys(("DEFAULT_PRIOR", "load_restoration", "restoration_of"), ".loading"),
    "PixelRestorationPipeline": ".pixel",
    "RestorationOutput": ".output",
    "StableDiffusionRestorationPipeline": ".latent",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
