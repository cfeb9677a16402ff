"""Noise by singular direction: what the measurement already brings is not drawn again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..core.process import Node
from .operators.base import Spectrum


@dataclass(frozen=True)
class Budget:
    """Gains of one move in every singular direction, s_i > 0; with a = alpha', sigma = sigma' at the next level.

    ==========================  ============================================  ==================================
    case                        correction gain                               fresh noise
    ==========================  ============================================  ==================================
    sigma >= a sigma_y / s_i    eta_b                                         sqrt(sigma^2 - (eta_b a sigma_y / s_i)^2)
    sigma <  a sigma_y / s_i    s_i sigma sqrt(1 - eta^2) / (a sigma_y)       eta sigma
    ==========================  ============================================  ==================================

    In both rows noise let in and noise drawn add up to sigma^2: (a gain sigma_y / s_i)^2 + fresh^2 = sigma^2. No eps is
    kept there. In the null space nothing is corrected, and eta sigma n + sqrt(1 - eta^2) sigma eps is the noise.

    Attributes:
        gain: share of the correction A^+(y - A x0) that is made.
        fresh: standard deviation of fresh noise.
        active: where s_i counts as above 0.
    """

    gain: torch.Tensor
    fresh: torch.Tensor
    active: torch.Tensor


def budget(s: torch.Tensor, to: Node, sigma_y: float, eta: float, eta_b: float = 1.0, rcond: float = 1e-6) -> Budget:
    """The gains for singular values `s`, any shape.

    References: Kawar et al. 2022 (arXiv 2201.11793), section 4; Wang et al. 2023 (arXiv 2212.00490), section 3.3.
    """
    a, sigma = to.alpha, to.sigma
    active = s > rcond * s.max()
    safe = torch.where(active, s, 1.0)
    let_in = a * sigma_y / safe
    enough = sigma >= let_in
    gain = torch.full_like(s, eta_b)
    fresh = (sigma**2 - (eta_b * let_in) ** 2).clamp_min(0).sqrt()
    if sigma_y > 0:
        gain = torch.where(enough, gain, safe * sigma * math.sqrt(1 - eta**2) / (a * sigma_y))
        fresh = torch.where(enough, fresh, eta * sigma)
    return Budget(torch.where(active, gain, 0.0), torch.where(active, fresh, 0.0), active)


def corrected(spectrum: Spectrum, plan: Budget, x0: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x0 + V gain (U^T y / s - V^T x0)."""
    off = spectrum.measure(y) - spectrum.s * spectrum.analyse(x0)
    share = torch.where(plan.active, plan.gain / torch.where(plan.active, spectrum.s, 1.0), 0.0)
    return x0 + spectrum.synthesise(share * off)


def spectral_noise(
    spectrum: Spectrum, plan: Budget, sigma: float, eta: float, normal: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """The noise of one move: fresh in the measured directions, eta sigma n + sqrt(1 - eta^2) sigma eps elsewhere."""
    null = eta * sigma * normal + math.sqrt(1 - eta**2) * sigma * eps
    inner = plan.fresh * spectrum.analyse(normal) - spectrum.analyse(null)
    return null + spectrum.synthesise(torch.where(plan.active, inner, 0.0))
