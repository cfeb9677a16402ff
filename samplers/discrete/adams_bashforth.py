"""Adams-Bashforth for tokens: second order in law at one network call a step, and hard to clamp.

Tokens revealed at one call are drawn independently of each other. theta-trapezoidal makes up for it by drawing every
second call from 2 p* - p, which is negative, and clamped, wherever one token halves the odds of another. Here every
call shares the burden, and it is spread over a longer stretch where the dependence is strong.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .ctmc import MaskedProcess, TokenProcess, UniformProcess
from .kernels import Jump
from .method import BESNIER_2025, REN_2025, Call, Rows, TokenMethod, interval_chance, length


@dataclass(frozen=True)
class TokenAdamsBashforth(TokenMethod):
    """Two-step Adams-Bashforth in law, with a lag (this package's own).

        masked    reveal with probability (m_s - m_e) / m_s, value from (p_n + b (p_n - p_{n-w}))_+, normalised
        uniform   q_n = p(v | all other tokens); x_e from its exact conditional under (q_n + b (q_n - q_{n-w}))_+

    Pairs of tokens revealed at one call (share D_n = f_n^2 / 2 of all pairs, f_n the fraction revealed) miss their
    dependence; pairs of this call with the last w calls (share f_n (f_{n-1} + ... + f_{n-w})) get 1 + b times theirs.
    The excess pays for the loss: half of D_n and half of D_{n-1}, all of them at the two ends of the run. On equal
    steps b = 1/2 for w = 1, which is Adams-Bashforth, 3/2 p_n - 1/2 p_{n-1}; b = 1/(2 w) in general.

    Nothing is clamped where no value's odds fall below b / (1 + b) = 1 / (2 w + 1) of what they were: 1/3, 1/5, 1/7
    for w = 1, 2, 3, against 1/2 for theta-trapezoidal. A longer lag has the larger error constant where dependence is
    mild. ``lag="auto"`` starts at 1 and lengthens it, for one sequence at a time, whenever the last call lost more
    than `tolerance` of its mass to the clamp: that costs no call, and does not look at the tokens about to be drawn.

    ``reveals="spread"`` reveals balanced numbers of tokens at places far apart from each other (`spread_order`, with a
    shift of its own for every sequence), so that the dependence that a call misses is that between distant tokens. Both
    sides of the account are then weighted by 1 / distance^2 (`closeness`) for each pair. ``"balanced"`` takes the
    places at random and counts pairs, ``"independent"`` has random numbers of tokens as well. With as many calls as
    masks the first two reveal one token a call: exact.

    On uniform noise one token is exact at any number of steps, as with `Tweedie`, and the lag of ``"auto"`` stays 1.

    Memory: the model's output at the tokens still masked, `max_lag` times (`lag` times if it is a number).
    """

    lag: int | str = option(
        "auto", "Calls to look back: 1 for mild dependence, 2 or 3 for strong.", low=1, high=16, words=("auto",)
    )
    max_lag: int = option(4, "Longest lag that 'auto' may take.", low=1, high=16)
    tolerance: float = option(0.01, "Clamped mass a token above which 'auto' lengthens the lag.", low=0, high=1)
    reveals: str = option(
        "spread",
        "Places revealed together: far apart, balanced in number, or independent.",
        choices=("spread", "balanced", "independent"),
    )

    name: ClassVar[str] = "token-adams-bashforth"
    summary: ClassVar[str] = "one call a step, second order, steady under strong dependence"
    formula: ClassVar[str] = "q ∝ (p_n + b (p_n - p_{n-w}))_+"
    references: ClassVar[tuple[Reference, ...]] = (REN_2025, BESNIER_2025)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag != "auto" and int(self.lag) != self.lag:
            raise ValueError(f"lag must be a whole number or 'auto', got {self.lag!r}")
        if self.lag != "auto":
            object.__setattr__(self, "lag", int(self.lag))

    @property
    def order(self) -> int:
        return 2

    @property
    def memory(self) -> int:
        return self.max_lag if self.lag == "auto" else int(self.lag)

    @property
    def reveal(self) -> str:
        return self.reveals

    def chance(self, process: TokenProcess, call: Call) -> float | None:
        return interval_chance(process, call.start, call.end) if isinstance(process, MaskedProcess) else None

    def finish(self, process: TokenProcess, calls: list[Call]) -> list[Call]:
        masked = isinstance(process, MaskedProcess)
        if isinstance(process, MaskedProcess):
            f = [process.ratio(c.start) - process.ratio(c.end) for c in calls]
        else:
            f = [length(process, c.start, c.end) for c in calls]
        first = next((j for j, x in enumerate(f) if math.isfinite(x)), len(f))
        done = []
        for j, call in enumerate(calls):
            extra: list[float] = []
            if j > first:
                if masked:
                    owed = (1 if j == 1 else 0.5) * f[j - 1] ** 2 / 2
                    owed += (1 if j == len(f) - 1 else 0.5) * f[j] ** 2 / 2
                else:  # the law varies with time by itself: the extrapolation is to the middle of the step
                    owed = f[j] ** 2 / 2 + (f[first] ** 2 / 2 if j == first + 1 else 0.0)
                for w in range(1, min(self.memory, j - first) + 1):
                    extra.append(owed / (f[j] * sum(f[j - w : j])))
            done.append(dataclasses.replace(call, extra=tuple(extra)))
        return done

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        b = None if past is None or beta is None else beta[:, None]
        if isinstance(process, MaskedProcess):
            move = torch.full_like(now.p[:, 0], interval_chance(process, call.start, call.end))
            if past is None or b is None:
                return Jump(move, now.p)
            return Jump(move, (now.p + b * (now.p - past.p)).clamp_min(0.0))
        assert isinstance(process, UniformProcess)
        p = now.p
        if past is not None and b is not None:
            q = process.leave_one_out(now.p, now.tokens, now.time)
            before = process.leave_one_out(past.p, past.tokens, past.time)
            p = process.observed((q + b * (q - before)).clamp_min(0.0), now.tokens, now.time)
        return Jump(torch.ones_like(p[:, 0]), process.conditional(p, now.tokens, call.start, call.end))
