"""Inverse problems whose posteriors have a closed form, in numpy alone: linear measurements of Gaussian mixtures.

For x ~ sum_k w_k N(mu_k, C_k) and y = A x + sigma_y n the posterior is the mixture of N(m_k, P_k) with

    S_k = A C_k A^T + sigma_y^2 I,  m_k = mu_k + C_k A^T S_k^{-1} (y - A mu_k),  P_k = C_k - C_k A^T S_k^{-1} A C_k,

and weights w_k N(y; A mu_k, S_k), normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Weights (K,), means (K, D), covariances (K, D, D)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def diagonal(cls, weights, means, scales) -> Mixture:
        return cls(np.asarray(weights), np.asarray(means), np.stack([np.diag(s**2) for s in np.asarray(scales)]))

    def given(self, a: np.ndarray, y: np.ndarray, sigma_y: float) -> Mixture:
        """The posterior for the matrix `a` (m, D) and one measurement y (m,)."""
        logs, means, covariances = [], [], []
        for w, mu, c in zip(self.weights, self.means, self.covariances, strict=True):
            s = a @ c @ a.T + sigma_y**2 * np.eye(len(a))
            off = y - a @ mu
            gain = np.linalg.solve(s, a @ c).T
            logs.append(np.log(w) - 0.5 * (off @ np.linalg.solve(s, off) + np.linalg.slogdet(s)[1]))
            means.append(mu + gain @ off)
            covariances.append(c - gain @ a @ c)
        weights = np.exp(np.array(logs) - max(logs))
        return Mixture(weights / weights.sum(), np.stack(means), np.stack(covariances))

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, D) samples."""
        which = rng.choice(len(self.weights), count, p=self.weights)
        roots = [np.linalg.cholesky(c + 1e-14 * np.eye(len(c))) for c in self.covariances]
        z = rng.standard_normal((count, self.means.shape[1]))
        return np.stack([self.means[k] + roots[k] @ v for k, v in zip(which, z, strict=True)])

    @property
    def mean(self) -> np.ndarray:
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        off = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances) + np.einsum("k,ki,kj->ij", self.weights, off, off)

    @property
    def spread(self) -> float:
        """Root mean square standard deviation of a coordinate."""
        return float(np.sqrt(np.trace(self.covariance) / len(self.covariance)))


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, directions: int = 128) -> float:
    """Sliced 2-Wasserstein distance of two samples (N, D) of one size, over random directions."""
    u = rng.standard_normal((directions, a.shape[1]))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    return float(np.sqrt(((np.sort(a @ u.T, 0) - np.sort(b @ u.T, 0)) ** 2).mean()))


def surely_less(first: np.ndarray, second: np.ndarray, level: float = 0.01) -> bool:
    """Whether `first` is below `second` in the mean over cases: a one-sided paired t-test.

    Args:
        first, second: one figure a case each, same cases.
        level: probability of saying so where there is no difference.
    """
    from scipy.stats import ttest_rel

    return bool(ttest_rel(first, second, alternative="less").pvalue < level)
