"""Texts as HTML: on the way, finished, and as words to click. Every character is escaped."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from .settings import MAX_TEXT

#: A private character for what is not written yet, so that no text of a model is taken for a blank.
MARK = "\ue000"


def view(texts: list[str], seeds: list[int], given: list[bool] | None = None) -> str:
    """Texts as HTML, every character escaped; what is not written yet is a dot, what was filled in is marked."""
    parts = []
    for text, seed in zip(texts, seeds, strict=False):
        if given is not None and len(given) == len(text):
            runs = re.finditer(r"(.)\1*", "".join("g" if flag else "f" for flag in given))
            body = "".join(
                html.escape(text[run.start() : run.end()])
                if run[1] == "g"
                else f"<mark>{html.escape(text[run.start() : run.end()])}</mark>"
                for run in runs
            )
        else:
            pieces = re.split(f"({MARK}+)", text)
            body = "".join(
                f'<span class="fs-blank">{"·" * len(piece)}</span>' if piece.startswith(MARK) else html.escape(piece)
                for piece in pieces
            )
        head = f"<h3>Seed {seed}</h3>" if len(seeds) > 1 else ""
        parts.append(
            f'<div class="fs-text" tabindex="0" role="region" aria-label="Text of seed {seed}">{head}{body}</div>'
        )
    return "".join(parts)


def words(text: str, tokenizer: Any = None) -> str:
    """A text as buttons, one a word: pressed is blank. Their data say what each stands for; readers hear marks named.

    Args:
        text: the text.
        tokenizer: says how many tokens a word has; None: a token is a character.
    """
    parts = []
    for piece in re.findall(r"\s+|\w+(?:'\w+)*|[^\w\s]", text[:MAX_TEXT]):
        if piece.isspace():
            shown = html.escape(piece).replace("\n", "<br>")
            parts.append(f'<span data-word="{html.escape(piece, quote=True)}">{shown}</span>')
            continue
        number = len(piece) if tokenizer is None else len(tokenizer(piece, add_special_tokens=False)["input_ids"])
        said = html.escape(piece, quote=True)
        name = "" if piece[0].isalnum() else f' aria-label="{html.escape(unicodedata.name(piece[0], "sign").lower())}"'
        parts.append(
            f'<button type="button"{name} aria-pressed="false" data-word="{said}" '
            f'data-blank="{"[MASK]" * max(number, 1)}">{html.escape(piece)}</button>'
        )
    return (
        f'<div class="fs-words" role="group" aria-label="Words; a pressed one becomes a blank">{"".join(parts)}</div>'
    )
