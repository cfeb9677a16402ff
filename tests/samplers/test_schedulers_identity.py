"""The same numbers as diffusers' own schedulers wherever both solve the same equation on the same grid.

Tolerances are shares of the largest latent of a step; where they are above 1e-5 it is diffusers' float32 coefficients,
amplified by the network from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import fewstep.samplers as fs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ["linspace", "leading", "trailing"]
SIGMA_SPACINGS = ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas", "use_beta_sigmas"]

Network = Callable[[int, torch.Tensor], torch.Tensor]


def network(i: int, x: torch.Tensor) -> torch.Tensor:
    """A smooth bounded function of the sample and the number of the call: no timestep, so its rounding is no matter."""
    return torch.sin((1 + 0.1 * i) * x + 0.3 * i) + 0.2 * torch.roll(torch.tanh(x), 1, -1)


def noise() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(7))


def path(scheduler: Any, x: torch.Tensor, **grid: Any) -> torch.Tensor:
    """Every sample of a run, (calls, ...)."""
    scheduler.set_timesteps(**grid)
    samples = []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(i, scheduler.scale_model_input(x, t)), t, x, return_dict=False)[0]
        samples.append(x)
    return torch.stack(samples)


def flow_path(scheduler: Any, x: torch.Tensor, **grid: Any) -> torch.Tensor:
    """The same for flow schedulers, which have no input scaling."""
    scheduler.set_timesteps(**grid)
    samples = []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(i, x), t, x, return_dict=False)[0]
        samples.append(x)
    return torch.stack(samples)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = theirs.abs().amax(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1)
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=tolerance)


def assert_same_grid(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=2e-5, atol=1e-7)
    if not ours.timesteps.is_floating_point():
        assert torch.equal(ours.timesteps, theirs.timesteps)
    # diffusers rounds or cuts the timesteps of its sigma spacings to whole numbers
    near = 0.5 if theirs.config.use_karras_sigmas or theirs.config.use_lu_lambdas else 1.0
    assert (ours.timesteps.double() - theirs.timesteps.double()).abs().max() <= near + 1e-3


def pair(**options: Any) -> tuple[Any, Any]:
    """(ours, theirs): ExponentialAdams by configuration from a DPMSolverMultistep, and that."""
    theirs = diffusers.DPMSolverMultistepScheduler(**SD, **options)
    form = "eps" if options.get("algorithm_type") == "dpmsolver" else "x0"
    fields = {"order": options.get("solver_order", 2), "form": form, "variant": "published"}
    return fs.ExponentialAdamsScheduler.from_config(theirs.config, **fields), theirs


SOLVERS = [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]


@pytest.mark.parametrize(
    ("spacing", "final"),
    [*((s, "zero") for s in [*SPACINGS, *SIGMA_SPACINGS]), *((s, "sigma_min") for s in SPACINGS)],
)
@pytest.mark.parametrize(("order", "solver"), SOLVERS)
def test_exponential_adams_is_dpm_solver_plus_plus(order: int, solver: str, spacing: str, final: str) -> None:
    where = {"timestep_spacing": spacing} if spacing in SPACINGS else {spacing: True}
    for steps in (1, 2, 5, 20):
        mine, theirs = pair(solver_order=order, solver_type=solver, final_sigmas_type=final, **where)
        if steps == 1 and spacing in SIGMA_SPACINGS:
            continue  # diffusers divides by steps - 1
        ours, expected = (
            path(mine, noise(), num_inference_steps=steps),
            path(theirs, noise(), num_inference_steps=steps),
        )
        # the beta spacing crowds its ends: third differences of diffusers' float32 sigmas lose digits there
        assert_same(ours, expected, 3e-4 if (order, spacing) == (3, "use_beta_sigmas") else 1e-5)
        assert_same_grid(mine, theirs)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_exponential_adams_is_dpm_solver_plus_plus_for_every_prediction(schedule: str, prediction: str) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_schedule=schedule, prediction_type=prediction, timestep_spacing="leading", steps_offset=1
    )
    mine = fs.ExponentialAdamsScheduler.from_config(theirs.config)
    assert_same(path(mine, noise(), num_inference_steps=8), path(theirs, noise(), num_inference_steps=8))
    assert_same_grid(mine, theirs)


def test_without_lower_order_final() -> None:
    for order in (2, 3):
        mine, theirs = pair(solver_order=order, lower_order_final=False)
        assert mine.method.lower_order_final is False
        assert_same(path(mine, noise(), num_inference_steps=6), path(theirs, noise(), num_inference_steps=6))


def test_clipped_lambda_on_the_cosine_schedule() -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    mine = fs.ExponentialAdamsScheduler.from_config(theirs.config)
    for spacing in SPACINGS:
        mine = fs.ExponentialAdamsScheduler.from_config(theirs.config, timestep_spacing=spacing)
        theirs = diffusers.DPMSolverMultistepScheduler.from_config(theirs.config, timestep_spacing=spacing)
        if spacing == "trailing":
            theirs.set_timesteps(10)
            mine.set_timesteps(10)
            assert torch.equal(mine.timesteps[: len(theirs.timesteps)], theirs.timesteps[: len(mine.timesteps)])
            continue
        assert_same(path(mine, noise(), num_inference_steps=10), path(theirs, noise(), num_inference_steps=10))


def test_zero_terminal_snr_with_v_prediction() -> None:
    """diffusers caps alpha-bar at 2^-24 there; ours is pure noise: the same to half-precision of a latent's scale."""
    options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    theirs = diffusers.DPMSolverMultistepScheduler(**SD, **options)
    mine = fs.ExponentialAdamsScheduler.from_config(theirs.config, lower_order_final=True)
    one = path(mine, noise(), num_inference_steps=10)
    assert torch.isfinite(one).all()
    assert_same(one[:1], path(theirs, noise(), num_inference_steps=10)[:1], 2e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("order", "solver"), SOLVERS)
