"""From the intensities of a token's events to one draw: the conflict kernels of tau-leaping, and the draw itself.

Tau-leaping lets every channel v ("set the token to v") fire Poisson(lambda_v) times; a token can take one value only.
With Lambda = sum_v lambda_v the three ways to settle the conflict are

    any     P(v) = (1 - exp(-Lambda)) lambda_v / Lambda     one of the fired events at random; keeps order two
    reject  P(v) = exp(-Lambda) lambda_v                    no change if two or more fired (the published code family)
    euler   P(v) = lambda_v / max(1, Lambda)                first order in Lambda

each of which is one Bernoulli draw ("does it move?") and one categorical draw ("where to?"). Both are made in float64:
a float32 Gumbel or uniform draw cannot see probabilities below about 6e-8, which acts like a lower temperature, the
more so the more steps are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Jump:
    """Law of the next value of some tokens.

    Attributes:
        move: probability that the token takes a new value, (R,) float64.
        to: weights of the values it may take, not normalised, (R, V) float64; a row without mass does not move.
    """

    move: torch.Tensor
    to: torch.Tensor

    def probabilities(self) -> torch.Tensor:
        """P(token is set to v), (R, V); what is missing to 1 stays."""
        mass = self.to.sum(-1, keepdim=True)
        return torch.where(mass > 0, self.move[:, None] * self.to / mass.clamp_min(1e-300), 0.0)


def pick_any(rates: torch.Tensor) -> Jump:
    """One of the fired events, chosen at random; `rates` are lambda_v, (R, V)."""
    return Jump(-torch.expm1(-rates.sum(-1)), rates)


def reject(rates: torch.Tensor) -> Jump:
    """The event, if exactly one fired."""
    total = rates.sum(-1)
    return Jump(total * torch.exp(-total), rates)


def euler(rates: torch.Tensor) -> Jump:
    """lambda_v as a probability; above a sum of one it is normalised."""
    return Jump(rates.sum(-1).clamp_max(1.0), rates)


KERNELS: dict[str, Callable[[torch.Tensor], Jump]] = {"any": pick_any, "reject": reject, "euler": euler}


def categorical(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The value at which the cumulative weight passes `uniform` times the total: exact inversion in float64.

    Args:
        weights: non-negative, (R, V) float64, every row with some mass.
        uniform: in [0, 1), (R,) float64.

    Returns:
        Values, (R,) int64; a value without weight is never returned.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_max(weights.shape[-1] - 1)
