"""The mathematics of the cache: weights, the guard, the history, and which calls are made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BarycentricInterpolator

from fewstep.samplers.cache import ABCacheConfig, Branch, History, guarded_weights, lagrange_weights, planned_mask


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_one_uniform_step_ahead_has_the_binomial_weights(order):
    expected = [(-1) ** j * math.comb(order, j + 1) for j in range(order)]
    assert lagrange_weights([-float(j) for j in range(order)], 1.0) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("interval", "ahead", "order", "expected"),
    [
        (2, 1, 2, (3 / 2, -1 / 2)),
        (2, 1, 3, (15 / 8, -5 / 4, 3 / 8)),
        (2, 1, 4, (35 / 16, -35 / 16, 21 / 16, -5 / 16)),
        (3, 1, 2, (4 / 3, -1 / 3)),
        (3, 2, 2, (5 / 3, -2 / 3)),
        (3, 1, 3, (14 / 9, -7 / 9, 2 / 9)),
        (3, 2, 3, (20 / 9, -16 / 9, 5 / 9)),
    ],
)
def test_regular_windows_have_the_worked_weights(interval, ahead, order, expected):
    nodes = [float(-interval * j) for j in range(order)]
    assert lagrange_weights(nodes, float(ahead)) == pytest.approx(expected, rel=1e-14)
    assert guarded_weights(nodes, float(ahead), "auto") == pytest.approx(expected, rel=1e-14)


def test_weights_sum_to_one_and_agree_with_scipy():
    generator = np.random.default_rng(0)
    for _ in range(50):
        count = int(generator.integers(2, 5))
        nodes = np.sort(generator.uniform(0, 10, count))[::-1]
        target = float(nodes[0] + generator.uniform(0.1, 2))
        values = generator.normal(size=count)
        weights = lagrange_weights(nodes.tolist(), target)
        assert sum(weights) == pytest.approx(1, abs=1e-9)
        expected = float(BarycentricInterpolator(nodes, values)(target))
        assert float(np.dot(weights, values)) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_nodes_must_differ():
    with pytest.raises(ValueError, match="must differ"):
        lagrange_weights([1.0, 1.0], 2.0)


def test_the_guard_forbids_to_look_further_than_one_spacing():
    assert lagrange_weights([0.0, -1.0, -2.0], 5.0) == pytest.approx([21, -35, 15])
    assert guarded_weights([0.0, -1.0, -2.0], 5.0, "auto") == [1.0]
    assert guarded_weights([0.0, -1.0, -2.0], 5.0, None) == pytest.approx([21, -35, 15])
    assert guarded_weights([0.0, -1.0, -2.0], 5.0, 11.0) == pytest.approx([6, -5])
    for order in (2, 3, 4):  # one spacing ahead reaches the limit and stays below it, thirds or not
        nodes = [-j / 3 for j in range(order)]
        assert len(guarded_weights(nodes, 1 / 3, "auto")) == order


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("places", [[0, 1, 2, 3, 6, 9, 12], [0.0, 0.7, 1.9, 2.2, 5.1, 7.7]])
def test_a_polynomial_below_the_order_is_extrapolated_exactly(order, places):
    coefficients = np.random.default_rng(order).normal(size=order)
    history = History(order, torch.float64)
    for place in places:
        history.push(0, place, [torch.tensor(np.polyval(coefficients, place), dtype=torch.float64)])
    target = places[-1] + 1.3
    (value,) = history.predict(0, target, None)
    assert float(value) == pytest.approx(np.polyval(coefficients, target), rel=1e-11, abs=1e-11)


def test_coordinates_that_repeat_or_are_missing_give_way_to_the_index():
    for places in ((5.0, 5.0), (5.0, None)):
        history = History(2, torch.float64)
        for index, place in enumerate(places):
            history.push(index, place, [torch.tensor(float(index), dtype=torch.float64)])
        assert float(history.predict(3, 4.0, None)[0]) == pytest.approx(3.0)


def test_order_one_repeats_the_last_output_bit_for_bit():
    history = History(1, torch.float32)
    for index in range(3):
        last = torch.randn(7, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(index))
        history.push(index, None, [last])
    assert torch.equal(history.predict(9, None, "auto")[0].bfloat16(), last)


def test_the_history_holds_order_copies_and_no_more():
    history = History(3, torch.float32)
    output = torch.zeros(5, 4, dtype=torch.bfloat16)
    for index in range(9):
        history.push(index, None, [output])
        output += 1  # a pipeline may write to what it was given
    kept = list(history.tensors())
    assert [float(t[0, 0]) for t in kept] == [8, 7, 6]
    assert sum(t.numel() * t.element_size() for t in kept) == 3 * 20 * 4


def test_sums_of_large_weights_are_made_in_float32():
    exact = [torch.randn(1000, generator=torch.Generator().manual_seed(i)) + 3 for i in range(4)]
    history = History(4, torch.float32)
    for index, value in enumerate(exact):
        history.push(index, None, [value.bfloat16()])
    weights = lagrange_weights([3.0, 2.0, 1.0, 0.0], 4.0)
    rounded = [value.bfloat16().double() for value in reversed(exact)]
    expected = sum(w * v for w, v in zip(weights, rounded, strict=True))
    assert torch.allclose(history.predict(4, None, None)[0].double(), expected, atol=1e-5)


CASES = [(50, 5, 0, t, r) for t, r in ((2, 27), (3, 20), (4, 16), (6, 12))] + [(30, 5, 3, 3, 15), (20, 4, 1, 5, 8)]


@pytest.mark.parametrize(("calls", "warmup", "tail", "interval", "real"), CASES)
def test_real_calls_are_as_many_as_the_formula_says(calls, warmup, tail, interval, real):
    config = ABCacheConfig(interval=interval, warmup_steps=warmup, tail_steps=tail)
    mask = planned_mask(config, calls)
    assert sum(mask) == real == warmup + (calls - tail - warmup) // interval + tail
    assert all(mask[:warmup])
    assert all(mask[calls - tail :])
    middle = [i for i, made in enumerate(mask[: calls - tail]) if made and i >= warmup]
    assert middle == list(range(warmup - 1 + interval, calls - tail, interval))


def test_interval_one_makes_every_call():
    assert all(planned_mask(ABCacheConfig(interval=1), 40))


def test_a_mask_takes_the_place_of_warmup_interval_and_tail():
    flags = [True, True, False, True, False, False, True]
    indices = [i for i, made in enumerate(flags) if made]
    for mask in (flags, indices, torch.tensor(flags), lambda i: flags[i]):
        assert planned_mask(ABCacheConfig(compute_mask=mask), len(flags)) == flags
    assert planned_mask(ABCacheConfig(compute_mask=flags), 9) == [*flags, True, True]
    assert planned_mask(ABCacheConfig(compute_mask=[3]), 4) == [True, False, False, True]  # something to start from


def test_without_the_number_of_calls_there_is_no_tail():
    branch = Branch(ABCacheConfig(interval=2, warmup_steps=2, tail_steps=2), None)
    made = []
    for _ in range(9):
        made.append(branch.advance())
        if made[-1]:
            branch.push([torch.zeros(1)])
    assert made == [True, True, False, True, False, True, False, True, False]


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("interval", [3, 4, 5, 6])
def test_errors_do_not_grow_from_window_to_window(order, interval):
    """x' = -x with 50 Euler steps: a history that took predictions for outputs would blow up."""
    branch = Branch(ABCacheConfig(order=order, interval=interval, warmup_steps=4, tail_steps=0), 50)
    x = y = torch.ones(1, dtype=torch.float64)
    for _ in range(50):
        y = y - 0.1 * y
        if branch.advance():
            slope = -x
            branch.push([slope])
        else:
            (slope,) = branch.predict()
        x = x + 0.1 * slope
        assert abs(float(x - y)) < 0.1
