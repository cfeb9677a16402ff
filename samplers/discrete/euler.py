"""Euler's method for discrete diffusion: first-order transition probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference
from .ctmc import MaskedProcess, TokenProcess
from .kernels import Jump, euler
from .method import LOU_2024, Call, Rows, TokenMethod, closed, length


@dataclass(frozen=True)
class Euler(TokenMethod):
    """P(token becomes v) = Delta mu(v), the rest stays; a sum above one is normalised.

    First order. On masks with the log-linear or linear schedule it is Tweedie tau-leaping; with others it may leave
    masks, which one more call fills.

    Reference: Lou, Meng, Ermon 2024 (arXiv 2310.16834).
    """

    name: ClassVar[str] = "euler"
    summary: ClassVar[str] = "rates as probabilities, first order"
    formula: ClassVar[str] = "P(v) = Δ μ_s(v | x)"
    references: ClassVar[tuple[Reference, ...]] = (LOU_2024,)

    @property
    def order(self) -> int:
        return 1

    def fills(self, process: TokenProcess) -> bool:
        return isinstance(process, MaskedProcess)

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        rates = closed(process.rates(now.p, now.tokens, call.start), now)
        return euler(length(process, call.start, call.end) * rates)
