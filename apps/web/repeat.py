"""What is on the screen, as a command and as Python: run anywhere, they give the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def options_text(options: Mapping[str, Any]) -> list[str]:
    """Options of a command line: ``{"momentum": 2.5, "euler_at_final": True}`` -> ``--momentum 2.5 --euler-at-final``.

    None is left out; a negative number or word is joined to its option.
    """
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if value is True:
            words.append(flag)
        elif value is False:
            words.append("--no-" + flag.removeprefix("--"))
        else:
            text = f"{value:.10g}" if isinstance(value, float) else str(value)
            words += [f"{flag}={shlex.quote(text)}"] if text.startswith("-") else [flag, shlex.quote(text)]
    return words


def command(name: str, positional: Sequence[str], options: Mapping[str, Any]) -> str:
    """``fewstep NAME WORDS OPTIONS`` on one line, quoted for a POSIX shell."""
    return " ".join(["fewstep", name, *map(_quoted, positional), *options_text(options)])


def _quoted(text: str) -> str:
    # double quotes where they do, as people write prompts
    if text and not any(sign in text for sign in '"\\$`!\n'):
        return f'"{text}"'
    return shlex.quote(text)


def call(function: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """``function(a, b=1)`` with values written as Python writes them; None is left out."""
    parts = [part if isinstance(part, Name) else repr(part) for part in positional]
    parts += [
        f"{name}={value if isinstance(value, Name) else repr(value)}"
        for name, value in keywords.items()
        if value is not None
    ]
    return f"{function}({', '.join(map(str, parts))})"


class Name(str):
    """A name of a variable in a line of Python, not a text."""
