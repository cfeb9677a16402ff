"""Checks of what invert and edit are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def checked_whole(name: str, value: Any, low: int) -> int:
    """A whole number of at least `low`.

    Raises:
        ValueError: anything else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or int(value) != value:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value!r}")
    return int(value)


def listed(values: Any, kind: str) -> list[Any]:
    """One or several pictures or prompts, as a list."""
    found = list(values) if isinstance(values, list | tuple) else [values]
    if not found:
        raise ValueError(f"at least one {kind} is needed")
    return found


def check_prompts(prompts: Sequence[Any], count: int, what: str) -> list[str]:
    """As many texts as pictures; one text is for all of them.

    Raises:
        ValueError: another number, or no texts.
    """
    if not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"{what} must be a text, or a list of texts, one for every picture")
    if len(prompts) == 1:
        return list(prompts) * count
    if len(prompts) != count:
        raise ValueError(f"{len(prompts)} texts as {what} do not fit {count} pictures")
    return list(prompts)


def check_guidance(guidance: float) -> float:
    """A finite guidance of at least 0."""
    number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
    if not number or not math.isfinite(guidance) or guidance < 0:
        raise ValueError(f"guidance must be a finite number of at least 0, got {guidance!r}")
    return float(guidance)
