"""Plots of a task: figures against network calls in one panel each, one line a sampler, ours solid."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically

from .plots import styles

Row = Mapping[str, Any]

#: Panels in one row of a figure.
MOST_ACROSS = 4


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        column: of the rows.
        title: above it.
        log: whether its axis is logarithmic.
        level: a value to mark by a line, such as that of real data; None: no line.
        where: columns and values that a row must have to be in the panel.
    """

    column: str
    title: str
    log: bool = False
    level: float | None = None
    where: Mapping[str, Any] | None = None


def line_of(rows: Sequence[Row], sampler: str, panel: Panel) -> tuple[list[int], list[float], list[float]]:
    """Calls, values and spreads of a sampler in a panel, by calls; values that were not measured are left out."""
    here = [
        row
        for row in rows
        if row["sampler"] == sampler
        and row.get(panel.column) is not None
        and all(row.get(key) == value for key, value in (panel.where or {}).items())
    ]
    here.sort(key=lambda row: row["nfe"])
    spreads = [float(row.get(f"{panel.column}_spread") or 0.0) for row in here]
    return [row["nfe"] for row in here], [row[panel.column] for row in here], spreads


def panels_figure(
    rows: Sequence[Row], panels: Sequence[Panel], caption: str, named: Sequence[str] | None = None
) -> Any:
    """A figure with the panels side by side and one legend; None if there is nothing to draw.

    Args:
        rows: flat rows with sampler, origin, nfe and the columns.
        panels: what to draw.
        caption: above all.
        named: samplers with a colour and an entry of their own; the others are thin and grey. None: all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

    family = {row["sampler"]: row["origin"] for row in rows}
    drawn = [panel for panel in panels if any(line_of(rows, name, panel)[0] for name in family)]
    if not drawn:
        return None
    own_entry = [name for name in family if named is None or name in named]
    grey = {"color": "0.75", "marker": "", "zorder": 0}
    style = dict.fromkeys(family, grey) | styles(own_entry)
    label = {name: name if name in own_entry else "_" for name in family}
    others = [name for name in family if name not in own_entry]
    if others:
        label[others[-1]] = "others"
    height = max(3.8, 0.24 * (len(own_entry) + bool(others)) + 1.4)
    across = min(len(drawn), MOST_ACROSS)
    down = math.ceil(len(drawn) / across)
    figure = Figure(figsize=(3.6 * across + 2.6, max(height, 3.3 * down)), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(down, across, squeeze=False).flatten()
    axes = cells[: len(drawn)]
    for cell in cells[len(drawn) :]:
        cell.remove()
    for axis, panel in zip(axes, drawn, strict=True):
        ticks: set[int] = set()
        for name in (*own_entry, *others):
            origin = family[name]
            calls, values, spreads = line_of(rows, name, panel)
            ticks |= set(calls)
            mark = {"own": "-", "published": ":", "diffusers": "--"}[origin] if name in own_entry else "-"
            width = 1.8 if origin == "own" else 1.1 if name in own_entry else 0.8
            axis.errorbar(
                calls, values, spreads, ls=mark, label=label[name], lw=width, ms=4, capsize=1.5, **style[name]
            )
        if panel.level is not None:
            axis.axhline(panel.level, color="0.5", lw=1.0, zorder=0)
        axis.set(xscale="log", xlabel="network calls", title=panel.title)
        if panel.log:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(ScalarFormatter())
            axis.yaxis.set_minor_formatter(ScalarFormatter())
            axis.tick_params(axis="y", which="minor", labelsize=7)
        axis.set_xticks(sorted(ticks))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="major", lw=0.4, alpha=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[across - 1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)
    figure.suptitle(caption, fontsize=9)
    return figure


def write_figure(figure: Any, folder: str | Path, stem: str) -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``, the same for the same rows; no files of no figure."""
    import matplotlib

    files = []
    for kind in ("png", "svg") if figure is not None else ():
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "fewstep"}):
            figure.savefig(content, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
        files.append(Path(folder) / f"{stem}.{kind}")
        write_atomically(files[-1], content.getvalue())
    return files
