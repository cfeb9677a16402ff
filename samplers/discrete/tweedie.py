"""Tweedie tau-leaping: every token from its exact one-token conditional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..core.method import Reference, option
from .ctmc import MaskedProcess, TokenProcess, UniformProcess
from .kernels import Jump
from .method import LOU_2024, Call, Rows, TokenMethod, interval_chance


def conditional(process: TokenProcess, call: Call, rows: Rows, to: float) -> Jump:
    """Law of each token at `to` given the whole sequence at `call.time`, the other tokens held."""
    if isinstance(process, UniformProcess):
        return Jump(torch.ones_like(rows.p[:, 0]), process.conditional(rows.p, rows.tokens, call.time, to))
    assert isinstance(process, MaskedProcess)
    return Jump(torch.full_like(rows.p[:, 0], interval_chance(process, call.time, to)), rows.p)


@dataclass(frozen=True)
class Tweedie(TokenMethod):
    """Tweedie tau-leaping, also called the analytic sampler.

        masked    reveal with probability (m_s - m_e) / m_s, value from p
        uniform   x_e^i from its exact law given all of x_s

    Exact for one token; first order in the step through the dependence between tokens that are drawn together. On masks
    with the log-linear schedule it is Euler's method, on any grid.

    ``reveals="balanced"`` (this package's own) reveals the expected number of tokens, rounded at random, at places
    chosen at random, ``"spread"`` at places far apart (`spread_order`). With as many calls as tokens either is one
    token a call, and the law of the model exactly.

    References: Lou, Meng, Ermon 2024 (arXiv 2310.16834); Ou et al. 2024 (arXiv 2406.03736).
    """

    reveals: str = option(
        "independent",
        "Places revealed together: independent, balanced in number, or far apart as well.",
        choices=("independent", "balanced", "spread"),
    )

    name: ClassVar[str] = "tweedie"
    summary: ClassVar[str] = "the exact conditional of each token, first order"
    formula: ClassVar[str] = "x_e^i ~ q(x_e^i | x_s)"
    references: ClassVar[tuple[Reference, ...]] = (LOU_2024,)

    @property
    def order(self) -> int:
        return 1

    @property
    def reveal(self) -> str:
        return self.reveals

    def chance(self, process: TokenProcess, call: Call) -> float | None:
        return interval_chance(process, call.start, call.end) if isinstance(process, MaskedProcess) else None

    def jump(
        self, process: TokenProcess, call: Call, now: Rows, past: Rows | None, beta: torch.Tensor | None = None
    ) -> Jump:
        return conditional(process, call, now, call.end)
