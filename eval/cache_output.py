"""What a comparison of caches leaves behind: a result file, a Markdown table, a CSV and a plot; the README's table."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically

from .benchmark_output import csv_table, is_poorer, shown
from .results import write_results

Row = Mapping[str, Any]

_SHOWN = ("steps", "real_calls", "psnr", "garment_accuracy", "colour_accuracy", "seconds", "speedup", "note")


def markdown_table(rows: Sequence[Row]) -> str:
    """All rows with all figures."""
    head = ["sampler", "guidance", "cache", *_SHOWN]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["sampler"], f"{row['guidance']:g}", row["cache"], *(shown(row[name]) for name in _SHOWN)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _quality(row: Row | None) -> str:
    if row is None or row["seconds"] is None:
        return "–"
    psnr = row["note"] if row["psnr"] is None else f"{row['psnr']:.1f} dB"
    return f"{psnr}, {row['speedup']:.2f} x"


def caches_table(report: Mapping[str, Any]) -> str:
    """PSNR and speed, one row a cache and number of calls, one column a sampler and guidance scale; then in words:
    how far the caches are from fewer steps, what the judge sees, and which caches do not fit the model."""
    rows: list[Row] = report["rows"]
    measured = [row for row in rows if row["seconds"] is not None]
    columns = list(dict.fromkeys((row["sampler"], row["guidance"]) for row in rows))
    named = list(dict.fromkeys((row["cache"], row["real_calls"]) for row in measured if row["cache"] != "none"))
    # the rival stands below the caches that made as many calls
    named.sort(key=lambda name: (-(name[1] or 0), name[0] == "fewer-steps"))
    found = {(row["cache"], row["real_calls"], row["sampler"], row["guidance"]): row for row in measured}
    lines = [
        "| cache | calls | " + " | ".join(f"{sampler}, g {g:g}" for sampler, g in columns) + " |",
        "| --- | --- |" + " --- |" * len(columns),
    ]
    for cache, calls in named:
        cells = [_quality(found.get((cache, calls, *column))) for column in columns]
        lines.append(f"| {cache} | {shown(calls)} | " + " | ".join(cells) + " |")
    said = [_against_fewer(measured), _judged(measured), *_unfit(rows)]
    return "\n".join(lines) + "\n\n" + " ".join(sentence for sentence in said if sentence)


def _against_fewer(rows: Sequence[Row]) -> str:
    def place(row: Row) -> tuple[Any, ...]:
        return row["sampler"], row["guidance"], row["real_calls"]

    rivals = {place(row): row["psnr"] for row in rows if row["cache"] == "fewer-steps" and row["psnr"] is not None}
    gains = [
        row["psnr"] - rivals[place(row)]
        for row in rows
        if row["cache"].startswith("ab") and row["psnr"] is not None and place(row) in rivals
    ]
    if not gains:
        return ""
    return f"At equal calls the caches are {min(gains):.1f} to {max(gains):.1f} dB above fewer steps."


def _judged(rows: Sequence[Row]) -> str:
    full = {(row["sampler"], row["guidance"]): row for row in rows if row["cache"] == "none"}
    off = [
        max(abs(row[name] - full[row["sampler"], row["guidance"]][name]) for name in _ACCURACIES)
        for row in rows
        if row["cache"] not in ("none", "fewer-steps") and row["garment_accuracy"] is not None
    ]
    if not off:
        return ""
    if max(off) == 0:
        return "The judge finds as many garments and colours as without a cache."
    changed = sum(value > 0 for value in off)
    return (
        f"The judge finds as many garments and colours as without a cache, but in {changed} of {len(off)} cells, where "
        f"the share is off by at most {100 * max(off):.0f} %."
    )


_ACCURACIES = ("garment_accuracy", "colour_accuracy")


def _unfit(rows: Sequence[Row]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["seconds"] is None:
            names = reasons.setdefault(row["note"], [])
            if row["cache"] not in names:
                names.append(row["cache"])
    return [f"{', '.join(f'`{name}`' for name in names)}: {reason}." for reason, names in reasons.items()]


def cache_figure(rows: Sequence[Row]) -> Any:
    """PSNR against calls: a panel a sampler and guidance scale, caches as marks, fewer steps as a line; or None.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .plots import styles

    drawn = [row for row in rows if row["psnr"] is not None and row["real_calls"] is not None]
    panels = list(dict.fromkeys((row["sampler"], row["guidance"]) for row in drawn))
    if not panels:
        return None
    style = styles(list(dict.fromkeys(row["cache"] for row in drawn)))
    figure = Figure(figsize=(3.4 * len(panels) + 2.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, (sampler, guidance) in zip(axes, panels, strict=True):
        for cache, look in style.items():
            here = sorted(
                (row["real_calls"], row["psnr"])
                for row in drawn
                if (row["sampler"], row["guidance"], row["cache"]) == (sampler, guidance, cache)
            )
            line = "--" if cache == "fewer-steps" else "none"
            panel.plot([n for n, _ in here], [psnr for _, psnr in here], ls=line, label=cache, **look)
        panel.set(xlabel="network calls", title=f"{sampler}, guidance {guidance:g}")
        panel.grid(True, lw=0.4, alpha=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("PSNR to the full run, dB")
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def cache_plots(rows: Sequence[Row], folder: str | Path, stem: str = "caches") -> list[Path]:
    """Write ``STEM.png`` and ``.svg``; returns the files, none without figures.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    figure = cache_figure(rows)
    files = []
    for kind in ("png", "svg") if figure is not None else ():
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "fewstep"}):
            figure.savefig(content, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
        files.append(Path(folder) / f"{stem}.{kind}")
        write_atomically(files[-1], content.getvalue())
    return files


def write_cache_outputs(
    folder: str | Path, command: str, settings: Mapping[str, Any], rows: Sequence[Row], json: str | None = None
) -> list[Path]:
    """Write ``caches.json``, ``caches.md``, ``caches.csv`` and a plot into `folder`; the JSON also to `json`.

    A run that is not complete leaves `json` alone, and in `folder` a result with more rows.
    """
    folder = Path(folder)
    if is_poorer(folder / "caches.json", settings, rows):
        return []
    files = [folder / "caches.json", *([Path(json)] if json and settings.get("complete", True) else [])]
    for path in files:
        write_results(path, command, settings, rows)
    for name, text in (("caches.md", markdown_table(rows)), ("caches.csv", csv_table(rows))):
        write_atomically(folder / name, text.encode())
        files.append(folder / name)
    with contextlib.suppress(ImportError):
        files += cache_plots(rows, folder)
    return files
