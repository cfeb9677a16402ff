"""What a comparison of samplers of token pictures says: table, plots, the README's part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .benchmark_output import shown
from .task_plots import Panel, panels_figure, write_figure
from .task_verdict import Verdict, compare, summary

Row = Mapping[str, Any]

_SHOWN = (
    "fid", "fid_spread", "kid", "garment_accuracy", "colour_accuracy", "background_accuracy", "calls", "seconds",
    "scheduler_microseconds",
)  # fmt: skip


def markdown_table(rows: Sequence[Row]) -> str:
    """All rows with all figures."""
    head = ["guidance", "calls asked for", "sampler", *_SHOWN]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = " | ".join(shown(row.get(name)) for name in _SHOWN)
        lines.append(f"| {row['guidance']:g} | {row['nfe']} | {row['sampler']} | {cells} |")
    return "\n".join(lines) + "\n"


def verdicts(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Verdict]:
    """By FID, at every guidance and number of calls."""
    scales = list(dict.fromkeys(row["guidance"] for row in rows))
    return [v for g in scales for v in compare([r for r in rows if r["guidance"] == g], "fid", settings["seeds"])]


def token_table(report: Mapping[str, Any]) -> str:
    """FID and accuracy, one row a sampler, one column a pair of guidance and number of calls; then in words."""
    rows, settings = report["rows"], report["settings"]
    pairs = list(dict.fromkeys((row["guidance"], row["nfe"]) for row in rows))
    lines = [
        "| sampler | " + " | ".join(f"g {g:g}, {n} calls" for g, n in pairs) + " |",
        "| --- |" + " --- |" * len(pairs),
    ]
    at = {(row["sampler"], row["guidance"], row["nfe"]): row for row in rows}
    for name in dict.fromkeys(row["sampler"] for row in rows):
        cells = []
        for pair in pairs:
            row = at.get((name, *pair))
            if row is None or row.get("fid") is None:
                cells.append("–")
            else:
                cells.append(
                    f"{row['fid']:.1f} ({_percent(row['garment_accuracy'])}, {_percent(row['colour_accuracy'])})"
                )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    said = []
    for g in dict.fromkeys(row["guidance"] for row in rows):
        found = [v for v in verdicts(rows, settings) if v.ours["guidance"] == g]
        said.append(summary(found, f"FID at guidance {g:g}"))
    return "\n".join(lines) + "\n\n" + " ".join(sentence for sentence in said if sentence)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def token_figure(rows: Sequence[Row]) -> Any:
    """FID and accuracy against calls, a pair of panels a guidance scale; or None."""
    panels = []
    for g in dict.fromkeys(row["guidance"] for row in rows):
        panels.append(Panel("fid", f"FID, guidance {g:g}", True, None, {"guidance": g}))
        panels.append(Panel("garment_accuracy", f"garment is right, guidance {g:g}", False, None, {"guidance": g}))
    return panels_figure(rows, panels, "solid: fewstep's own, dotted: published methods, dashed: diffusers")


def token_plots(rows: Sequence[Row], folder: str | Path, stem: str = "quality") -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``; raises ImportError without matplotlib."""
    return write_figure(token_figure(rows), folder, stem)
