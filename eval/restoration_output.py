"""What a comparison of restorations says: table, plots, verdicts, the README's part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .benchmark_output import shown
from .restoration_contenders import DEFAULT
from .task_plots import Panel, panels_figure, write_figure

Row = Mapping[str, Any]

_SHOWN = (
    "psnr_luma", "psnr_luma_spread", "psnr", "ssim", "lpips", "residual", "forward", "backward", "seconds", "memory",
)  # fmt: skip


def markdown_table(rows: Sequence[Row]) -> str:
    """All rows with all figures; columns without any are left out."""
    columns = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    head = ["degradation", "evaluations", "way", "method", *columns]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["degradation"], str(row["nfe"]), row["sampler"], row["method"]]
        lines.append("| " + " | ".join([*cells, *(shown(row.get(name)) for name in columns)]) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Verdict:
    """The default of a task against the best other row at one number of evaluations, by luma PSNR.

    Attributes:
        ours: row of the default.
        rival: the best of the others that are no mean of several draws; rows of the very method and fields of the
            default are not rivals.
        seeds: of both.
    """

    ours: Row
    rival: Row
    seeds: int

    @property
    def difference(self) -> float:
        """Ours less theirs in dB: above 0 we are better."""
        return float(self.ours["psnr_luma"]) - float(self.rival["psnr_luma"])

    @property
    def noise(self) -> float:
        """Two standard errors of the difference over the seeds; 0 with one seed, where it is not known."""
        squares = sum(float(row.get("psnr_luma_spread") or 0.0) ** 2 for row in (self.ours, self.rival))
        return 2 * math.sqrt(squares / self.seeds)

    @property
    def lost(self) -> bool:
        return self.difference < -self.noise

    def sentence(self) -> str:
        """In words."""
        ours, rival = self.ours, self.rival
        word = "worse" if self.lost else "better" if self.difference > self.noise else "within the noise"
        return (
            f"{ours['degradation']}, {ours['nfe']} evaluations: default ({ours['method']}) {ours['psnr_luma']:.2f} dB "
            f"against {rival['psnr_luma']:.2f} of {rival['sampler']}, {word}"
        )


def verdicts(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Verdict]:
    """One a degradation and number of evaluations; classical ways are rivals everywhere."""
    measured = [row for row in rows if row.get("psnr_luma") is not None]
    made = []
    for ours in (row for row in measured if row["sampler"] == DEFAULT):
        rivals = [
            row
            for row in measured
            if row["degradation"] == ours["degradation"]
            and row["nfe"] in (0, ours["nfe"])
            and row["sampler"] != DEFAULT
            and (row["method"], row["fields"], row["draws"]) != (ours["method"], ours["fields"], ours["draws"])
        ]
        if rivals:
            made.append(Verdict(ours, max(rivals, key=lambda row: row["psnr_luma"]), settings["seeds"]))
    return made


def restoration_table(report: Mapping[str, Any]) -> str:
    """Luma PSNR and SSIM, one row a way, one column a degradation, one table a number of evaluations; then in words."""
    rows, settings = report["rows"], report["settings"]
    tasks = list(dict.fromkeys(row["degradation"] for row in rows))
    budgets = sorted({row["nfe"] for row in rows if row["nfe"]})
    parts = []
    for nfe in budgets:
        here = [row for row in rows if row["nfe"] in (0, nfe)]
        lines = [f"| {nfe} evaluations | " + " | ".join(tasks) + " |", "| --- |" + " --- |" * len(tasks)]
        best = {task: _best(here, task) for task in tasks}
        for name in dict.fromkeys(row["sampler"] for row in here):
            cells = [_cell(here, name, task, best[task]) for task in tasks]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    said = [_defaults(rows, tasks), _summary(verdicts(rows, settings))]
    return "\n\n".join([*parts, " ".join(part for part in said if part)])


def _best(rows: Sequence[Row], task: str) -> float:
    return max((row["psnr_luma"] for row in rows if row["degradation"] == task and row["psnr_luma"]), default=math.inf)


def _cell(rows: Sequence[Row], name: str, task: str, best: float) -> str:
    row = next((r for r in rows if r["sampler"] == name and r["degradation"] == task), None)
    if row is None or row.get("psnr_luma") is None:
        return "–"
    value = f"{row['psnr_luma']:.2f}"
    value = f"**{value}**" if row["psnr_luma"] == best else value
    return value if row.get("ssim") is None else f"{value} ({row['ssim']:.3f})"


def _defaults(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    of_task = {row["degradation"]: row["method"] for row in rows if row["sampler"] == DEFAULT}
    methods = dict.fromkeys(of_task.values())
    said = [f"`{m}` ({', '.join(task for task in tasks if of_task.get(task) == m)})" for m in methods]
    return f"The default is {'; '.join(said)}." if said else ""


def _summary(found: Sequence[Verdict]) -> str:
    if not found:
        return ""
    lost = [
        f"{v.ours['degradation']} at {v.ours['nfe']} ({v.ours['psnr_luma']:.2f} against {v.rival['psnr_luma']:.2f} dB "
        f"of {v.rival['sampler']})"
        for v in found
        if v.lost
    ]
    if not lost:
        return "No other row is better than the default."
    return f"Others are better than the default for {'; '.join(lost)}; for the rest it is the best row."


def restoration_figure(rows: Sequence[Row]) -> Any:
    """Luma PSNR against evaluations, one panel a degradation; a grey line is the best classical way; or None."""
    panels, drawn = [], []
    for task in dict.fromkeys(row["degradation"] for row in rows):
        here = [row for row in rows if row["degradation"] == task]
        classical = [row["psnr_luma"] for row in here if row["origin"] == "classical" and row["psnr_luma"] is not None]
        panels.append(Panel("psnr_luma", task, False, max(classical, default=None), {"degradation": task}))
    for row in rows:
        if row["origin"] != "classical":
            drawn.append({**row, "origin": "diffusers" if row["origin"] == "deepinv" else row["origin"]})
    caption = "luma PSNR, dB. Solid: fewstep's own, dotted: published, dashed: deepinv; grey: best without a network"
    return panels_figure(drawn, panels, caption)


def restoration_plots(rows: Sequence[Row], folder: str | Path, stem: str = "quality") -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``; raises ImportError without matplotlib."""
    return write_figure(restoration_figure(rows), folder, stem)
