"""Noise levels: those of any scheduler with alphas_cumprod, then clean data."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from fewstep.pipelines.restoration.schedule import grid_of, process_of
from fewstep.samplers import GHVBScheduler
from fewstep.samplers.posterior.operators import AveragePool

Make = Callable[..., Any]
PLAIN = ["DDPMScheduler", "DDIMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"]
OTHERS = ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "TCDScheduler"]


@pytest.mark.parametrize("name", [*PLAIN, *OTHERS, "DEISMultistepScheduler", "DPMSolverSinglestepScheduler"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_levels_are_those_of_the_scheduler(name: str, spacing: str) -> None:
    cls = getattr(diffusers, name)
    known = "timestep_spacing" in inspect.signature(cls.__init__).parameters
    options = {"timestep_spacing": spacing} if known else {}
    scheduler, own = cls(**options), cls(**options)
    before = scheduler.num_inference_steps
    own.set_timesteps(10)
    process = process_of(scheduler)
    grid = grid_of(scheduler, process, 10)
    assert grid.timesteps == pytest.approx([float(t) for t in own.timesteps])
    assert grid.nodes[-1].sigma == 0
    assert grid.nodes[-1].alpha == 1
    for node in grid.nodes[:-1]:
        low = int(node.timestep)
        bar = own.alphas_cumprod[low : low + 2].double()
        assert float(bar.min()) - 1e-6 <= node.alpha**2 <= float(bar.max()) + 1e-6
        assert node.alpha**2 + node.sigma**2 == pytest.approx(1)
    assert scheduler.num_inference_steps == before


@pytest.mark.parametrize("steps", [1, 4, 25, 300])
def test_cosine_schedules_begin_where_a_picture_is_just_invisible(steps: int) -> None:
    """sigma / alpha of the first level is 30 instead of 20,000; the levels below 30 are the scheduler's."""
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    process = process_of(scheduler)
    grid = grid_of(scheduler, process, steps)
    assert grid.calls == steps
    assert grid.nodes[0].ratio == pytest.approx(30)
    assert all(a.ratio > b.ratio for a, b in itertools.pairwise(grid.nodes))
    scheduler.set_timesteps(steps)
    own = [float(t) for t in scheduler.timesteps if process.at(float(t)).ratio < 30]
    assert grid.timesteps[steps - len(own) :] == pytest.approx(own)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "PNDMScheduler"])
def test_a_step_is_one_level_also_where_the_scheduler_calls_twice(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    grid = grid_of(scheduler, process_of(scheduler), 12)
    assert grid.calls == 12
    assert grid.nodes[-1].sigma == 0


def test_a_scheduler_of_this_package_has_the_process_that_it_samples_with() -> None:
    scheduler = GHVBScheduler.from_config(diffusers.DDIMScheduler(timestep_spacing="trailing").config)
    process = process_of(scheduler)
    assert process is scheduler.process
    assert grid_of(scheduler, process, 4).timesteps == (999.0, 749.0, 499.0, 249.0)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_terminal_signal_is_met_exactly(make_pixel: Make, pictures: Make, seeded: Make, prediction: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    assert grid_of(scheduler, process_of(scheduler), 5).nodes[0].alpha == 0
    operator = AveragePool(2, (16, 16))
    y = operator.A(pictures())
    for method in ("ddnm", "diffpir", "pigdm"):
        out = make_pixel(scheduler)(
            y, operator, 0.05, method=method, num_inference_steps=5, generator=seeded(0), output_type="raw"
        )
        assert torch.isfinite(out.images).all()


def test_noise_prediction_says_nothing_at_pure_noise(make_pixel: Make, pictures: Make) -> None:
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    operator = AveragePool(2, (16, 16))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        make_pixel(scheduler)(operator.A(pictures()), operator, num_inference_steps=5)
    leading = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="leading")
    out = make_pixel(leading)(operator.A(pictures()), operator, num_inference_steps=5, output_type="raw")
    assert out.residual.item() < 1e-5


@pytest.mark.parametrize(
    "name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "CMStochasticIterativeScheduler"]
)
def test_other_processes_are_refused(make_pixel: Make, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no alphas_cumprod"):
        make_pixel(getattr(diffusers, name)())


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, 1001, "many"])
def test_steps_are_whole_and_no_more_than_were_trained(pixel: Any, pictures: Make, steps: Any) -> None:
    operator = AveragePool(2, (16, 16))
    with pytest.raises(ValueError, match="whole number from 1 to 1000"):
        pixel(operator.A(pictures()), operator, num_inference_steps=steps)
