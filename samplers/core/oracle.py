"""Exact denoisers: what a perfect network would say when the data follow a known law.

They serve tests, benchmarks and documentation: any process, any prediction type, float64 if asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .process import EDM, Linear, Node, Process


def _as_prediction(process: Process, node: Node, x: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """The network output that stands for this x0: solves ``x0 = a x + b p`` for p."""
    form: Linear = process.x0(node)
    if form.of_output == 0:  # sigma = 0: the sample is the data, and eps ~ sigma * score has gone
        if process.prediction == "sample" or isinstance(process, EDM):
            raise ValueError("this network is never called on clean data")
        form, x0 = process.eps(node), torch.zeros_like(x)
    return (x0 - form.of_sample * x) / form.of_output


@dataclass(frozen=True)
class Oracle:
    """Posterior mean of a Gaussian mixture, E[x0 | x], as a network of the given process would predict it.

    p(x0) = sum_k w_k N(mu_k, s_k^2 I): one component is a Gaussian, s = 0 a finite data set, anything else a mixture.
    At x = alpha x0 + sigma eps component k has the variance v_k = alpha^2 s_k^2 + sigma^2, and

        E[x0 | x] = sum_k r_k (mu_k + alpha s_k^2 (x - alpha mu_k) / v_k),   r_k ~ w_k N(x; alpha mu_k, v_k I).

    Attributes:
        process: says the marginals and the prediction type.
        means: (K, D) flattened means.
        scales: (K,) standard deviations s_k >= 0, or (K, D) for diagonal covariances.
        weights: (K,) positive, sum 1.
    """

    process: Process
    means: torch.Tensor
    scales: torch.Tensor
    weights: torch.Tensor

    def posterior_mean(self, x: torch.Tensor, node: Node) -> torch.Tensor:
        """E[x0 | x] for x of shape (B, ...) with D entries a sample."""
        flat = x.reshape(len(x), 1, -1)
        means = self.means.to(x)
        scales = self.scales.to(x)
        square = (scales if scales.ndim == 2 else scales[:, None]).square()  # (K, D or 1)
        variance = node.alpha**2 * square + node.sigma**2
        off = flat - node.alpha * means  # (B, K, D)
        log_r = -0.5 * (off.square() / variance + variance.log()).sum(-1) + self.weights.to(x).log()
        r = torch.softmax(log_r, dim=1)
        mean = means + node.alpha * square / variance * off
        return (r[..., None] * mean).sum(1).reshape(x.shape)

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        """What the network predicts for its input `x` at `timestep`."""
        node = self.process.at(timestep)
        x = x / self.process.input_scale(node)
        return _as_prediction(self.process, node, x, self.posterior_mean(x, node))


def gaussian(process: Process, mean: torch.Tensor, scale: torch.Tensor | float) -> Oracle:
    """Data from N(mean, diag(scale^2)); mean (D,), scale a number or (D,)."""
    scale = torch.as_tensor(scale, dtype=mean.dtype)
    return Oracle(process, mean[None], scale.reshape(1, -1) if scale.ndim else scale.reshape(1), torch.ones(1))


def mixture(
    process: Process, means: torch.Tensor, scales: torch.Tensor | float, weights: Sequence[float] | None = None
) -> Oracle:
    """Data from a Gaussian mixture; means (K, D), scales a number, (K,) or (K, D), weights uniform unless given."""
    scales = torch.as_tensor(scales, dtype=means.dtype).expand(len(means)) if not torch.is_tensor(scales) else scales
    w = (
        torch.full((len(means),), 1 / len(means), dtype=torch.float64)
        if weights is None
        else torch.tensor(weights, dtype=torch.float64)
    )
    if len(w) != len(means) or not (w > 0).all() or not math.isclose(float(w.sum()), 1, rel_tol=1e-9):
        raise ValueError("the weights of a mixture must be positive, sum to 1 and be as many as its means")
    return Oracle(process, means, scales, w)


def finite(process: Process, data: torch.Tensor) -> Oracle:
    """Data from a finite set, each picture equally likely; data (K, ...)."""
    return mixture(process, data.reshape(len(data), -1), 0.0)
