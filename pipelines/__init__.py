"""Pipelines: load a text-to-image model with any sampler, and make pictures that repeat.

torch and diffusers are imported when a name is first asked for, so that a program may import this package for nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation import Generation, generate, usual_guidance
    from .loading import DEFAULT_SAMPLER, GRIDS, load, load_model, set_sampler, shipped_models

__all__ = [
    "DEFAULT_SAMPLER",
    "GRIDS",
    "Generation",
    "generate",
    "load",
    "load_model",
    "set_sampler",
    "shipped_models",
    "usual_guidance",
]

_GENERATION = ("Generation", "generate", "usual_guidance")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(".generation" if name in _GENERATION else ".loading", __name__)
    return getattr(home, name)