def test_noise_form_is_dpm_solver(order: int, solver: str, spacing: str) -> None:
    for steps in (2, 5, 20):
        mine, theirs = pair(
            algorithm_type="dpmsolver",
            solver_order=order,
            solver_type=solver,
            timestep_spacing=spacing,
            final_sigmas_type="sigma_min",
        )
        if spacing == "trailing":
            grid: dict[str, Any] = {"timesteps": list(range(999, 0, -(1000 // steps)))[:steps]}  # not down to 0
        else:
            grid = {"num_inference_steps": steps}
        assert_same(path(mine, noise(), **grid), path(theirs, noise(), **grid), 3e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_adams_bashforth_one_is_ddim(prediction: str) -> None:
    theirs = diffusers.DDIMScheduler(
        **SD, prediction_type=prediction, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    mine = fs.AdamsBashforthScheduler.from_config(theirs.config, order=1)
    for steps in (1, 5, 20):
        ours = path(mine, noise(), num_inference_steps=steps)
        assert_same(ours, path(theirs, noise(), num_inference_steps=steps), 3e-5)
        assert torch.equal(mine.timesteps, theirs.timesteps)


def test_adams_bashforth_one_is_ddim_on_the_timesteps_of_another_scheduler() -> None:
    theirs = diffusers.DDIMScheduler(**SD, timestep_spacing="leading", clip_sample=False, set_alpha_to_one=True)
    expected = path(theirs, noise(), num_inference_steps=10)
    mine = fs.AdamsBashforthScheduler.from_config(theirs.config, order=1)
    for given in (theirs.timesteps, theirs.timesteps.tolist()):
        assert_same(path(mine, noise(), timesteps=given), expected)
        assert torch.equal(mine.timesteps, theirs.timesteps)


def test_thresholding_is_that_of_dpm_solver() -> None:
    for most in (0.5, 1.0, 2.0):
        theirs = diffusers.DPMSolverMultistepScheduler(
            **SD, thresholding=True, dynamic_thresholding_ratio=0.87, sample_max_value=most
        )
        mine = fs.ExponentialAdamsScheduler.from_config(theirs.config)
        assert_same(path(mine, noise(), num_inference_steps=8), path(theirs, noise(), num_inference_steps=8), 5e-5)


# -- flow ------------------------------------------------------------------------------------------------------

FLOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"num_inference_steps": 8}),
    "one step": ({}, {"num_inference_steps": 1}),
    "shift": ({"shift": 3.0}, {"num_inference_steps": 8}),
    "mu": ({"use_dynamic_shifting": True}, {"num_inference_steps": 8, "mu": 0.8}),
    "mu linear": ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"num_inference_steps": 8, "mu": 0.8}),
    "terminal": ({"shift": 2.0, "shift_terminal": 0.1}, {"num_inference_steps": 8}),
    "karras": ({"shift": 3.0, "use_karras_sigmas": True}, {"num_inference_steps": 8}),
    "exponential": ({"shift": 3.0, "use_exponential_sigmas": True}, {"num_inference_steps": 8}),
    "beta": ({"shift": 3.0, "use_beta_sigmas": True}, {"num_inference_steps": 8}),
    "sigmas": ({"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.4, 0.1]}),
    "sigmas and mu": (
        {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 1.0},
    ),
    "sigmas and timesteps": ({}, {"sigmas": [1.0, 0.7, 0.4], "timesteps": [1000.0, 650.0, 300.0]}),
    "fewer training timesteps": ({"num_train_timesteps": 100, "shift": 2.0}, {"num_inference_steps": 5}),
}


@pytest.mark.parametrize("case", FLOWS)
def test_adams_bashforth_one_is_flow_euler(case: str) -> None:
    options, grid = FLOWS[case]
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    mine = fs.AdamsBashforthScheduler.from_config(theirs.config, order=1)
    assert_same(flow_path(mine, noise(), **grid), flow_path(theirs, noise(), **grid))
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=1e-3)


def test_set_shift_is_that_of_flow_euler() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    mine = fs.AdamsBashforthScheduler.from_config(theirs.config, order=1)
    for scheduler in (mine, theirs):
        scheduler.set_shift(2.5)
    flow_path(mine, noise(), sigmas=[1.0, 0.6, 0.2])
    flow_path(theirs, noise(), sigmas=[1.0, 0.6, 0.2])
    assert mine.shift == theirs.shift == 2.5
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=0, atol=1e-6)


def test_scale_noise_is_that_of_flow_euler() -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    mine = fs.GHVBScheduler.from_config(theirs.config)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(10)
    x, e = noise(), noise().flip(0)
    for at in (0, 4, 9):
        ours = mine.scale_noise(x, mine.timesteps[at].expand(2), e)
        torch.testing.assert_close(ours, theirs.scale_noise(x, theirs.timesteps[at].expand(2), e), rtol=0, atol=1e-6)
        torch.testing.assert_close(mine.add_noise(x, e, mine.timesteps[at][None]), ours, rtol=0, atol=0)
    with pytest.raises(ValueError, match="needs the noise"):
        mine.scale_noise(x, mine.timesteps[0], None)


# -- EDM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sigma_schedule": "exponential"},
        {"prediction_type": "v_prediction"},
        {"sigma_max": 20.0, "sigma_data": 1.0},
    ],
)
def test_adams_bashforth_one_is_edm_euler(options: dict[str, Any]) -> None:
    theirs = diffusers.EDMEulerScheduler(**options)
    mine = fs.AdamsBashforthScheduler.from_config(theirs.config, order=1)
    assert mine.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma))
    start = noise() * theirs.init_noise_sigma
    for steps in (2, 10):
        ours, expected = path(mine, start, num_inference_steps=steps), path(theirs, start, num_inference_steps=steps)
        assert_same(ours, expected, 3e-5)
        torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.timesteps, theirs.timesteps, rtol=0, atol=1e-5)


