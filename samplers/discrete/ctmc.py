"""Continuous-time Markov chains over tokens: masked and uniform noise, and their reverse rates from a model.

A model is a denoiser p(v | x, i), the law of the clean token i given the whole noisy sequence x, or something that can
be turned into one. Everything here acts on rows: one token each, float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from .schedules import LinearMask, LogLinear, NoiseSchedule

#: What the last axis of a model's output may mean.
PREDICTIONS = ("logits", "log_probs", "score", "loo_logits")


@dataclass(frozen=True)
class Shaping:
    """Temperature and nucleus, applied to the model's law before a solver sees it, alike at every call.

    Attributes:
        temperature: divides the logits, above 0. A temperature of 0 has no meaning for a Markov chain.
        top_p: keep the most likely values up to this mass, in (0, 1]; None keeps all.
        top_k: keep so many of the most likely values; None keeps all.
    """

    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not math.isfinite(self.temperature):
            raise ValueError(
                f"temperature must be above 0, got {self.temperature!r}; a Markov chain has no greedy limit, use "
                "confidence decoding (diffusers' AmusedScheduler or BlockRefinementScheduler) for that"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] or None, got {self.top_p!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 or None, got {self.top_k!r}")

    def __call__(self, log_p: torch.Tensor) -> torch.Tensor:
        if self.top_k is not None and self.top_k < log_p.shape[-1]:
            least = log_p.topk(self.top_k, dim=-1).values[:, -1:]
            log_p = log_p.masked_fill(log_p < least, -math.inf)
        p = torch.softmax(log_p / self.temperature, dim=-1)
        if self.top_p is None or self.top_p >= 1:
            return p
        ordered, index = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(p).scatter(-1, index, torch.where(before < self.top_p, ordered, 0.0))
        return kept / kept.sum(-1, keepdim=True)


@dataclass(frozen=True)
class TokenProcess(ABC):
    """A forward process on tokens. `clock` is the variable in which rates are counted and solvers walk."""

    schedule: NoiseSchedule

    @abstractmethod
    def clock(self, t: float) -> float:
        """Time in which `rates` are per unit: t for masks, sigma(t) for uniform noise."""

    @abstractmethod
    def rates(self, p: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        """mu(v | x): intensity of "set the token to v" per unit of clock, (R, V); 0 for its present value."""

    @abstractmethod
    def probabilities(
        self, output: torch.Tensor, tokens: torch.Tensor, t: float, prediction: str, shaping: Shaping
    ) -> torch.Tensor:
        """p(v | x) from a model's output, (R, V) float64."""


def _checked(output: torch.Tensor) -> torch.Tensor:
    output = output.to(torch.float64)
    if torch.isnan(output).any() or (output == math.inf).any():
        raise ValueError("the model's output holds NaN or infinity; nothing can be drawn from it")
    return output


