"""Weights of multistep formulas: Adams-Bashforth, exponential Adams, moment matching. Float64, on the host.

All weights come as ``[w_0, w_1, ...]``: w_0 for the slope just evaluated, w_j for the one j evaluations earlier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: gamma_i of the Adams-Bashforth formulas: slope used = sum_i gamma_i Delta^i f (Hairer, Norsett, Wanner, III.1).
GAMMA = (1.0, 1 / 2, 5 / 12, 3 / 8, 251 / 720, 95 / 288, 19087 / 60480)


def from_differences(coefficients: Sequence[float]) -> list[float]:
    """Weights on f_n, f_{n-1}, ... of ``sum_i c_i Delta^i f_n``, where Delta f_n = f_n - f_{n-1}."""
    weights = [0.0] * len(coefficients)
    for i, c in enumerate(coefficients):
        for j in range(i + 1):
            weights[j] += c * (-1) ** j * math.comb(i, j)
    return weights


def adams_bashforth(order: int) -> list[float]:
    """Fixed Adams-Bashforth weights, order 1 to 6, for equal steps; they sum to 1."""
    if not 1 <= order <= 6:
        raise ValueError(f"Adams-Bashforth weights exist here for orders 1 to 6, got {order}")
    return from_differences(GAMMA[:order])


def integrate_interpolant(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights w with ``sum_j w_j u_j^m = moments[m]``: exact for every polynomial through the nodes u.

    With moments 1 / (m + 1) this integrates over the unit interval; nodes must differ.
    """
    u = np.asarray(nodes, dtype=np.float64)
    matrix = np.vander(u, len(u), increasing=True).T
    return np.linalg.solve(matrix, np.asarray(moments, dtype=np.float64)).tolist()


def adams_bashforth_variable(times: Sequence[float], to: float) -> list[float]:
    """Adams-Bashforth weights for unequal steps, as shares of the step ``to - times[0]``; they sum to 1.

    `times` are those of f_n, f_{n-1}, ...; the interpolating polynomial is integrated from times[0] to `to`. This is
    the formula of k-diffusion's LMS and of DEIS rho-AB (Zhang and Chen 2023, arXiv 2204.13902).
    """
    step = to - times[0]
    nodes = [(t - times[0]) / step for t in times]
    return integrate_interpolant(nodes, [1 / (m + 1) for m in range(len(nodes))])


def phi(order: int, z: float) -> float:
    """phi_k(z) = integral over [0, 1] of e^{(1 - s) z} s^{k-1} / (k-1)! ds; phi_0 = e^z, phi_k(0) = 1/k!.

    The recurrence phi_{k+1} = (phi_k - 1/k!) / z loses digits for small z, where the series is summed instead.
    """
    if order == 0:
        return math.exp(z)
    if abs(z) < 1.0:
        term, total, j = 1 / math.factorial(order), 0.0, 0
        while abs(term) > 1e-18 and j < 60:
            total += term
            j += 1
            term *= z / (order + j)
        return total
    value = math.expm1(z) / z
    for k in range(1, order):
        value = (value - 1 / math.factorial(k)) / z
    return value


def exponential_adams(lambdas: Sequence[float], to: float, sign: int) -> list[float]:
    """Weights of exponential Adams over one step in half log-SNR.

    The weights integrate the interpolant P of m_n, m_{n-1}, ... at ``lambdas`` exactly:
    ``sum_j w_j m_{n-j} = integral_0^h e^{sign (h - s)} P(lambda_n + s) ds`` with h = to - lambdas[0].
    sign = -1 is the data form (DPM-Solver++, Lu et al. 2022, arXiv 2211.01095), sign = +1 the noise form
    (DPM-Solver, arXiv 2206.00927). They sum to h phi_1(sign h).
    """
    h = to - lambdas[0]
    nodes = [(value - lambdas[0]) / h for value in lambdas]
    moments = [math.factorial(m) * h * phi(m + 1, sign * h) for m in range(len(nodes))]
    return integrate_interpolant(nodes, moments)


def ghvb_differences(order: int, momentum: float) -> list[float]:
    """Coefficients c_i of GHVB: slope used = (1/beta) sum_i c_i Delta^i v, c_i = beta gamma_i + (1 - beta) gamma_{i-1}.

    Wizadwongsa et al. 2023 (arXiv 2307.11118); beta is `momentum`, 1 gives Adams-Bashforth.
    """
    return [momentum] + [momentum * GAMMA[i] + (1 - momentum) * GAMMA[i - 1] for i in range(1, order)]


def moment_matched(moments: Sequence[Sequence[float]]) -> list[float]:
    """Weights w on velocities v_n, v_{n-1}, ... that integrate polynomials exactly over the step, on any grid.

    ``moments[l][m]`` is what the velocity at lag l holds of the monomial u^m, u = (tau - tau_n) / step. Solves
    ``sum_l w_l moments[l][m] = 1 / (m + 1)``.
    """
    k = len(moments)
    matrix = np.array([[moments[lag][m] for lag in range(k)] for m in range(k)], dtype=np.float64)
    return np.linalg.solve(matrix, [1 / (m + 1) for m in range(k)]).tolist()
