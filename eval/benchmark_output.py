"""What a benchmark leaves behind: a result file, a Markdown table, a CSV and plots."""

from __future__ import annotations

import csv
import io
import json as jsons
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically

from .results import write_results

_SHOWN = ("rmse", "median_error", "fid", "kid", "garment_accuracy", "colour_accuracy", "divergence_rate")


def shown(value: Any) -> str:
    """A figure for a table: three digits, a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows, by guidance and number of calls, the most accurate first; columns without any figure are left out."""
    columns = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    head = ["guidance", "nfe", "sampler", "grid", "calls", *columns, "µs a step"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]

    def key(row: Mapping[str, Any]) -> tuple[float, ...]:
        error = row.get("rmse")
        return (row["guidance"], row["nfe"], float("inf") if error is None else error)

    for row in sorted(rows, key=key):
        marks = "".join(f" ({word})" for word in ("default", "best") if row.get(word))
        cells = [f"{row['guidance']:g}", str(row["nfe"]), row["sampler"], row["grid"] + marks, shown(row.get("calls"))]
        cells += [shown(row.get(name)) for name in columns] + [shown(row.get("scheduler_microseconds"))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows with all their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def is_poorer(path: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these rows are of a run that was stopped, and the result file at `path` has more."""
    if settings.get("complete", True):
        return False
    try:
        return len(jsons.loads(path.read_text(encoding="utf-8"))["rows"]) > len(rows)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _moved(found: Mapping[str, Any], folder: Path, json: str | Path) -> dict[str, Any]:
    """With the path of the pictures relative to another file than the one in `folder`."""
    if not found.get("pictures"):
        return dict(found)
    return {**found, "pictures": os.path.relpath(folder / found["pictures"], Path(json).parent)}


def write_outputs(
    folder: str | Path,
    command: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    json: str | None = None,
) -> list[Path]:
    """Write ``results.json``, ``table.md``, ``table.csv`` and plots into `folder`; the JSON also to `json`.

    A run that is not complete leaves `json` alone, and in `folder` whatever has more rows than it (`is_poorer`).

    Returns:
        The files, in that order. Without matplotlib, or without rows, there are no plots.
    """
    folder = Path(folder)
    files = [folder / "results.json"]
    if is_poorer(files[0], settings, rows):
        return []
    write_results(files[0], command, settings, rows)
    if json and settings.get("complete", True):
        files.append(Path(json))
        write_results(json, command, _moved(settings, folder, json), [_moved(row, folder, json) for row in rows])
    for name, text in (("table.md", markdown_table(rows)), ("table.csv", csv_table(rows))):
        write_atomically(folder / name, text.encode())
        files.append(folder / name)
    try:
        from .plots import quality_plots

        files += quality_plots(rows, folder)
    except ImportError:
        pass
    return files
