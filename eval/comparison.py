"""Who wins at each number of network calls, by how much: our best sampler against the best of diffusers'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Winner:
    """The best of either side at a guidance and a number of calls, by one column where less is better.

    Attributes:
        guidance, nfe, column: what is compared.
        ours, theirs: the best rows; None where a side has none.
    """

    guidance: float
    nfe: int
    column: str
    ours: Row | None
    theirs: Row | None

    @property
    def ratio(self) -> float:
        """Ours over theirs: below 1 we win. NaN where a side is missing."""
        if self.ours is None or self.theirs is None:
            return math.nan
        ours, theirs = self.ours[self.column], self.theirs[self.column]
        return ours / theirs if theirs > 0 else (1.0 if ours == theirs else math.inf)

    @property
    def lost(self) -> bool:
        """Whether theirs is better, by more than what three digits show."""
        return self.ratio > 1.0005

    def sentence(self) -> str:
        """In words."""
        sides = [
            f"{row['sampler']} ({row['grid']}) {row[self.column]:.3g}"
            for row in (self.ours, self.theirs)
            if row is not None
        ]
        ratio = "" if math.isnan(self.ratio) else f", ratio {self.ratio:.2f}"
        return f"{self.column} " + " against ".join(sides) + ratio


def best_row(rows: Sequence[Row], column: str) -> Row | None:
    """The row with the smallest finite value of a column; of a run with calls above the number asked for, none."""
    found = [row for row in rows if row.get(column) is not None and (row.get("calls") or 0) <= row["nfe"]]
    return min(found, key=lambda row: row[column], default=None)


def winners(rows: Sequence[Row], column: str, only: str | None = None) -> list[Winner]:
    """One `Winner` a guidance and number of calls, in order.

    Args:
        rows: of a benchmark.
        column: ``rmse``, ``fid``, ...: less is better.
        only: ``default`` or ``best`` to look at these grids alone.
    """
    rows = [row for row in rows if only is None or row.get(only)]
    made = []
    for guidance, nfe in sorted({(row["guidance"], row["nfe"]) for row in rows}):
        here = [row for row in rows if (row["guidance"], row["nfe"]) == (guidance, nfe)]
        ours = best_row([row for row in here if row["family"] == "fewstep"], column)
        theirs = best_row([row for row in here if row["family"] == "diffusers"], column)
        if ours is not None or theirs is not None:
            made.append(Winner(guidance, nfe, column, ours, theirs))
    return made
