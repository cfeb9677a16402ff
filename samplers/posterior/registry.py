"""The registry of posterior methods: every one by name, with its fields, for the command line and the web page."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from ..core.registry import Alias, nearest
from .method import PosteriorMethod

M = TypeVar("M", bound=type[PosteriorMethod])

_METHODS: dict[str, type[PosteriorMethod]] = {}
_ALIASES: dict[str, Alias] = {}


def _normal(name: str) -> str:
    return "-".join(name.strip().lower().replace("Π", "pi").replace("π", "pi").replace("_", "-").split())


def register_posterior(method: M) -> M:
    """Class decorator: make a posterior method known by its `name`."""
    if method.name in _METHODS or method.name in _ALIASES:
        raise ValueError(f"a posterior method named {method.name!r} is registered already")
    _METHODS[method.name] = method
    return method


def posterior_alias(name: str, method: str, **fields: Any) -> None:
    """Make `name` mean `method` with these fields."""
    key = _normal(name)
    if key in _ALIASES or key in _METHODS:
        raise ValueError(f"the name {name!r} is taken already")
    _ALIASES[key] = Alias(method, fields)


def posterior_methods() -> dict[str, type[PosteriorMethod]]:
    """Every posterior method class, by name."""
    return dict(_METHODS)


def posterior_aliases() -> dict[str, Alias]:
    """Every other name, with the method and the fields that it stands for."""
    return dict(_ALIASES)


def posterior_method(name: str, **fields: Any) -> PosteriorMethod:
    """A posterior method by name, or by another name of it, with some fields set by hand.

    Raises:
        ValueError: unknown name (the nearest is suggested), unknown field, field out of range.
    """
    key = _normal(str(name))
    found = Alias(key) if key in _METHODS else _ALIASES.get(key)
    if found is None:
        known = [*_METHODS, *_ALIASES]
        raise ValueError(
            f"unknown restoration method {name!r}{nearest(key, known)} Known are {', '.join(sorted(known))}"
        )
    cls = _METHODS[found.method]
    known = [item.name for item in dataclasses.fields(cls)]
    for field in fields:
        if field not in known:
            raise ValueError(
                f"{found.method} has no field {field!r}{nearest(field, known)} Its fields are {', '.join(known)}"
            )
    return cls(**{**found.fields, **fields})
