"""Where the command line writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
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
