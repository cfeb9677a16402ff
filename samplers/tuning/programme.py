"""Where to call the network: a dynamic programme over the levels of a converged trajectory."""

from __future__ import annotations

import numpy as np

from .trajectory import Trajectory


def local_errors(trajectory: Trajectory) -> np.ndarray:
    """Root mean square error of one step from the exact sample, for every pair of ends and every earlier slope.

    ``errors[h, i, j]`` belongs to the step from level i to level j (j = K: clean data) with the best two-step weights,

        x_bar_j - x_bar_i - (tau_j - tau_i) f_i  ~  w (f_h - f_i),   w by least squares over all samples and pixels,

    that is the part of the exact step that f_i and f_h cannot say; h = K stands for no earlier slope. Infinite where
    the order of the levels is wrong. All inner products come from one Gram matrix, so the B samples are read once.

    Returns:
        (K + 1, K, K + 1) float64.
    """
    count = len(trajectory.levels)
    vectors = _rows(trajectory)
    gram = vectors @ vectors.T
    gram /= vectors.shape[1]
    values, directions = np.linalg.eigh(gram)
    root = directions * np.sqrt(np.maximum(values, 0.0))  # row k has the inner products of vector k
    samples, slopes = root[: count + 1], root[count + 1 :]
    taus = trajectory.taus
    errors = np.full((count + 1, count, count + 1), np.inf)
    for i in range(count):
        rest = samples[i + 1 :] - samples[i] - (taus[i + 1 :] - taus[i])[:, None] * slopes[i]
        errors[count, i, i + 1 :] = np.sqrt((rest**2).sum(1))
        for h in range(i):
            change = slopes[h] - slopes[i]
            norm = float(change @ change)
            left = rest - np.outer(rest @ change / norm, change) if norm > 0 else rest
            errors[h, i, i + 1 :] = np.sqrt((left**2).sum(1))
    return errors


def _rows(trajectory: Trajectory) -> np.ndarray:
    """All samples, then all slopes, one a row, float64."""
    samples = trajectory.samples.flatten(1).double().cpu().numpy()
    slopes = trajectory.slopes.flatten(1).double().cpu().numpy()
    return np.concatenate([samples, slopes])


def best_levels(trajectory: Trajectory, errors: np.ndarray, calls: int, power: float = 0.5) -> list[int]:
    """Numbers of the `calls` levels that minimise the sum of local errors, the first of all included.

    An error that is made at tau reaches clean data smaller, because the flow contracts: it counts tau^-power (the last
    step as much as one to the last level). power 0 is GITS' plain sum. The state of the programme is the pair of the
    last two levels, so that two-step formulas see the spacing that they will have.
    """
    count = len(trajectory.levels)
    if not 1 <= calls <= count // 2:
        raise ValueError(f"the number of calls must be between 1 and {count // 2}, half the levels, got {calls}")
    reached = np.append(trajectory.taus[:-1], trajectory.taus[-2])  # clean data count like the last level
    weight = reached**-power
    cost = np.full((count + 1, count), np.inf)  # [earlier level, level reached]
    cost[count, 0] = 0.0
    came: list[np.ndarray] = []
    for call in range(calls):
        total = cost[:, :, None] + errors * weight
        if call < calls - 1:
            total[:, :, count] = np.inf
        else:
            total[:, :, :count] = np.inf
        came.append(total.argmin(0))
        best = total.min(0)
        cost = np.full((count + 1, count), np.inf)
        if call < calls - 1:
            cost[:count] = best[:, :count]
        else:
            ends = best[:, count]
    level = int(np.argmin(ends))
    path, onward = [level], count
    for call in range(calls - 1, 0, -1):
        before = int(came[call][level, onward])
        path.append(before)
        level, onward = before, level
    return path[::-1]
