"""Uniformization: exact simulation of the reverse chain by thinning, at a random number of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..core.method import Reference
from .ctmc import MaskedProcess, TokenProcess, UniformProcess
from .draws import Draws
from .kernels import categorical
from .stepping import Reading

CHEN_2024 = Reference(
    "chen2024convergence",
    "Chen, H. and Ying, L.",
    "Convergence Analysis of Discrete Diffusion Model: Exact Implementation through Uniformization",
    2024,
    "2402.08095",
)


@dataclass(frozen=True)
class Uniformization:
    """In each block of time: candidate events at a rate above the chain's total rate; each is taken with probability
    total rate / bound, and then sets one token, both by the rates of that moment.

        masked    bound = masks left * c(block end)
        uniform   bound = L (1 + (alpha + gamma) / (gamma V)) at the block's end, which no exact ratios exceed

    Exact for an exact model. The number of calls is that of the candidates: random, a different one for every
    sequence, and growing without bound as `end` goes to 0. What is left at `end` is drawn from the last call's
    conditional.

    Attributes:
        blocks: number of blocks, equal in log clock.
        end: t at which the events stop, above 0.

    Reference: Chen, Ying 2024 (arXiv 2402.08095).
    """

    blocks: int = 16
    end: float = 1e-3

    name = "uniformization"
    summary = "exact, at a random number of calls"
    references = (CHEN_2024,)

    def __post_init__(self) -> None:
        if self.blocks < 1 or not 0 < self.end < 1:
            raise ValueError(
                f"uniformization needs at least one block and an end in (0, 1), got {self.blocks!r} and {self.end!r}"
            )

    def sample(
        self,
        denoiser: Callable[[torch.Tensor, float], torch.Tensor],
        process: TokenProcess,
        tokens: torch.Tensor,
        generator: torch.Generator | None = None,
        reading: Reading | None = None,
        start: float = 1.0,
        values: int | None = None,
    ) -> tuple[torch.Tensor, int]:
        """One sequence.

        Args:
            denoiser: (tokens (1, L), t) -> output (1, L, V).
            process: forward process, of finite clock at `start`.
            tokens: noise, (L,) int64, or a sequence with some masks.
            generator: source of random numbers.
            reading: what the output means.
            start: t of `tokens`.
            values: number of values a token has; needed for uniform noise.

        Returns:
            The sequence, (L,), and the number of calls.
        """
        reading, draws, x, calls = reading or Reading(), Draws(generator), tokens.clone(), 0
        first, last = process.clock(start), process.clock(self.end)
        if values is None and isinstance(process, UniformProcess):
            raise ValueError("uniformization of uniform noise needs the number of values a token has")
        if not last < first < float("inf"):
            raise ValueError("uniformization needs a finite time span; choose another start or schedule")

        def uniform() -> float:
            return draws.uniform(1, 1, x.device).item()

        def law(t: float, rows: torch.Tensor) -> torch.Tensor:
            output = denoiser(x[None], t)[0, rows]
            return process.probabilities(output, x[rows], t, reading.prediction, reading.shaping)

        edges = [first * (last / first) ** (k / self.blocks) for k in range(self.blocks + 1)]
        for s, e in pairwise(edges):
            rows = self._rows(process, x)
            if not rows.numel():
                break
            bound = self._bound(process, e, len(rows), values or 1)
            clock = s
            while True:
                clock += torch.log1p(torch.tensor(-uniform(), dtype=torch.float64)).item() / bound  # downwards
                if clock <= e:
                    break
                rows = self._rows(process, x)
                if not rows.numel():
                    break
                t = self._time(process, clock)
                rates = process.rates(law(t, rows), x[rows], t)
                calls += 1
                total = rates.sum().item()
                if total > bound * (1 + 1e-9):
                    raise ValueError(
                        f"a total rate of {total:g} exceeds the bound {bound:g}: the model's output is no law of this "
                        "process"
                    )
                if uniform() * bound < total:
                    place = categorical(rates.reshape(1, -1), draws.uniform(1, 1, x.device)[0])[0]
                    x[rows[place // rates.shape[1]]] = place % rates.shape[1]
        rows = self._rows(process, x)
        if rows.numel():
            p = law(self.end, rows)
            if isinstance(process, UniformProcess):
                p = process.conditional(p, x[rows], self.end, 0.0)
            calls += 1
            x[rows] = categorical(p, draws.uniform(1, len(rows), x.device)[0])
        return x, calls

    def _rows(self, process: TokenProcess, x: torch.Tensor) -> torch.Tensor:
        if isinstance(process, MaskedProcess):
            return (x == process.mask).nonzero()[:, 0]
        return torch.arange(len(x), device=x.device)

    def _time(self, process: TokenProcess, clock: float) -> float:
        if isinstance(process, MaskedProcess):
            return clock
        return process.schedule.time(-torch.expm1(torch.tensor(-clock, dtype=torch.float64)).item())

    def _bound(self, process: TokenProcess, clock: float, rows: int, values: int) -> float:
        t = self._time(process, clock)
        if isinstance(process, MaskedProcess):
            return rows * process.schedule.rate(t)
        alpha = process.schedule.alpha(t)
        gamma = (1 - alpha) / values
        return rows * (1 + (alpha + gamma) / (gamma * values))
