"""Words of a command line that are options of a method and not of the command: its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def read_words(
    words: Sequence[str],
    known: Mapping[str, Any],
    options: Sequence[str],
    chosen: str,
    owners: Mapping[str, Sequence[str]],
    choice: str,
) -> tuple[list[str], dict[str, Any]]:
    """Plain words, and the fields that were given as options among them.

    No option has a space in its name, so a quoted sentence is text even if it begins with a dash.

    Args:
        words: what no option of the command took.
        known: fields that may be given, with their dataclass field or parameter.
        options: the command's own options, for the nearest name.
        chosen: the method at hand, for sentences.
        owners: methods that have a field, by the field's name.
        choice: the option that chooses a method.

    Raises:
        ValueError: an option that neither the command nor the method has, or one without its value.
    """
    from fewstep.samplers.core.registry import nearest

    flags = {key for key, item in known.items() if isinstance(item.default, bool)}
    texts: list[str] = []
    fields: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?[A-Za-z]", word) or re.search(r"\s", word.partition("=")[0]):
            texts.append(word)
            continue
        option, equals, text = word.partition("=")
        key = option.lstrip("-").replace("-", "_")
        if key.startswith("no_") and key.removeprefix("no_") in flags and not equals:
            fields[key.removeprefix("no_")] = False
        elif key not in known:
            spelt = [*options, *(f"--{name.replace('_', '-')}" for name in known)]
            if owners.get(key):
                raise ValueError(
                    f"no option {option} for {chosen}: it is a field of {' and '.join(owners[key])}; "
                    f"say {choice} {owners[key][-1]}"
                )
            raise ValueError(
                f"no option {option}{nearest(option, spelt)} The fields of {chosen} are options too; "
                "`fewstep methods NAME` lists them"
            )
        elif key in flags and not equals:
            said = bool(rest) and rest[0].lower() in ("true", "false", "yes", "no")
            fields[key] = value_of(known[key], rest.pop(0)) if said else True
        elif not equals and not rest:
            raise ValueError(f"{option} needs a value")
        else:
            fields[key] = value_of(known[key], text if equals else rest.pop(0))
    return texts, fields


def value_of(item: Any, text: str) -> Any:
    """A field's value from its text; a text that does not fit is left for the method's own check to refuse."""
    meta = getattr(item, "metadata", {})
    if text in meta.get("words", ()):
        return text
    if isinstance(item.default, bool):
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
    if meta.get("choices") is not None:
        return next((choice for choice in meta["choices"] if str(choice) == text), text)
    if item.default is None and text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
