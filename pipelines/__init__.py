"""Pipelines: load a text-to-image model with any sampler, and make pictures that repeat.

torch and diffusers are imported when a name is first asked for, so that a program may import this package for nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation import Generation, generate, usual_guidance
    from .guidance import GUIDANCE_MODES, guidance_settings, set_guidance
    from .loading import DEFAULT_SAMPLER, GRIDS, load, load_model, set_sampler, shipped_models
    from .tuning import Recipe, tune_pipeline

__all__ = [
    "DEFAULT_SAMPLER",
    "GRIDS",
    "GUIDANCE_MODES",
    "Generation",
    "Recipe",
    "generate",
    "guidance_settings",
    "load",
    "load_model",
    "set_guidance",
    "set_sampler",
    "shipped_models",
    "tune_pipeline",
    "usual_guidance",
]

_HOMES = {
    **dict.fromkeys(("Generation", "generate", "usual_guidance"), ".generation"),
    **dict.fromkeys(("GUIDANCE_MODES", "guidance_settings", "set_guidance"), ".guidance"),
    **dict.fromkeys(("Recipe", "tune_pipeline"), ".tuning"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, ".loading"), __name__), name)
