"""A text that appears in the terminal while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .terminal import notes, progress

if TYPE_CHECKING:
    from rich.text import Text

    from fewstep.pipelines import TextProgress

#: A private character, so that no text of a model is taken for a blank.
_BLANK = "\ue000"
_MARK = "·"
_PER_SECOND = 15


def drawn(texts: list[str], rows: tuple[int, ...], seed: int, head: str, lines: int) -> Text:
    """Texts with dim blanks under a head line, cut to so many lines.

    Args:
        texts: as they are, blanks as a private character.
        rows: numbers of the texts.
        seed: of text 0.
        head: line above all.
        lines: of the terminal.
    """
    from rich.text import Text

    whole = Text(head, style="dim")
    for row, text in zip(rows, texts, strict=True):
        if len(texts) > 1:
            whole.append(f"\nseed {seed + row}", style="dim")
        whole.append("\n")
        for k, part in enumerate(text.split(_BLANK)):
            if k:
                whole.append(_MARK, style="dim cyan")
            whole.append(part, style="default not dim")
    kept = whole.split("\n", allow_blank=True)
    return whole if len(kept) <= lines else Text("\n").join(kept[:lines])


@contextmanager
def watched(seed: int) -> Iterator[Callable[[TextProgress], None]]:
    """A callback of the pipeline that shows the text; on something else than a terminal it shows nothing."""
    if not notes.is_terminal:
        with progress("writing") as bar:
            yield lambda step: bar(step.done, step.total)
        return
    from rich.live import Live

    with Live(console=notes, transient=True, auto_refresh=False, vertical_overflow="crop") as live:
        last = [0.0]

        def show(step: TextProgress) -> None:
            now = time.monotonic()
            if now - last[0] < 1 / _PER_SECOND and step.done < step.total:
                return
            last[0] = now
            head = f"call {step.done} of {step.total}, {sum(step.masks)} tokens to write"
            live.update(drawn(step.texts(_BLANK), step.rows, seed, head, max(3, notes.size.height - 1)), refresh=True)

        yield show


@contextmanager
def followed(watch: bool, seed: int) -> Iterator[Callable[[Any], None]]:
    """The text itself if it shall be watched, else a bar."""
    if watch:
        with watched(seed) as show:
            yield show
    else:
        with progress("writing") as bar:
            yield lambda step: bar(step.done, step.total)
