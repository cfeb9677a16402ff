"""Caches: denoiser calls that are extrapolated instead of made.

The mathematics and the settings need torch alone; what puts them on a model imports diffusers when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .adams_bashforth import Branch, History, guarded_weights, lagrange_weights, planned_mask
from .config import ABCacheConfig, cache_text, parse_cache

if TYPE_CHECKING:
    from .pipeline import ab_cache, ab_cache_stats, apply_ab_cache, check_scheduler, remove_ab_cache, reset_ab_cache

__all__ = [
    "ABCacheConfig",
    "Branch",
    "History",
    "ab_cache",
    "ab_cache_stats",
    "apply_ab_cache",
    "cache_text",
    "check_scheduler",
    "guarded_weights",
    "lagrange_weights",
    "parse_cache",
    "planned_mask",
    "remove_ab_cache",
    "reset_ab_cache",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".pipeline", __name__), name)
