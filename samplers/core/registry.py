"""The registry: every method by name, and the names that other programs use for the same thing."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .method import Method

M = TypeVar("M", bound=type[Method])

_METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Alias:
    """Another name for a method with some of its fields set."""

    method: str
    fields: dict[str, Any] = field(default_factory=dict)


_ALIASES: dict[str, Alias] = {}

#: Words after a sampler's name that choose its grid, as in A1111 ("DPM++ 2M Karras") and ComfyUI ("dpmpp_2m karras").
_GRID_WORDS = {
    "karras": "karras",
    "exponential": "exponential",
    "beta": "beta",
    "logsnr": "logsnr",
    "linspace": "linspace",
    "normal": "linspace",
    "leading": "leading",
    "ddim uniform": "leading",
    "trailing": "trailing",
    "sgm uniform": "trailing",
    "simple": "trailing",
}


def register(method: M) -> M:
    """Class decorator: make a method known by its `name`."""
    if method.name in _METHODS:
        raise ValueError(f"a method named {method.name!r} is registered already")
    _METHODS[method.name] = method
    return method


def alias(name: str, method: str, **fields: Any) -> None:
    """Make `name` mean `method` with these fields."""
    key = _normal(name)
    if key in _ALIASES or key in _METHODS:
        raise ValueError(f"the name {name!r} is taken already")
    _ALIASES[key] = Alias(method, fields)


def methods() -> dict[str, type[Method]]:
    """Every registered method class, by name."""
    return dict(_METHODS)


def aliases() -> dict[str, Alias]:
    """Every alias, by name."""
    return dict(_ALIASES)


def _normal(name: str) -> str:
    """'DPM++ 2M Karras', 'dpmpp_2m_karras' and 'dpm++2m karras' read alike: lower case, + spelt out, single spaces."""
    text = name.strip().lower().replace("dpmpp", "dpm++").replace("_", " ").replace("-", " ")
    text = " ".join(text.replace("dpm++", "dpm++ ").split())
    dashed = text.replace(" ", "-")
    return dashed if dashed in _METHODS else text


def nearest(name: str, known: Iterable[str]) -> str:
    """Rest of a sentence about an unknown name: ', did you mean X?' for the nearest known one, or a full stop."""
    found = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else "."


@dataclass(frozen=True)
class Resolved:
    """A method ready to use, and the grid that its name asked for (None: the model's own)."""

    method: Method
    spacing: str | None


def _find(name: str) -> tuple[Alias, str | None]:
    key = _normal(name)
    if key in _METHODS:
        return Alias(key), None
    if key in _ALIASES:
        return _ALIASES[key], None
    for words, spacing in _GRID_WORDS.items():
        if key.endswith(" " + words):
            return _find(key.removesuffix(words).strip())[0], spacing
    known = [*_METHODS, *_ALIASES]
    raise ValueError(
        f"unknown sampler {name!r}{nearest(key, known)} Known are {', '.join(sorted(_METHODS))}; "
        "other names: " + ", ".join(sorted(_ALIASES))
    )


def resolve(name: str, **fields: Any) -> Resolved:
    """A method by its own name or by another program's, with some fields set by hand.

    A grid may follow the name: ``"dpm++ 2m karras"``, ``"ghvb trailing"``.

    Raises:
        ValueError: unknown name (the nearest is suggested), unknown field, field out of range.
    """
    found, spacing = _find(name)
    cls = _METHODS[found.method]
    known = [item.name for item in dataclasses.fields(cls)]
    for key in fields:
        if key not in known:
            raise ValueError(
                f"{found.method} has no field {key!r}{nearest(key, known)} Its fields are {', '.join(known) or 'none'}"
            )
    return Resolved(cls(**{**found.fields, **fields}), spacing)
