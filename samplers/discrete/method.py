"""What a token method is: frozen hyper-parameters, a plan of network calls, and the law of each token's next value.

A method never draws. It turns the model's law at some tokens (`Rows`) into a `Jump`; `stepping.advance` draws, keeps
what the next call needs, and is the same for all methods. A plan is made for the whole run, in float64 on the host.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, check_fields
from .ctmc import MaskedProcess, TokenProcess, UniformProcess
from .grid import TokenGrid
from .kernels import Jump

REN_2025 = Reference(
    "ren2025fast",
    "Ren, Y. and Chen, H. and Zhu, Y. and Guo, W. and Chen, Y. and Rotskoff, G. M. and Tao, M. and Ying, L.",
    "Fast Solvers for Discrete Diffusion Models: Theory and Applications of High-Order Algorithms",
    2025,
    "2502.00234",
    "NeurIPS",
)
BESNIER_2025 = Reference(
    "besnier2025halton",
    "Besnier, V. and Chen, M. and Hurych, D. and Valle, E. and Cord, M.",
    "Halton Scheduler for Masked Generative Image Transformer",
    2025,
    "2503.17076",
    "ICLR",
)
LOU_2024 = Reference(
    "lou2024discrete",
    "Lou, A. and Meng, C. and Ermon, S.",
    "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution",
    2024,
    "2310.16834",
    "ICML",
)


@dataclass(frozen=True)
class Rows:
    """The model's law at R tokens, as one call of the network gave it.

    Attributes:
        p: denoiser p(v | x, i), (R, V) float64.
        tokens: value of the token at that call, (R,).
        time: t of the call.
        open: whether the token could move at that call, (R,); a revealed token of a masked sequence cannot.
    """

    p: torch.Tensor
    tokens: torch.Tensor
    time: float
    open: torch.Tensor


@dataclass(frozen=True)
class Call:
    """One network call and the draw after it.

    Attributes:
        kind: ``"single"``, ``"predictor"``, ``"corrector"`` of the method; ``"conditional"``, the exact one-token
            conditional whatever the method; ``"fill"``, which reveals all that is left.
        time: t at which the network is called.
        to: t of the sample after the draw.
        start, end: t of the whole step that the call belongs to.
        left: calls of the run from this one on.
        extra: over-weights by lag, of multistep methods.
    """

    kind: str
    time: float
    to: float
    start: float
    end: float
    left: int = 1
    extra: tuple[float, ...] = ()


@dataclass(frozen=True)
class TokenPlan:
    """The calls of one run."""

    method: TokenMethod
    process: TokenProcess
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class TokenMethod(ABC):
    """A solver for discrete diffusion; its fields are its hyper-parameters."""

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[str]
    references: ClassVar[tuple[Reference, ...]]
    stages: ClassVar[int] = 1  #: network calls a step
    restarts: ClassVar[bool] = False  #: whether the corrector starts from the sample before the predictor

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abstractmethod
    def order(self) -> int:
        """Order of the law's error in the step, where no extrapolated rate is clamped; 0: no convergence."""

    @property
    def memory(self) -> int:
        """Predictions of earlier calls that a call may read."""
        return self.stages - 1

    @property
    def reveal(self) -> str:
        """Who is revealed at a call: ``"independent"`` tokens, ``"balanced"`` numbers, or ``"spread"`` places."""
        return "independent"

    def fills(self, process: TokenProcess) -> bool:
        """Whether a run of this method leaves masks that one more call has to fill."""
        return False

    def check(self, process: TokenProcess) -> None:  # noqa: B027
        """Refuse a process that the method is not made for, with a sentence."""

    def between(self, process: TokenProcess, start: float, end: float) -> float:
        """Time rho of the second stage of a step."""
        raise NotImplementedError

    def chance(self, process: TokenProcess, call: Call) -> float | None:
        """Probability that a token is revealed, where it does not depend on the prediction; None if it does."""
        return None

    def finish(self, process: TokenProcess, calls: list[Call]) -> list[Call]:
        """Add coefficients that need the whole run."""
        return calls

    @abstractmethod
    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        """Law of the next value of each row.

        Args:
            process: forward process.
            call: which call of the plan.
            now: what this call said.
            past: what the earlier call said that the method combines with it, same rows; None at the first.
            beta: over-weight of each row, (R,), of methods that extrapolate by a number that varies.
        """

    def plan(
        self,
        process: TokenProcess,
        grid: TokenGrid | None = None,
        *,
        steps: int | None = None,
        calls: int | None = None,
    ) -> TokenPlan:
        """Lay out a run of so many steps, or of exactly so many network calls.

        Args:
            process: forward process.
            grid: where steps begin and end; by default uniform in t for masks, quadratic in sigma for uniform noise.
            steps: number of steps; a step of a two-stage method is two calls, and methods in rate form add one at the
                end that fills what is left.
            calls: number of network calls in all; what does not divide becomes one step with the exact one-token
                conditional, at the end.
        """
        self.check(process)
        grid = grid or TokenGrid()
        if (steps is None) == (calls is None):
            raise ValueError("give either the number of steps or the number of network calls")
        number = steps if calls is None else calls
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(
                f"the number of {'steps' if calls is None else 'calls'} must be at least 1, got {number!r}"
            )
        fill = self.fills(process)
        grid = grid.resolved(process, ends_at_zero=not fill)
        first = grid.time(0.0, process)
        lone = isinstance(process, UniformProcess) and math.isinf(process.clock(first))
        if calls is None:
            widths = [1] * number
            kinds = ["conditional" if lone and k == 0 else "own" for k in range(number)]
        else:
            left = number - fill - lone
            widths = [1] * lone + [self.stages] * (left // self.stages) + [1] * (left % self.stages)
            kinds = ["conditional"] * lone + ["own"] * (left // self.stages) + ["conditional"] * (left % self.stages)
        total = sum(widths)
        edges = [grid.time(sum(widths[:k]) / total, process) for k in range(len(widths) + 1)] if total else [first]
        planned: list[Call] = []
        for kind, s, e in zip(kinds, edges[:-1], edges[1:], strict=True):
            if kind == "conditional":
                planned.append(Call("conditional", s, e, s, e))
            elif self.stages == 1:
                planned.append(Call("single", s, e, s, e))
            else:
                rho = self.between(process, s, e)
                planned += [Call("predictor", s, rho, s, e), Call("corrector", rho, e, s, e)]
        if fill:
            planned.append(Call("fill", edges[-1], 0.0, edges[-1], 0.0))
        planned = [dataclasses.replace(c, left=len(planned) - k) for k, c in enumerate(planned)]
        return TokenPlan(self, process, tuple(self.finish(process, planned)))


def interval_chance(process: MaskedProcess, start: float, end: float) -> float:
    """(m_s - m_e) / m_s: probability that a token masked at `start` is revealed by `end`, exactly."""
    m = process.ratio(start)
    return 1.0 if m <= 0 else min(max((m - process.ratio(end)) / m, 0.0), 1.0)


def length(process: TokenProcess, start: float, end: float) -> float:
    """Length of an interval in the clock of the rates."""
    return process.clock(start) - process.clock(end)


def closed(rates: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Rates with none on tokens that could not move, and none on a token's own value."""
    return torch.where(rows.open[:, None], rates, 0.0)