def test_exponential_adams_is_edm_dpm_solver() -> None:
    for solver in ("midpoint", "heun"):
        theirs = diffusers.EDMDPMSolverMultistepScheduler(solver_type=solver)
        mine = fs.ExponentialAdamsScheduler.from_config(theirs.config)
        start = noise() * theirs.init_noise_sigma
        for steps in (5, 18):
            assert_same(path(mine, start, num_inference_steps=steps), path(theirs, start, num_inference_steps=steps))


# -- noising ---------------------------------------------------------------------------------------------------


def test_add_noise_and_get_velocity_are_those_of_ddpm() -> None:
    theirs = diffusers.DDPMScheduler(**SD)
    mine = fs.LMLScheduler.from_config(theirs.config)
    x, e = noise(), noise().flip(0)
    for ready in (False, True):
        if ready:
            mine.set_timesteps(10)
        for t in (torch.tensor([0, 999]), torch.tensor([10, 10]), torch.tensor([500])):
            torch.testing.assert_close(mine.add_noise(x, e, t), theirs.add_noise(x, e, t), rtol=0, atol=3e-6)
            ours = mine.get_velocity(x, e, t)
            torch.testing.assert_close(ours, theirs.get_velocity(x, e, t), rtol=0, atol=3e-6)


def test_add_noise_is_that_of_euler_in_its_own_scale() -> None:
    """Euler keeps x0 + sigma eps; ours alpha x0 + sigma eps. One is the other over sqrt(1 + sigma^2)."""
    theirs = diffusers.EulerDiscreteScheduler(**SD)
    mine = fs.LMLScheduler.from_config(theirs.config)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(timesteps=[900, 500, 100])
    x, e = noise(), noise().flip(0)
    for i, t in enumerate(theirs.timesteps):
        scaled = theirs.add_noise(x, e, t[None]) / (theirs.sigmas[i] ** 2 + 1) ** 0.5
        torch.testing.assert_close(mine.add_noise(x, e, t[None]), scaled, rtol=0, atol=3e-6)


def test_edm_add_noise_is_that_of_edm_euler() -> None:
    theirs = diffusers.EDMEulerScheduler()
    mine = fs.GHVBScheduler.from_config(theirs.config)
    for scheduler in (mine, theirs):
        scheduler.set_timesteps(6)
    x, e = noise(), noise().flip(0)
    for t, u in zip(mine.timesteps, theirs.timesteps, strict=True):
        ours, expected = mine.add_noise(x, e, t[None]), theirs.add_noise(x, e, u[None])
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        scaled = theirs.precondition_inputs(x, theirs.sigmas[theirs.index_for_timestep(u)])
        fresh = fs.GHVBScheduler.from_config(theirs.config)
        fresh.set_timesteps(6)
        torch.testing.assert_close(fresh.scale_model_input(x, t), scaled, rtol=1e-5, atol=1e-6)
