"""Tau-leaping: rates frozen over the step, Poisson events, one draw a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .ctmc import MaskedProcess, TokenProcess
from .kernels import KERNELS, Jump
from .method import Call, Rows, TokenMethod, closed, length

CAMPBELL_2022 = Reference(
    "campbell2022continuous",
    "Campbell, A. and Benton, J. and De Bortoli, V. and Rainforth, T. and Deligiannidis, G. and Doucet, A.",
    "A Continuous Time Framework for Discrete Denoising Models",
    2022,
    "2205.14987",
    "NeurIPS",
)


@dataclass(frozen=True)
class TauLeaping(TokenMethod):
    """Events of channel v ~ Poisson(Delta mu_s(v | x)), all channels at once; `conflict` settles two on one token.

    First order. On masks a share of them is left at the end, which one more call fills.

    References: Gillespie 2001; Campbell et al. 2022 (arXiv 2205.14987).
    """

    conflict: str = option("any", "Which of two events on one token counts.", choices=tuple(KERNELS))

    name: ClassVar[str] = "tau-leaping"
    summary: ClassVar[str] = "frozen rates, first order"
    formula: ClassVar[str] = "k_v ~ Poisson(Δ μ_s(v | x))"
    references: ClassVar[tuple[Reference, ...]] = (CAMPBELL_2022,)

    @property
    def order(self) -> int:
        return 1

    def fills(self, process: TokenProcess) -> bool:
        return isinstance(process, MaskedProcess)

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        rates = closed(process.rates(now.p, now.tokens, call.start), now)
        return KERNELS[self.conflict](length(process, call.start, call.end) * rates)
