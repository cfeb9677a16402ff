"""Times at which a discrete run calls its network."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..core.registry import nearest
from .ctmc import TokenProcess, UniformProcess

#: Names of the spacings.
SPACINGS = ("auto", "uniform", "cosine", "quadratic", "mask_ratio")


@dataclass(frozen=True)
class TokenGrid:
    """Times from `start` down to `end`, as a function of the share of the run that is done.

    Attributes:
        spacing: ``"uniform"`` in t; ``"cosine"``, t = cos(pi f / 2); ``"mask_ratio"``, uniform in m(t);
            ``"quadratic"`` in sigma, denser towards the data; ``"auto"``: quadratic for uniform noise of finite sigma,
            else uniform.
        start: first time, in (0, 1].
        end: last time; None is 0, or 1e-3 for methods in rate form on masks.
        times: one's own times, strictly decreasing, ends included; `start`, `end` and `spacing` are then unused.
    """

    spacing: str = "auto"
    start: float = 1.0
    end: float | None = None
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.spacing not in SPACINGS:
            raise ValueError(
                f"unknown time grid {self.spacing!r}{nearest(str(self.spacing), SPACINGS)} "
                f"Known are {', '.join(SPACINGS)}"
            )
        if not 0 < self.start <= 1 or (self.end is not None and not 0 <= self.end < self.start):
            raise ValueError(
                f"a run goes from t_start in (0, 1] down to t_end in [0, t_start), got {self.start!r} and {self.end!r}"
            )
        if self.times:
            falling = all(a > b for a, b in zip(self.times[:-1], self.times[1:], strict=True))
            if len(self.times) < 2 or not falling or not 0 <= self.times[-1] < self.times[0] <= 1:
                raise ValueError("a grid of one's own must be strictly decreasing, within [0, 1], at least two times")

    def resolved(self, process: TokenProcess, ends_at_zero: bool) -> TokenGrid:
        """The grid with its end and spacing decided for a process."""
        end = self.end if self.end is not None else (0.0 if ends_at_zero else 1e-3)
        spacing = self.spacing
        if spacing == "auto":
            finite = isinstance(process, UniformProcess) and math.isfinite(process.clock(self.start))
            spacing = "quadratic" if finite else "uniform"
        if spacing == "quadratic" and math.isinf(process.schedule.sigma(self.start)):
            raise ValueError("a grid quadratic in sigma needs a finite sigma at t_start; choose t_start below 1")
        return dataclasses.replace(self, end=end, spacing=spacing)

    def time(self, done: float, process: TokenProcess) -> float:
        """t when the share `done` of the run is over, in [0, 1]."""
        if self.times:
            place = done * (len(self.times) - 1)
            k = min(int(place + 1e-9), len(self.times) - 2)
            return self.times[k] + (place - k) * (self.times[k + 1] - self.times[k])
        end = self.end or 0.0
        if done <= 0:
            return self.start
        if done >= 1:
            return end
        if self.spacing == "cosine":
            return end + (self.start - end) * math.cos(math.pi * done / 2)
        if self.spacing in ("quadratic", "mask_ratio"):
            schedule = process.schedule
            if self.spacing == "mask_ratio":
                first, last = schedule.mask_ratio(self.start), schedule.mask_ratio(end) if end > 0 else 0.0
                return schedule.time(first + done * (last - first))
            first, last = math.sqrt(schedule.sigma(self.start)), math.sqrt(schedule.sigma(end)) if end > 0 else 0.0
            return schedule.time(-math.expm1(-((first + done * (last - first)) ** 2)))
        return self.start + done * (end - self.start)
