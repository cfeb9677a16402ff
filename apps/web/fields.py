"""A widget for a field of a dataclass, made of what `option` says about it; names, ranges and help are the field's."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from ..words import value_of

#: Fields that the page sets elsewhere (the run's guidance), and tables that a program writes.
_ELSEWHERE = ("guidance_scale", "noise_levels")

Item = dataclasses.Field[Any] | inspect.Parameter


@dataclasses.dataclass(frozen=True)
class Widget:
    """What a field looks like, as arguments of a component.

    Attributes:
        kind: ``checkbox``, ``dropdown``, ``slider``, ``number`` or ``text``.
        arguments: of the component, its label and help among them.
    """

    kind: str
    arguments: Mapping[str, Any]


def shown(options: Mapping[str, Item]) -> dict[str, Item]:
    """The fields that have widgets: those with a help text."""
    found = {}
    for name, item in options.items():
        meta = getattr(item, "metadata", {})
        if name not in _ELSEWHERE and meta.get("help") and not meta.get("table"):
            found[name] = item
    return found


def widget(item: Item) -> Widget:
    """The widget of a field."""
    meta = getattr(item, "metadata", {})
    default, low, high = item.default, meta.get("low"), meta.get("high")
    words, help_ = meta.get("words", ()), meta.get("help", "")
    said: dict[str, Any] = {"label": item.name.replace("_", " "), "info": help_, "value": default}
    if meta.get("choices") is not None:
        return Widget(
            "dropdown", {**said, "choices": [str(choice) for choice in meta["choices"]], "value": str(default)}
        )
    if isinstance(default, bool):
        return Widget("checkbox", said)
    if words or default is None:
        kinds = [*words, "a number" + _range(low, high, meta.get("open_low", False))]
        kinds += ["nothing"] if default is None else []
        value = "" if default is None else str(default)
        return Widget("text", {**said, "value": value, "placeholder": ", ".join(kinds[:-1]) + " or " + kinds[-1]})
    whole = isinstance(default, int)
    if low is not None and high is not None:
        step = 1 if whole else _step(float(low), float(high), default)
        if step is not None:
            least = low + step if meta.get("open_low") else low
            return Widget("slider", {**said, "minimum": least, "maximum": high, "step": step})
    return Widget("number", {**said, "precision": 0 if whole else None, "minimum": low, "maximum": high})


def _range(low: float | None, high: float | None, open_low: bool) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'above' if open_low else 'from'} {low:g}"
    return f" {'above' if open_low else 'from'} {low:g} to {high:g}"


def _step(low: float, high: float, default: Any) -> float | None:
    """A power of ten that divides the range into 20 to 200 parts: 0.01 for [0, 1], 0.1 for [-10, 10].

    Up to 2000 parts where the default needs them, and None where they do not reach it, as 0.4 in [0, 1000].
    """
    span, power = high - low, -6
    while span > 200 * 10.0**power:
        power += 1
    while span <= 2000 * 10.0**power:
        parts = (default - low) / 10.0**power
        if abs(parts - round(parts)) < 1e-6 and (round(parts) > 0 or default == low):
            return 10.0**power
        power -= 1
    return None


def value(item: Item, entered: Any) -> Any:
    """A field's value from what its widget holds; what does not fit is left for the method's own check to refuse."""
    if isinstance(entered, str):
        text = entered.strip()
        return item.default if not text else value_of(item, text)
    if entered is None:
        return item.default
    if isinstance(item.default, int) and not isinstance(item.default, bool) and isinstance(entered, float):
        return int(entered) if entered == int(entered) else entered
    return entered


def chosen(options: Mapping[str, Item], entered: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from their defaults, which are those that a command line would name."""
    found = {}
    for name, item in shown(options).items():
        if name in entered:
            made = value(item, entered[name])
            if made != item.default:
                found[name] = made
    return found
