"""Guidance as functions: against diffusers' guider, against diffusers' schedulers, and by what a projection is."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import ClassifierFreeZeroStarGuidance, DDIMScheduler, EulerDiscreteScheduler

from fewstep.samplers import EDM, Flow, GuidanceInterval, VPDiscrete, betas_of_schedule, cfg, cfg_zero
from fewstep.samplers.guidance import noise_level, optimised_scale, zero_velocity

SHAPES = [(2, 4, 8, 8), (3, 16, 32), (1, 4, 2, 6, 6), (2, 5)]


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uncond = torch.randn(shape, generator=generator)
    return 1.3 * uncond + 0.4 * torch.randn(shape, generator=generator), uncond


def theirs(cond: torch.Tensor, uncond: torch.Tensor, scale: float, step: int, zero_init_steps: int) -> torch.Tensor:
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=scale, zero_init_steps=zero_init_steps)
    guider.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(500.0))
    return guider.forward(cond, uncond).pred


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 7.5])
@pytest.mark.parametrize(("step", "zero_init_steps"), [(0, 0), (0, 1), (1, 1), (1, 2), (5, 2)])
def test_cfg_zero_is_that_of_diffusers(shape, scale, step, zero_init_steps):
    cond, uncond = pair(shape)
    expected = theirs(cond, uncond, scale, step, zero_init_steps)
    got = cfg_zero(cond, uncond, scale, step, zero_init_steps)
    torch.testing.assert_close(got, expected, atol=1e-6 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_the_scale_of_float32(dtype):
    cond, uncond = (part.to(dtype) * 100 for part in pair((2, 4, 64, 64)))  # |uncond|^2 overflows float16
    scale = optimised_scale(cond, uncond)
    assert scale.dtype == dtype
    expected = optimised_scale(cond.double(), uncond.double())
    torch.testing.assert_close(scale.double(), expected.double(), rtol=1e-2, atol=0)
    torch.testing.assert_close(cfg_zero(cond, uncond, 3.0, 1), theirs(cond, uncond, 3.0, 1, 1))


def test_optimised_scale_leaves_a_rest_that_is_orthogonal():
    cond, uncond = pair((3, 4, 8, 8))
    rest = (cond - optimised_scale(cond, uncond) * uncond).flatten(1)
    assert (rest * uncond.flatten(1)).sum(1).abs().max() < 1e-4


def test_samples_do_not_meet():
    cond, uncond = pair((3, 4, 8, 8))
    alone = torch.cat([cfg_zero(cond[i : i + 1], uncond[i : i + 1], 5.0, 1) for i in range(3)])
    torch.testing.assert_close(cfg_zero(cond, uncond, 5.0, 1), alone, atol=1e-6, rtol=1e-6)


def test_parallel_predictions_leave_nothing_to_guide():
    _, uncond = pair((2, 4, 8, 8))
    torch.testing.assert_close(cfg_zero(2.5 * uncond, uncond, 9.0, 1), 2.5 * uncond, atol=1e-5, rtol=1e-5)


def test_an_unconditional_zero_is_no_division_by_zero():
    cond = torch.ones(2, 4)
    torch.testing.assert_close(cfg_zero(cond, torch.zeros(2, 4), 3.0, 1), 3 * cond)


def test_cfg_at_0_and_1_is_one_of_the_two():
    cond, uncond = pair((2, 4, 8, 8))
    assert torch.equal(cfg(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(cfg(cond, uncond, 1.0), cond)


def test_predictions_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(2, 4\) and \(1, 4\)"):
        cfg(torch.ones(2, 4), torch.ones(1, 4), 3.0)
    with pytest.raises(ValueError, match="one shape"):
        cfg_zero(torch.ones(2, 4), torch.ones(2, 5), 3.0, 0)
    with pytest.raises(ValueError, match="batch axis"):
        optimised_scale(torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="must not be negative"):
        cfg_zero(torch.ones(2, 4), torch.ones(2, 4), 3.0, -1)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_zero_velocity_stands_still_in_a_ddim_step_of_diffusers(prediction):
    """x / (alpha + sigma) is the state in the coordinates of a flow; diffusers' own step leaves it where it is."""
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(
        **options, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(5)
    betas = betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012)
    process = VPDiscrete.from_betas(betas, prediction)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t, after = (int(value) for value in scheduler.timesteps[:2])
    moved = scheduler.step(zero_velocity(process, process.at(t), x), t, x).prev_sample

    def place(timestep: int) -> float:
        bar = float(scheduler.alphas_cumprod[timestep])
        return math.sqrt(bar) + math.sqrt(1 - bar)

    torch.testing.assert_close(moved / place(after), x / place(t), rtol=1e-5, atol=1e-6)


def test_an_epsilon_of_zero_does_not_stand_still():
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    x = torch.ones(1, 1, 2, 2)
    moved = scheduler.step(torch.zeros_like(x), int(scheduler.timesteps[0]), x).prev_sample
    assert moved.abs().max() > 5


def test_zero_velocity_of_a_flow_is_zero_and_of_a_preconditioned_network_undefined():
    x = torch.ones(1, 4)
    assert torch.equal(zero_velocity(Flow(), Flow().at_sigma(0.5), x), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="EDM"):
        zero_velocity(EDM(), EDM().at_sigma(1.0), x)


def test_noise_levels_are_those_of_diffusers():
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = EulerDiscreteScheduler(**options, timestep_spacing="leading")
    theirs.set_timesteps(10)
    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    levels = [noise_level(process, process.at(float(t))) for t in theirs.timesteps]
    torch.testing.assert_close(torch.tensor(levels), theirs.sigmas[:-1], rtol=1e-4, atol=0)
    assert noise_level(Flow(), Flow().at(250.0)) == 0.25


def test_an_interval_holds_both_of_its_ends():
    interval = GuidanceInterval(0.3, 5)
    assert [level in interval for level in (0.29, 0.3, 1.0, 5.0, 5.1)] == [False, True, True, True, False]
    assert GuidanceInterval() == GuidanceInterval.parse("0,inf")
    assert GuidanceInterval.parse(str(GuidanceInterval(0.1, 1 / 3))) == GuidanceInterval(0.1, 1 / 3)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "1;2"])
def test_texts_that_are_no_interval_are_refused(text):
    with pytest.raises(ValueError, match='"LO,HI"'):
        GuidanceInterval.parse(text)


@pytest.mark.parametrize(("low", "high"), [(2, 1), (-1, 1), (math.nan, 1), (math.inf, math.inf), ("0", 1), (True, 2)])
def test_intervals_out_of_range_are_refused(low, high):
    with pytest.raises(ValueError, match="interval"):
        GuidanceInterval(low, high)
