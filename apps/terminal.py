"""Where the command line writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

#: Results. Long lines are the terminal's business, so that a path can be copied and a pipe reads whole lines.
output = Console(highlight=False, soft_wrap=True)
#: Progress, warnings, errors.
notes = Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(sentence: str) -> None:
    """An error, as a sentence."""
    notes.print(f"[bold red]Error:[/] {escape(sentence)}")


def say_warning(sentence: str) -> None:
    """Something that the user should know and that does not stop the run."""
    notes.print(f"[yellow]Note:[/] {escape(sentence)}")


def print_json(value: Any) -> None:
    """JSON on standard output, and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life on a terminal while something takes seconds."""
    with notes.status(f"{what} ..."):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar with steps and time left on a terminal; what is yielded takes (steps done, steps in all, anything)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def after_step(done: int, total: int, *_: Any) -> None:
            bar.update(task, completed=done, total=total)

        yield after_step
