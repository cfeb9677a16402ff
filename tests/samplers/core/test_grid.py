"""Grids against diffusers' own noise levels."""

from __future__ import annotations

import math
from itertools import pairwise

import diffusers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.samplers import EDM, Flow, Grid, GridOptions, VPDiscrete, betas_of_schedule, make_grid
from fewstep.samplers.core.grid import SPACINGS

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
VP = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))

VP_CASES = [
    ({"timestep_spacing": "linspace"}, GridOptions()),
    ({"timestep_spacing": "leading", "steps_offset": 1}, GridOptions("leading", steps_offset=1)),
    ({"timestep_spacing": "trailing"}, GridOptions("trailing")),
    ({"use_karras_sigmas": True}, GridOptions("karras")),
    ({"use_exponential_sigmas": True}, GridOptions("exponential")),
    ({"use_beta_sigmas": True}, GridOptions("beta")),
    ({"use_lu_lambdas": True}, GridOptions("logsnr")),
    ({"final_sigmas_type": "sigma_min"}, GridOptions(final_sigma="sigma_min")),
    ({"lambda_min_clipped": -2.5}, GridOptions(lambda_min=-2.5)),
]


@pytest.mark.parametrize(("theirs", "ours"), VP_CASES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
def test_vp_noise_levels_are_those_of_diffusers(theirs, ours, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(**SD, **theirs)
    scheduler.set_timesteps(steps)
    points = make_grid(VP, steps, ours)
    levels = [node.ratio for node in points.nodes]
    assert np.allclose(levels, scheduler.sigmas, rtol=2e-4, atol=1e-6)
    assert np.allclose(points.timesteps, scheduler.timesteps, atol=1.0)  # diffusers rounds them


FLOW_CASES = [
    ({}, GridOptions(), None),
    ({"shift": 3.0}, GridOptions(shift=3.0), None),
    ({"use_dynamic_shifting": True}, GridOptions(dynamic_shift=True), 0.9),
    (
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        GridOptions(dynamic_shift=True, shift_type="linear"),
        2.0,
    ),
    ({"shift_terminal": 0.1}, GridOptions(shift_terminal=0.1), None),
    ({"use_karras_sigmas": True, "shift": 3.0}, GridOptions("karras", shift=3.0), None),
    ({"use_exponential_sigmas": True}, GridOptions("exponential"), None),
    ({"use_beta_sigmas": True}, GridOptions("beta"), None),
]


@pytest.mark.parametrize(("theirs", "ours", "mu"), FLOW_CASES, ids=str)
@pytest.mark.parametrize("steps", [2, 5, 28])
def test_flow_noise_levels_are_those_of_diffusers(theirs, ours, mu, steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**theirs)
    scheduler.set_timesteps(steps, mu=mu)
    points = make_grid(Flow(), steps, ours, mu=mu)
    assert np.allclose([n.sigma for n in points.nodes], scheduler.sigmas, atol=2e-7)
    assert np.allclose(points.timesteps, scheduler.timesteps, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 5, 28])
def test_flow_sigmas_of_unipc_are_those_of_diffusers(steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    scheduler.set_timesteps(steps)
    points = make_grid(Flow(), steps, GridOptions("trailing", shift=3.0, flow_end=1e-3))
    assert np.allclose([n.sigma for n in points.nodes], scheduler.sigmas, atol=2e-6)


@pytest.mark.parametrize("spacing", ["karras", "exponential", "beta", "logsnr"])
@pytest.mark.parametrize("process", [VP, EDM()], ids=["vp", "edm"])
def test_sigma_spacings_that_end_at_sigma_min_have_an_interval_for_every_call(process, spacing):
    points = make_grid(process, 6, GridOptions(spacing, final_sigma="sigma_min"))
    whole = make_grid(process, 7, GridOptions(spacing))
    assert [n.ratio for n in points.nodes] == pytest.approx([n.ratio for n in whole.nodes[:-1]])


def test_flow_sigmas_of_ones_own_are_shifted_as_in_flux():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    own = np.linspace(1, 1 / 8, 8)
    scheduler.set_timesteps(sigmas=own.tolist(), mu=1.15)
    points = make_grid(Flow(), options=GridOptions(dynamic_shift=True), sigmas=own.tolist(), mu=1.15)
    assert np.allclose([n.sigma for n in points.nodes], scheduler.sigmas, atol=2e-7)


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_edm_noise_levels_are_those_of_diffusers(schedule):
    scheduler = diffusers.EDMEulerScheduler(sigma_schedule=schedule)
    scheduler.set_timesteps(9)
    points = make_grid(EDM(), 9, GridOptions(schedule))
    assert np.allclose([n.sigma for n in points.nodes], scheduler.sigmas, rtol=1e-5)
    assert np.allclose(points.timesteps, scheduler.timesteps, atol=1e-5)


def test_logsnr_spacing_has_equal_steps_in_half_log_snr():
    for process in (VP, EDM(), Flow()):
        lambdas = [n.lambda_ for n in make_grid(process, 12, GridOptions("logsnr")).nodes[:-1]]
        steps = np.diff(lambdas)
        assert np.allclose(steps, steps[0], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50, 100, 999, 1000])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "karras", "exponential", "logsnr", "beta"])