@dataclass(frozen=True)
class MaskedProcess(TokenProcess):
    """Absorbing noise: a token is clean or the mask. Only masks have events, mu(v) = c(t) p(v).

    Attributes:
        mask: id of the mask token; it may lie outside of the model's columns.
    """

    mask: int = field(kw_only=True)
    schedule: NoiseSchedule = field(default_factory=LogLinear)

    def __post_init__(self) -> None:
        if isinstance(self.mask, bool) or not isinstance(self.mask, int) or self.mask < 0:
            raise ValueError(f"mask_token_id must be a token's number, 0 or above, got {self.mask!r}")

    def clock(self, t: float) -> float:
        return t

    def ratio(self, t: float) -> float:
        """Mask ratio; the data end counts as free of masks in every schedule."""
        return 0.0 if t <= 0 else self.schedule.mask_ratio(t)

    def rates(self, p: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        return self.schedule.rate(t) * p

    def probabilities(
        self, output: torch.Tensor, tokens: torch.Tensor, t: float, prediction: str, shaping: Shaping
    ) -> torch.Tensor:
        output = _checked(output)
        if prediction == "score":  # score = alpha / (1 - alpha) p: the factor goes with the normalisation
            output = torch.log(output.clamp_min(0.0))
        if self.mask < output.shape[-1]:
            output = output.index_fill(-1, torch.tensor([self.mask], device=output.device), -math.inf)
        if torch.isneginf(output.amax(-1)).any():
            raise ValueError("the model gives no probability to any value but the mask at some position")
        return shaping(output)


@dataclass(frozen=True)
class UniformProcess(TokenProcess):
    """Uniform noise: at rate sigma'(t) a token is redrawn uniformly over the V values. Clock: sigma.

    With gamma = (1 - alpha) / V and a the present value, the ratios S_b = p_t(x with b) / p_t(x) are

        S_b = p(b) (alpha + gamma) / gamma + p(a) gamma / (alpha + gamma) + 1 - p(a) - p(b),      mu(b) = S_b / V.
    """

    schedule: NoiseSchedule = field(default_factory=LinearMask)

    def clock(self, t: float) -> float:
        return self.schedule.sigma(t) if t > 0 else 0.0

    def _alpha_gamma(self, t: float, values: int) -> tuple[float, float]:
        alpha = self.schedule.alpha(t)
        return alpha, (1.0 - alpha) / values

    def ratios(self, p: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        """S, (R, V), with 1 at the present value."""
        alpha, gamma = self._alpha_gamma(t, p.shape[-1])
        if gamma <= 0:
            raise ValueError("uniform noise has no finite reverse rate at t = 0; the last call must lie before it")
        own = p.gather(-1, tokens[:, None])
        s = p * ((alpha + gamma) / gamma) + own * (gamma / (alpha + gamma)) + 1.0 - own - p
        return s.scatter(-1, tokens[:, None], 1.0)

    def rates(self, p: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        return self.ratios(p, tokens, t).scatter(-1, tokens[:, None], 0.0) / p.shape[-1]

    def leave_one_out(self, p: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        """q(v | all the other tokens): p without what the token's own noisy value says, (R, V)."""
        alpha, gamma = self._alpha_gamma(t, p.shape[-1])
        q = p * torch.ones_like(p).scatter(-1, tokens[:, None], gamma / (alpha + gamma))
        return q / q.sum(-1, keepdim=True)

    def observed(self, q: torch.Tensor, tokens: torch.Tensor, t: float) -> torch.Tensor:
        """p from q: the inverse of `leave_one_out`; weights q need not be normalised."""
        alpha, gamma = self._alpha_gamma(t, q.shape[-1])
        p = q * torch.ones_like(q).scatter(-1, tokens[:, None], (alpha + gamma) / gamma)
        return p / p.sum(-1, keepdim=True)

    def conditional(self, p: torch.Tensor, tokens: torch.Tensor, t: float, to: float) -> torch.Tensor:
        """Law of the token at time `to` < t given all of x_t: exact for one token, (R, V).

        sum_u p(u) q(x_to = v | x_t = a, x_0 = u), q proportional to (E 1[v = a] + (1 - E) / V) (alpha' 1[v = u] +
        gamma') with E = alpha / alpha'; well defined at pure noise, where alpha = 0.
        """
        values = p.shape[-1]
        alpha, gamma = self._alpha_gamma(t, values)
        alpha_to, gamma_to = (1.0, 0.0) if to <= 0 else self._alpha_gamma(to, values)
        keep = alpha / alpha_to
        own = tokens[:, None]
        seen = torch.full_like(p, gamma).scatter(-1, own, alpha + gamma)  # q(x_t = a | x_0 = u)
        share = p / seen
        back = torch.full_like(p, (1.0 - keep) / values).scatter(-1, own, keep + (1.0 - keep) / values)
        return back * (alpha_to * share + gamma_to * share.sum(-1, keepdim=True))

    def probabilities(
        self, output: torch.Tensor, tokens: torch.Tensor, t: float, prediction: str, shaping: Shaping
    ) -> torch.Tensor:
        output = _checked(output)
        own = tokens[:, None]
        if bool((tokens < 0).any()) or bool((tokens >= output.shape[-1]).any()):
            raise ValueError(
                f"a token lies outside of the model's {output.shape[-1]} values; uniform noise needs one column a value"
            )
        if prediction in ("logits", "log_probs"):
            return shaping(output)
        alpha, gamma = self._alpha_gamma(t, output.shape[-1])
        if prediction == "score":  # x_t's own law given the others is alpha q + gamma, q the leave-one-out denoiser
            ratios = output.clamp_min(0.0).scatter(-1, own, 1.0)
            if alpha <= 0:
                raise ValueError("concrete scores say nothing at pure noise; start below t = 1")
            law = ratios / ratios.sum(-1, keepdim=True)
            output = torch.log(((law - gamma) / alpha).clamp_min(0.0))
        seen = torch.full_like(output, math.log(gamma) if gamma > 0 else -math.inf)
        return shaping(output + seen.scatter(-1, own, math.log(alpha + gamma)))
