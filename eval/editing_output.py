"""What a comparison of ways of editing says: table, verdicts, plots, the README's part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .benchmark_output import shown
from .editing_contenders import PUBLISHED, ours_at
from .task_plots import Panel, panels_figure, write_figure

Row = Mapping[str, Any]

_SHOWN = (
    "reached", "kept", "both", "structure", "psnr_outside", "ssim_outside", "clip", "clip_edited",
    "reconstruction_psnr", "latent_error", "calls", "seconds",
)  # fmt: skip
#: The claim about the round trip: FireFlow at so many steps against Euler at so many and more.
FEW, MANY = 8, 32


@dataclass(frozen=True)
class EditVerdict:
    """Our setting against all others at one number of calls.

    Attributes:
        ours: its row.
        above: rows that do better than it both by what is reached and by what is kept.
        beyond: those of them that do so by more than two standard errors of the difference in either.
        best: the other row with the most edits that reach the target and keep the rest.
    """

    ours: Row
    above: tuple[Row, ...]
    beyond: tuple[Row, ...]
    best: Row

    @property
    def noise(self) -> float:
        """Two standard errors of the difference in ``both``."""
        return two_errors(self.ours, self.best, "both")

    def sentence(self) -> str:
        """In words."""
        ours, best = self.ours, self.best
        apart = ours["both"] - best["both"]
        word = "within the noise" if abs(apart) <= self.noise else "better" if apart > 0 else "worse"
        if not self.above:
            beaten = "no other reaches more and keeps more"
        else:
            names = ", ".join(f"{row['sampler']} ({_pair(row)})" for row in self.above)
            beaten = f"{names} reaches more and keeps more"
            beaten += "" if self.beyond else ", within the noise"
        return (
            f"{ours['nfe']} calls: {ours['sampler']} reaches the target and keeps the rest in "
            f"{_percent(ours['both'])} ({_pair(ours)}), the best other, {best['sampler']}, in {_percent(best['both'])} "
            f"({_pair(best)}), {word}; {beaten}"
        )


def two_errors(first: Row, second: Row, column: str) -> float:
    """Two standard errors of the difference of two shares, as if the pictures were not the same: rather too large."""
    squares = sum(row[column] * (1 - row[column]) / row["samples"] for row in (first, second))
    return 2 * math.sqrt(squares)


def verdicts(rows: Sequence[Row]) -> list[EditVerdict]:
    """A verdict a number of calls, where our setting and others were measured."""
    edits = [row for row in rows if row["part"] == "edit" and row.get("both") is not None]
    made = []
    for nfe in sorted({row["nfe"] for row in edits}):
        here = [row for row in edits if row["nfe"] == nfe]
        ours = next((row for row in here if row["sampler"] == ours_at(nfe)), None)
        others = [row for row in here if row["origin"] != "own"]
        if ours is None or not others:
            continue
        above = tuple(row for row in others if row["reached"] > ours["reached"] and row["kept"] > ours["kept"])
        beyond = tuple(
            row for row in above
            if any(row[column] - ours[column] > two_errors(row, ours, column) for column in ("reached", "kept"))
        )  # fmt: skip
        made.append(EditVerdict(ours, above, beyond, max(others, key=lambda row: row["both"])))
    return made


def trip_sentence(rows: Sequence[Row]) -> str:
    """What the round trips say of FireFlow at few steps against Euler at many; nothing if they were not measured."""
    trips = [row for row in rows if row["part"] == "round trip" and row.get("latent_error") is not None]
    few = next((row for row in trips if row["sampler"] == "fireflow" and row["steps"] == FEW), None)
    many = [row for row in trips if row["sampler"] == "euler" and row["steps"] >= MANY]
    if few is None or not many:
        return ""
    reached = [row for row in many if few["latent_error"] <= row["latent_error"]]
    against = "; ".join(f"Euler, {row['steps']} steps ({row['nfe']} calls): {_trip(row)}" for row in many)
    said = f"Round trip of FireFlow at {FEW} steps ({few['nfe']} calls): {_trip(few)}; {against}."
    if not reached:
        return f"{said} FireFlow at {FEW} steps does not reach Euler at {MANY} steps."
    best = max(row["steps"] for row in reached)
    return f"{said} FireFlow at {FEW} steps returns the latents as well as Euler at {best} steps or better."


def sentences(rows: Sequence[Row]) -> list[str]:
    """The verdicts in words."""
    trip = trip_sentence(rows)
    return [*(verdict.sentence() for verdict in verdicts(rows)), *([trip] if trip else [])]


def markdown_table(rows: Sequence[Row]) -> str:
    """All rows with all figures that were measured; published ones below those of the same name."""
    columns = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    head = ["part", "calls asked for", "method", "steps", *columns]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        cells = [row["part"], str(row["nfe"]), row["sampler"], str(row["steps"])]
        lines.append("| " + " | ".join(cells + [shown(row.get(name)) for name in columns]) + " |")
        if row["part"] == "edit" and row["sampler"] in PUBLISHED and row.get("both") is None:
            lines.append("| " + " | ".join(_published(row["sampler"], columns)) + " |")
    return "\n".join(lines) + "\n"


def _published(name: str, columns: Sequence[str]) -> list[str]:
    structure, psnr, ssim, clip, edited, calls = PUBLISHED[name]
    known = {
        "structure": structure / 1000,
        "psnr_outside": psnr,
        "ssim_outside": ssim / 100,
        "clip": clip,
        "clip_edited": edited,
        "calls": calls,
    }
    return ["published", str(calls), name, name.split()[-2], *(shown(known.get(column)) for column in columns)]


def editing_table(report: Mapping[str, Any]) -> str:
    """Two tables and what they say: edits by method and number of calls, and round trips."""
    rows = report["rows"]
    edits = [row for row in rows if row["part"] == "edit"]
    budgets = sorted({row["nfe"] for row in edits})
    lines = [
        "| method | " + " | ".join(f"{nfe} calls" for nfe in budgets) + f" | at {budgets[-1]} calls |",
        "| --- |" + " --- |" * (len(budgets) + 1),
    ]
    at = {(row["sampler"], row["nfe"]): row for row in edits}
    for name in dict.fromkeys(row["sampler"] for row in edits):
        cells = [_cell(at.get((name, nfe))) for nfe in budgets]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {_rest(at.get((name, budgets[-1])))} |")
    parts = ["\n".join(lines)]
    trips = [row for row in rows if row["part"] == "round trip"]
    if trips:
        parts.append(_trips(trips))
    said = [*(f"{verdict.sentence()}." for verdict in verdicts(rows)), trip_sentence(rows)]
    parts.append(" ".join(sentence for sentence in said if sentence))
    return "\n\n".join(part for part in parts if part)


def _trips(rows: Sequence[Row]) -> str:
    count = max(row["samples"] for row in rows)
    lines = [
        f"Round trips with the same prompt, {count} pictures:",
        "",
        "| solver | steps | calls | PSNR | latents off by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row.get("latent_error") is None:
            continue
        lines.append(
            f"| {row['sampler']} | {row['steps']} | {row['nfe']} | {row['reconstruction_psnr']:.2f} dB "
            f"| {100 * row['latent_error']:.2g} % |"
        )
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None or row.get("both") is None:
        return "–"
    return f"{_percent(row['both'])} ({_pair(row)})"


def _rest(row: Row | None) -> str:
    if row is None or row.get("psnr_outside") is None:
        return "–"
    back = row.get("reconstruction_psnr")
    said = f"{1000 * row['structure']:.1f}; {row['psnr_outside']:.1f} dB, {row['ssim_outside']:.2f}"
    return said + ("; –" if back is None else f"; {back:.1f} dB")


def _pair(row: Row) -> str:
    return f"{_percent(row['reached'])}, {_percent(row['kept'])}"


def _trip(row: Row) -> str:
    return f"{row['reconstruction_psnr']:.2f} dB, latents off by {100 * row['latent_error']:.2g} %"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def editing_figure(rows: Sequence[Row]) -> Any:
    """What is reached, what is kept, and the rest of the picture, against calls; or None."""
    edits = [row for row in rows if row["part"] == "edit"]
    panels = [
        Panel("both", "target reached and rest kept"),
        Panel("reached", "target reached"),
        Panel("kept", "rest kept"),
        Panel("psnr_outside", "PSNR outside the edit, dB"),
    ]
    caption = "solid: the recommended setting, dotted: the best others; calls of inversion and edit"
    return panels_figure(edits, panels, caption, best_named(edits))


def best_named(rows: Sequence[Row], most: int = 3) -> list[str]:
    """The recommended settings, and the others that are among the best few at some number of calls, by both shares."""
    named = {row["sampler"] for row in rows if row["origin"] == "own"}
    for nfe in {row["nfe"] for row in rows}:
        here = [row for row in rows if row["nfe"] == nfe and row["origin"] != "own" and row.get("both") is not None]
        named |= {row["sampler"] for row in sorted(here, key=lambda row: -row["both"])[:most]}
    return [name for name in dict.fromkeys(row["sampler"] for row in rows) if name in named]


def editing_plots(rows: Sequence[Row], folder: str | Path, stem: str = "editing") -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``; raises ImportError without matplotlib."""
    return write_figure(editing_figure(rows), folder, stem)
