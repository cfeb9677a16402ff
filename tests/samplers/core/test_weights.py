"""Multistep weights against classical tables and numerical integration."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import quad

from fewstep.samplers.core.weights import (
    adams_bashforth,
    adams_bashforth_variable,
    exponential_adams,
    ghvb_differences,
    moment_matched,
    phi,
)

CLASSICAL = {
    1: ([1], 1),
    2: ([3, -1], 2),
    3: ([23, -16, 5], 12),
    4: ([55, -59, 37, -9], 24),
    5: ([1901, -2774, 2616, -1274, 251], 720),
    6: ([4277, -7923, 9982, -7298, 2877, -475], 1440),
}


@pytest.mark.parametrize(("order", "row"), CLASSICAL.items())
def test_adams_bashforth_weights_are_the_classical_ones(order, row):
    numerators, denominator = row
    assert adams_bashforth(order) == pytest.approx([n / denominator for n in numerators], rel=1e-12)


def test_adams_bashforth_beyond_six_is_refused():
    with pytest.raises(ValueError, match="orders 1 to 6"):
        adams_bashforth(7)


@pytest.mark.parametrize("order", range(1, 6))
def test_variable_weights_on_equal_steps_are_the_fixed_ones(order):
    times = [0.7 + 0.1 * j for j in range(order)]
    assert adams_bashforth_variable(times, 0.6) == pytest.approx(adams_bashforth(order), rel=1e-9)


def test_variable_weights_integrate_polynomials_exactly():
    times, to = [1.0, 1.7, 2.1, 3.5], 0.4
    weights = adams_bashforth_variable(times, to)
    for m in range(4):
        exact = (to ** (m + 1) - times[0] ** (m + 1)) / (m + 1)
        assert (to - times[0]) * sum(w * t**m for w, t in zip(weights, times, strict=True)) == pytest.approx(exact)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("z", [-30.0, -2.0, -0.999, -1e-3, 0.0, 1e-9, 0.5, 1.001, 8.0])
def test_phi_functions_are_their_integrals(order, z):
    exact, _ = quad(lambda s: math.exp((1 - s) * z) * s ** (order - 1) / math.factorial(order - 1), 0, 1, epsabs=1e-14)
    assert phi(order, z) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_exponential_weights_integrate_polynomials_exactly(sign, count):
    lambdas, to = [0.3, 0.05, -0.4, -1.1][:count], 0.8
    h = to - lambdas[0]
    weights = exponential_adams(lambdas, to, sign)
    for m in range(count):
        exact, _ = quad(lambda s, m=m: math.exp(sign * (h - s)) * (lambdas[0] + s) ** m, 0, h, epsabs=1e-14)
        assert sum(w * v**m for w, v in zip(weights, lambdas, strict=True)) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_ghvb_coefficients_are_the_published_closed_forms(beta):
    closed = [
        beta,
        (2 - beta) / 2,
        (6 - beta) / 12,
        (10 - beta) / 24,
        (270 - 19 * beta) / 720,
        (502 - 27 * beta) / 1440,
    ]
    assert ghvb_differences(6, beta) == pytest.approx(closed, rel=1e-12)


def test_moment_matching_on_raw_slopes_is_variable_adams_bashforth():
    times, to = [1.0, 1.7, 2.1], 0.4
    step = to - times[0]
    moments = [[((t - times[0]) / step) ** m for m in range(3)] for t in times]
    assert moment_matched(moments) == pytest.approx(adams_bashforth_variable(times, to))


def test_third_order_gamma_is_five_twelfths():
    """The one number that tells the corrected third order from a fit: exact in rationals."""
    integral = sum(Fraction(c) for c in (Fraction(23, 12), Fraction(-16, 12), Fraction(5, 12)))
    assert integral == 1
    assert np.isclose(ghvb_differences(3, 1.0)[2], float(Fraction(5, 12)))
