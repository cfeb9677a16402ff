"""Plots of quality against network calls: one line a sampler, ours solid, diffusers' dashed.

Colours are those of Okabe and Ito (2008), which the colour-blind can tell apart; together with the marks they name a
sampler, and the legend is sorted by the last value, as the lines end.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
_MARKS = "osD^vP*X"
#: Column -> what the axis says.
QUALITIES = {"rmse": "solver error (RMSE of the latents)", "fid": "FID (judge features)", "kid": "KID (judge features)"}

Line = tuple[str, str, list[int], list[float]]  # sampler, family, calls, values


def lines_of(rows: Sequence[Mapping[str, Any]], column: str, guidance: float, grids: str = "best") -> list[Line]:
    """Each sampler's values of a column at a guidance, by calls, the best last value first.

    Args:
        rows: of a benchmark.
        column: what is plotted; values that are missing or not positive (a logarithmic axis) are left out.
        guidance: of the rows.
        grids: ``best`` or ``default``: which of a sampler's two grids.
    """
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        value = row.get(column)
        if row["guidance"] != guidance or not row.get(grids, True) or value is None or not 0 < value < math.inf:
            continue
        found.setdefault((row["sampler"], row["family"]), {})[round(row.get("calls") or row["nfe"])] = value
    made = [(name, family, sorted(at), [at[n] for n in sorted(at)]) for (name, family), at in found.items()]
    return sorted(made, key=lambda line: (-line[2][-1], line[3][-1]))


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of every sampler: each pair once while they last, the same in every panel."""
    return {
        name: {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKS[(i + i // len(_COLOURS)) % len(_MARKS)]}
        for i, name in enumerate(names)
    }


def quality_figure(rows: Sequence[Mapping[str, Any]], column: str, grids: str = "best") -> Any:
    """A figure with one panel a guidance scale, logarithmic axes, each panel with its own sorted legend; or None.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

    scales = sorted({row["guidance"] for row in rows})
    panels = [(g, lines) for g in scales if (lines := lines_of(rows, column, g, grids))]
    if not panels:
        return None
    names = sorted({name for _, lines in panels for name, *_ in lines})
    style = styles(names)
    most = max(len(lines) for _, lines in panels)
    figure = Figure(figsize=(6.4 * len(panels), max(4.2, 0.17 * most + 1.2)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (guidance, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, family, calls, values in lines:
            ours = family == "fewstep"
            axes.plot(
                calls,
                values,
                "-" if ours else "--",
                label=name,
                lw=1.8 if ours else 1.1,
                ms=4.5,
                mew=0.6,
                **style[name],
            )
        axes.set(xscale="log", yscale="log", xlabel="network calls", title=f"guidance {guidance:g}")
        ticks = sorted({n for _, _, calls, _ in lines for n in calls})
        kept = [n for i, n in enumerate(ticks) if n == ticks[-1] or ticks[i + 1] / n > 1.08]
        axes.set_xticks(kept)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", lw=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            title="lowest at the right end first",
            fontsize=7,
            title_fontsize=7,
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handlelength=3.2,
            labelspacing=0.25,
        )
    figure.axes[0].set_ylabel(QUALITIES.get(column, column))
    which = "each at its best named grid" if grids == "best" else "each at its default grid"
    figure.suptitle(f"{which}; solid: fewstep, dashed: diffusers", fontsize=9)
    return figure


def quality_plots(rows: Sequence[Mapping[str, Any]], folder: str | Path, stem: str = "quality") -> list[Path]:
    """Write ``STEM-COLUMN.png`` and ``.svg`` for every quality that was measured; returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    files = []
    for column in QUALITIES:
        figure = quality_figure(rows, column)
        if figure is None:
            continue
        for kind in ("png", "svg"):
            content = io.BytesIO()
            # the same rows give the same file: no date, no random identifiers
            with matplotlib.rc_context({"svg.hashsalt": "fewstep"}):
                figure.savefig(content, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
            path = Path(folder) / f"{stem}-{column}.{kind}"
            write_atomically(path, content.getvalue())
            files.append(path)
    return files
