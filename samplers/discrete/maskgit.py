"""Confidence decoding (MaskGIT): keep the candidates the model is surest of. Biased; a rival to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core.method import Reference
from .ctmc import MaskedProcess
from .draws import Draws
from .kernels import categorical
from .stepping import Reading

CHANG_2022 = Reference(
    "chang2022maskgit",
    "Chang, H. and Zhang, H. and Jiang, L. and Liu, C. and Freeman, W. T.",
    "MaskGIT: Masked Generative Image Transformer",
    2022,
    "2202.04200",
    "CVPR",
)


@dataclass(frozen=True)
class ConfidenceDecoding:
    """At call k a candidate v ~ p for every mask; the surest by log p(v) + T_k Gumbel stay, so that the masks follow
    the schedule; the others are masked again. T_k falls linearly from `temperature` to 0.

    Not consistent: choosing by the value drawn prefers likely values, and its law does not tend to the model's as
    calls are added, not even at one token a call. Diffusers' `AmusedScheduler` is this method.

    Attributes:
        temperature: of the choice, at the first call; 0 or above.

    Reference: Chang et al. 2022 (arXiv 2202.04200).
    """

    temperature: float = 4.5

    name = "maskgit"
    summary = "surest candidates first; biased towards likely sequences"
    references = (CHANG_2022,)

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be 0 or above, got {self.temperature!r}")

    def sample(
        self,
        denoiser: Callable[[torch.Tensor, float], torch.Tensor],
        process: MaskedProcess,
        tokens: torch.Tensor,
        calls: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        reading: Reading | None = None,
    ) -> tuple[torch.Tensor, int]:
        """Fill the masks of `tokens`, (B, L), in `calls` calls; returns the tokens and the number of calls."""
        reading, draws, x = reading or Reading(), Draws(generator), tokens.clone()
        batch, length = x.shape
        start = (x == process.mask).sum(1)
        made = 0
        for k in range(calls):
            masked = x == process.mask
            if not masked.any():
                break
            t = process.schedule.time(process.schedule.mask_ratio(1 - k / calls))
            rows = masked.reshape(-1).nonzero()[:, 0]
            output = denoiser(x, t).reshape(batch * length, -1)[rows]
            made += 1
            p = process.probabilities(output, x.reshape(-1)[rows], t, reading.prediction, reading.shaping)
            u = draws.uniform(batch, 2 * length, x.device)
            value = categorical(p, u[:, :length].reshape(-1)[rows])
            gumbel = -torch.log(-torch.log(u[:, length:].reshape(-1)[rows].clamp_min(1e-300)))
            sure = torch.log(p.gather(-1, value[:, None])[:, 0]) + self.temperature * (1 - (k + 1) / calls) * gumbel
            ratio = process.ratio(1 - (k + 1) / calls) / process.ratio(1.0)
            left = torch.minimum((start * ratio).floor(), masked.sum(1) - 1)
            score = torch.full((batch * length,), math.inf, dtype=torch.float64, device=x.device)
            score[rows] = sure
            rank = torch.where(masked, score.reshape(batch, length), math.inf).argsort(1).argsort(1)
            flat = x.reshape(-1).clone()
            flat[rows] = value
            x = torch.where(masked & (rank < left[:, None]), process.mask, flat.reshape(batch, length))
        return x, made
