"""A declared order is a tested order: slopes of local and global errors against closed-form solutions."""

from __future__ import annotations

import math

import pytest

from fewstep.samplers import GHVB, AdamsBashforth, HeavyBall, Nesterov
from problems import METHODS, PROCESSES, call_grid, error, exact_path, grid, name_of, slope, solve


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_global_order_with_accurate_starting_values(method, kind):
    """Exact samples are given over the first third: a momentum method's memory of its start fades meanwhile."""
    process = PROCESSES[kind]()
    spacing = "equal" if method.spec.order_needs == "equal steps" else "smooth"
    counts = [96, 192, 384]
    errors = []
    for n in counts:
        points = grid(process, kind, n, spacing)
        errors.append(error(solve(method, process, points, n // 3 * method.spec.calls), points))
    found = slope(errors, counts)
    # in one dimension LML has nothing to turn, and automatic momentum leaves stable steps as they are
    most = math.inf if method.name == "lml" or "auto" in str(method) else method.spec.order + 0.25
    assert method.spec.order - 0.25 < found < most


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_local_error_is_one_order_higher(method, kind):
    process = PROCESSES[kind]()
    spacing = "equal" if method.spec.order_needs == "equal steps" else "smooth"
    counts = [96, 192, 384]
    errors = []
    for n in counts:
        points = grid(process, kind, n, spacing)
        at = n // 2 * method.spec.calls
        there = at + method.spec.calls
        errors.append(error(solve(method, process, points, at, there), call_grid(method, process, points), there))
    found = slope(errors, counts)
    assert found > method.spec.order + 1 - 0.25


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_global_order_from_its_own_start(method, kind):
    process = PROCESSES[kind]()
    spacing = "equal" if method.spec.order_needs == "equal steps" else "smooth"
    counts = [96, 192, 384]
    errors = [
        error(solve(method, process, points), points) for points in (grid(process, kind, n, spacing) for n in counts)
    ]
    assert slope(errors, counts) > method.spec.order_from_start - 0.25


@pytest.mark.parametrize(
    "method", [AdamsBashforth(order=3), AdamsBashforth(order=4), GHVB(momentum=2.5), GHVB(momentum=3.8)]
)
def test_fixed_weights_are_second_order_on_unequal_steps(method):
    """The specification's warning, and why `variable` and `moment-matched` weights exist."""
    process = PROCESSES["vp"]()
    counts = [192, 384, 768]
    errors = []
    for n in counts:
        points = grid(process, "vp", n, "smooth")
        errors.append(error(solve(method, process, points, n // 3), points))
    assert slope(errors, counts) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize(
    ("method", "ratio"),
    [
        (HeavyBall(order=2, damping=0.9), 2 * 0.1 / 0.9),
        (HeavyBall(order=2, damping=0.8), 0.5),
        (HeavyBall(order=2, damping=0.5), 2.0),
        (Nesterov(order=2, damping=0.9), 2 * 0.01 / 0.9),
        (Nesterov(order=2, damping=0.5), 1.0),
    ],
    ids=["hb.9", "hb.8", "hb.5", "nt.9", "nt.5"],
)
def test_first_order_error_constants_of_momentum(method, ratio):
    """Error over Euler's error tends to 2 (1 - beta) / beta for heavy ball, 2 (1 - beta)^2 / beta for Nesterov."""
    process = PROCESSES["edm"]()
    n = 2000
    points = grid(process, "edm", n, "equal")
    end = exact_path(points)[-1]
    euler = (solve(AdamsBashforth(order=1), process, points, n // 4) - end).abs()
    ours = (solve(method, process, points, n // 4) - end).abs()
    assert float((ours / euler).median()) == pytest.approx(ratio, rel=0.05, abs=0.01)
