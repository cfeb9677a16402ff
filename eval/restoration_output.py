"""What a comparison of restorations says: table, plots, verdicts, the README's part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .benchmark_output import shown
from .restoration_contenders import DEFAULT, restorers
from .task_plots import Panel, panels_figure, write_figure

Row = Mapping[str, Any]

#: Rows that stand beside the others to compare with, at numbers of evaluations of their own.
YARDSTICKS = tuple(name for name, made in restorers().items() if made.calls is not None)

#: Draws in few evaluations that are held against the yardstick.
FEW = ("ddnm-2m", "ddnm fresh")

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


def figure_of(task: str) -> str:
    """The column by which a task is judged: PSNR of the luma, or of the colours where the luma is what was measured."""
    return "psnr" if task == "colorize" else "psnr_luma"


@dataclass(frozen=True)
class Verdict:
    """The default of a task against the best other row at one number of evaluations, by `figure_of` the task.

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
        return float(self.ours[self.figure]) - float(self.rival[self.figure])

    @property
    def figure(self) -> str:
        return figure_of(self.ours["degradation"])

    @property
    def noise(self) -> float:
        """Two standard errors of the difference over the seeds; 0 with one seed, where it is not known."""
        squares = sum(float(row.get(f"{self.figure}_spread") or 0.0) ** 2 for row in (self.ours, self.rival))
        return 2 * math.sqrt(squares / self.seeds)

    @property
    def lost(self) -> bool:
        return self.difference < -self.noise

    def sentence(self) -> str:
        """In words."""
        ours, rival = self.ours, self.rival
        word = "worse" if self.lost else "better" if self.difference > self.noise else "within the noise"
        return (
            f"{ours['degradation']}, {ours['nfe']} evaluations: default ({ours['method']}) {ours[self.figure]:.2f} dB "
            f"against {rival[self.figure]:.2f} of {rival['sampler']}, {word}"
        )


def verdicts(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Verdict]:
    """One a degradation and number of evaluations; classical ways are rivals everywhere."""
    measured = [row for row in rows if row.get(figure_of(row["degradation"])) is not None]
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
            made.append(
                Verdict(ours, max(rivals, key=lambda row: row[figure_of(row["degradation"])]), settings["seeds"])
            )
    return made


def restoration_table(report: Mapping[str, Any]) -> str:
    """PSNR and SSIM, one row a way, one column a degradation, one table a number of evaluations; then in words.

    The PSNR is that of `figure_of` the degradation. Yardsticks (`restoration_contenders.Restorer.calls`) stand in every
    table, and are never its best row.
    """
    rows, settings = report["rows"], report["settings"]
    tasks = list(dict.fromkeys(row["degradation"] for row in rows))
    yardsticks = [row for row in rows if row["sampler"] in YARDSTICKS]
    rivals = [row for row in rows if row["sampler"] not in YARDSTICKS]
    parts = []
    for nfe in sorted({row["nfe"] for row in rivals if row["nfe"]}):
        here = [row for row in rivals if row["nfe"] in (0, nfe)]
        lines = [f"| {nfe} evaluations | " + " | ".join(tasks) + " |", "| --- |" + " --- |" * len(tasks)]
        best = {task: _best(here, task) for task in tasks}
        here += yardsticks
        for name in dict.fromkeys(row["sampler"] for row in here):
            cells = [_cell(here, name, task, best[task]) for task in tasks]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    said = [_defaults(rows, tasks), _summary(verdicts(rows, settings)), _few_steps(rows)]
    return "\n\n".join([*parts, " ".join(part for part in said if part)])


def _best(rows: Sequence[Row], task: str) -> float:
    values = [row.get(figure_of(task)) for row in rows if row["degradation"] == task]
    return max((value for value in values if value is not None), default=math.inf)


def _cell(rows: Sequence[Row], name: str, task: str, best: float) -> str:
    row = next((r for r in rows if r["sampler"] == name and r["degradation"] == task), None)
    found = None if row is None else row.get(figure_of(task))
    if row is None or found is None:
        return "–"
    value = f"{found:.2f}"
    value = f"**{value}**" if found == best and name not in YARDSTICKS else value
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
        f"{v.ours['degradation']} at {v.ours['nfe']} ({v.ours[v.figure]:.2f} against {v.rival[v.figure]:.2f} dB of "
        f"{v.rival['sampler']})"
        for v in found
        if v.lost
    ]
    if not lost:
        return "No other row is better than the default at as many evaluations."
    return f"Others are better than the default for {'; '.join(lost)}; for the rest it is the best row."


def _few_steps(rows: Sequence[Row]) -> str:
    """Whether draws in the most evaluations that were asked for come to those of the yardstick."""
    far = [row for row in rows if row["sampler"] in YARDSTICKS]
    return " ".join(part for name in FEW for part in [_reached(rows, far, name)] if part)


def _reached(rows: Sequence[Row], far: Sequence[Row], name: str) -> str:
    """Of one row: the degradations for which it comes to the yardstick, and those for which it does not."""
    said: dict[bool, list[str]] = {True: [], False: []}
    calls = (0, 0)
    for mark in far:
        task, figure = mark["degradation"], figure_of(mark["degradation"])
        few = [r for r in rows if r["degradation"] == task and r["sampler"] == name and r["nfe"] <= mark["nfe"]]
        near = max(few, key=lambda row: row["nfe"], default=None)
        if near is not None and None not in (near.get(figure), mark.get(figure)):
            reached = near[figure] >= mark[figure]
            said[reached].append(f"{task} ({near[figure]:.2f} against {mark[figure]:.2f} dB)")
            calls = (near["nfe"], mark["nfe"])
    verbs = ((True, "reaches it for"), (False, "does not reach it for"))
    parts = [f"{verb} {', '.join(said[which])}" for which, verb in verbs if said[which]]
    if not parts:
        return ""
    return f"`{name}` at {calls[0]} evaluations against `ddnm` at {calls[1]}, one draw each: it {', and '.join(parts)}."


def restoration_figure(rows: Sequence[Row]) -> Any:
    """PSNR against evaluations, one panel a degradation; a grey line is the best classical way; or None."""
    panels, drawn = [], []
    for task in dict.fromkeys(row["degradation"] for row in rows):
        here, figure = [row for row in rows if row["degradation"] == task], figure_of(task)
        classical = [row[figure] for row in here if row["origin"] == "classical" and row.get(figure) is not None]
        panels.append(Panel(figure, task, False, max(classical, default=None), {"degradation": task}))
    for row in rows:
        if row["origin"] != "classical":
            name = row["method"] if row["sampler"] in YARDSTICKS else row["sampler"]
            origin = "diffusers" if row["origin"] == "deepinv" else row["origin"]
            drawn.append({**row, "sampler": name, "origin": origin})
    caption = (
        "PSNR, dB: of the luma, of the colours for colorize. Solid: fewstep's own, dotted: published, dashed: deepinv; "
        "grey: best without a network"
    )
    return panels_figure(drawn, panels, caption)


def restoration_plots(rows: Sequence[Row], folder: str | Path, stem: str = "quality") -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``; raises ImportError without matplotlib."""
    return write_figure(restoration_figure(rows), folder, stem)