def test_every_spacing_is_strictly_monotone_for_every_number_of_steps(steps, spacing):
    points = make_grid(VP, steps, GridOptions(spacing))
    levels = [n.ratio for n in points.nodes]
    assert points.calls == steps
    assert all(a > b for a, b in pairwise(levels))
    assert levels[-1] == 0


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 400),
    spacing=st.sampled_from(SPACINGS),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    ends=st.sampled_from(["zero", "sigma_min"]),
    shift=st.floats(0.2, 12.0),
)
def test_any_grid_is_monotone_or_refused(steps, spacing, schedule, ends, shift):
    for process in (VPDiscrete.from_betas(betas_of_schedule(schedule)), Flow(), EDM()):
        try:
            points = make_grid(process, steps, GridOptions(spacing, final_sigma=ends, shift=shift))
        except ValueError:  # the last call is at sigma_min already
            assert ends == "sigma_min"
            continue
        levels = [n.ratio for n in points.nodes]
        assert points.calls == steps
        assert all(a > b for a, b in pairwise(levels))


def test_tail_is_the_rest_of_the_run():
    points = make_grid(VP, 10)
    assert points.tail(4).nodes == points.nodes[4:]
    assert points.tail(0) is points
    with pytest.raises(ValueError, match=r"0 \.\. 9, not at 10"):
        points.tail(10)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_grid(VP, 0), "at least 1, got 0"),
        (lambda: make_grid(VP, -3), "at least 1"),
        (lambda: make_grid(VP, 2.5), "whole number"),
        (lambda: make_grid(VP, 1001), "1001 steps are more than the 1000 timesteps"),
        (lambda: make_grid(VP), "how many steps"),
        (lambda: make_grid(VP, timesteps=[900, 900, 100]), "duplicates"),
        (lambda: make_grid(VP, timesteps=[900, 100, 500]), "strictly monotone"),
        (lambda: make_grid(VP, timesteps=[]), "empty"),
        (lambda: make_grid(VP, 3, timesteps=[900, 100]), "3 steps were asked for, but the list of noise levels has 2"),
        (lambda: make_grid(VP, sigmas=[1.0, math.nan]), "sigma"),
        (lambda: make_grid(Flow(), sigmas=[1.2, 0.5]), r"\(0, 1\]"),
        (lambda: make_grid(Flow(), 5, GridOptions(dynamic_shift=True)), "mu, and none was given"),
        (lambda: make_grid(Flow(), 5, mu=1.0), "use_dynamic_shifting"),
        (lambda: make_grid(Flow(), 5, GridOptions(shift=-1.0)), "shift must be above 0"),
        (lambda: GridOptions("quadratic"), "unknown grid"),
        (lambda: GridOptions(final_sigma="one"), "final sigma"),
        (lambda: make_grid(VP, 5, GridOptions("karras", sigma_min=2.0, sigma_max=1.0)), "sigma_min < sigma_max"),
        (lambda: make_grid(VP, timesteps=[500, 0], options=GridOptions(final_sigma="sigma_min")), "duplicates"),
        (lambda: Grid((VP.at(3),)), "at least two"),
    ],
)
def test_bad_grids_are_refused_with_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
