"""Pipelines: load a model of pictures or of text with any sampler, and make pictures and texts that repeat.

torch and diffusers are imported when a name is first asked for, so that a program may import this package for nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .editing import (
        Edited,
        FeatureMemory,
        FlowEdit,
        Injection,
        Inversion,
        edit,
        flow_edit,
        invert,
        load_inversion,
        reconstruct,
    )
    from .generation import Generation, generate, usual_guidance
    from .guidance import GUIDANCE_MODES, guidance_settings, set_guidance
    from .loading import DEFAULT_SAMPLER, load, load_model, shipped_models, shipped_texts
    from .restoration import (
        OmnidirectionalWrapper,
        PixelRestorationPipeline,
        RestorationOutput,
        RestorationPlan,
        StableDiffusionRestorationPipeline,
        edit_corrupted,
        load_restoration,
        restoration_of,
    )
    from .swapping import GRIDS, set_sampler
    from .text_loading import load_text
    from .text_output import MaskedTextOutput, TextProgress
    from .text_pipeline import MaskedTextPipeline
    from .text_solvers import set_solver, token_scheduler
    from .tuning import Recipe, tune_pipeline

__all__ = [
    "DEFAULT_SAMPLER",
    "GRIDS",
    "GUIDANCE_MODES",
    "Edited",
    "FeatureMemory",
    "FlowEdit",
    "Generation",
    "Injection",
    "Inversion",
    "MaskedTextOutput",
    "MaskedTextPipeline",
    "OmnidirectionalWrapper",
    "PixelRestorationPipeline",
    "Recipe",
    "RestorationOutput",
    "RestorationPlan",
    "StableDiffusionRestorationPipeline",
    "TextProgress",
    "edit",
    "edit_corrupted",
    "flow_edit",
    "generate",
    "guidance_settings",
    "invert",
    "load",
    "load_inversion",
    "load_model",
    "load_restoration",
    "load_text",
    "reconstruct",
    "restoration_of",
    "set_guidance",
    "set_sampler",
    "set_solver",
    "shipped_models",
    "shipped_texts",
    "token_scheduler",
    "tune_pipeline",
    "usual_guidance",
]

_HOMES = {
    **dict.fromkeys(
        (
            "Edited",
            "FeatureMemory",
            "FlowEdit",
            "Injection",
            "Inversion",
            "edit",
            "flow_edit",
            "invert",
            "load_inversion",
            "reconstruct",
        ),
        ".editing",
    ),
    **dict.fromkeys(
        (
            "OmnidirectionalWrapper",
            "PixelRestorationPipeline",
            "RestorationOutput",
            "RestorationPlan",
            "StableDiffusionRestorationPipeline",
            "edit_corrupted",
            "load_restoration",
            "restoration_of",
        ),
        ".restoration",
    ),
    **dict.fromkeys(("Generation", "generate", "usual_guidance"), ".generation"),
    **dict.fromkeys(("GUIDANCE_MODES", "guidance_settings", "set_guidance"), ".guidance"),
    **dict.fromkeys(("GRIDS", "set_sampler"), ".swapping"),
    **dict.fromkeys(("Recipe", "tune_pipeline"), ".tuning"),
    **dict.fromkeys(("MaskedTextOutput", "TextProgress"), ".text_output"),
    **dict.fromkeys(("set_solver", "token_scheduler"), ".text_solvers"),
    "MaskedTextPipeline": ".text_pipeline",
    "load_text": ".text_loading",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, ".loading"), __name__), name)
