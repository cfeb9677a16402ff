"""What a benchmark leaves behind: a result file, a Markdown table, a CSV and plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .benchmark_cells import write_atomically
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


def write_outputs(
    folder: str | Path,
    command: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    json: str | None = None,
) -> list[Path]:
    """Write ``results.json``, ``table.md``, ``table.csv`` and plots into `folder`; the JSON also to `json`.

    Returns:
        The files, in that order. Without matplotlib, or without rows, there are no plots.
    """
    folder = Path(folder)
    files = [folder / "results.json", *([Path(json)] if json else [])]
    for path in files:
        write_results(path, command, settings, rows)
    for name, text in (("table.md", markdown_table(rows)), ("table.csv", csv_table(rows))):
        write_atomically(folder / name, text.encode())
        files.append(folder / name)
    try:
        from .plots import quality_plots

        files += quality_plots(rows, folder)
    except ImportError:
        pass
    return files
