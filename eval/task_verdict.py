"""Our default against the best rival at each number of network calls, with the noise of the seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

#: The token sampler that is recommended; the others of this package are options.
DEFAULT = "token-adams-bashforth"


@dataclass(frozen=True)
class Verdict:
    """A comparison at one number of calls by a column where less is better.

    Attributes:
        ours, rival: rows; the rival is the best that is not of this package's own making.
        column: what is compared.
        seeds: of both.
        floor: what the column cannot truly be below; an estimate without bias of something that is 0 lies below it
            half of the time, and is no better for it.
    """

    ours: Row
    rival: Row
    column: str
    seeds: int
    floor: float = -math.inf

    @property
    def nfe(self) -> int:
        return int(self.ours["nfe"])

    @property
    def noise(self) -> float:
        """Two standard errors of the difference of the means; 0 with one seed, where it is not known."""
        squares = sum(float(row.get(f"{self.column}_spread") or 0.0) ** 2 for row in (self.ours, self.rival))
        return 2 * math.sqrt(squares / self.seeds)

    @property
    def difference(self) -> float:
        """Ours less theirs: below 0 we are better."""
        ours, rival = (max(float(row[self.column]), self.floor) for row in (self.ours, self.rival))
        return ours - rival

    @property
    def lost(self) -> bool:
        return self.difference > self.noise

    @property
    def won(self) -> bool:
        return self.difference < -self.noise

    def sentence(self) -> str:
        """In words."""
        word = "worse" if self.lost else "better" if self.won else "within the noise"
        name = self.column.replace("_", " ").replace("fid", "FID").replace("kid", "KID")
        return (
            f"{self.nfe} calls: {name} {self.ours['sampler']} {self.ours[self.column]:.3g} against "
            f"{self.rival['sampler']} {self.rival[self.column]:.3g}, {word} (noise {self.noise:.2g})"
        )


def compare(
    rows: Sequence[Row],
    column: str,
    seeds: int,
    counts: Callable[[Row], bool] = lambda row: True,
    floor: float = -math.inf,
) -> list[Verdict]:
    """A verdict a number of calls, where there are both sides.

    Args:
        rows: of one guidance scale.
        column: less is better.
        seeds: of every row.
        counts: whether a rival may be looked at.
        floor: what the column cannot truly be below.
    """
    made = []
    measured = [row for row in rows if row.get(column) is not None]
    for nfe in sorted({row["nfe"] for row in measured}):
        here = [row for row in measured if row["nfe"] == nfe]
        ours = next((row for row in here if row["sampler"] == DEFAULT), None)
        rivals = [row for row in here if row["origin"] != "own" and (row.get("calls") or 0) <= nfe and counts(row)]
        if ours is not None and rivals:
            made.append(Verdict(ours, min(rivals, key=lambda row: row[column]), column, seeds, floor))
    return made


def summary(verdicts: Sequence[Verdict], what: str) -> str:
    """Where we lose, or that we do not, in one sentence."""
    if not verdicts:
        return ""
    lost = [f"{v.nfe} calls ({v.ours[v.column]:.3g} against {v.rival[v.column]:.3g} of {v.rival['sampler']})"
            for v in verdicts if v.lost]  # fmt: skip
    won = [str(v.nfe) for v in verdicts if v.won]
    said = f"By {what} `{DEFAULT}` is better than the best rival at {_list(won)} calls" if won else ""
    if lost:
        return (f"{said}, and worse at " if said else f"By {what} `{DEFAULT}` is worse than the best rival at ") + (
            f"{_list(lost)}."
        )
    if len(won) == len(verdicts):
        return f"{said}."
    rest = "at no number of calls is it worse, beyond the noise of the seeds."
    return f"{said}; {rest}" if said else f"By {what} {rest.replace('it', f'`{DEFAULT}`', 1)}"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
