"""Forward processes against diffusers' tables and the definitions of the prediction types."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch

from fewstep.samplers import EDM, Flow, VPContinuous, VPDiscrete, betas_of_schedule
from fewstep.samplers.core.process import ddim, field_of, rescale_to_zero_terminal_snr, slope_coordinate


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
@pytest.mark.parametrize("count", [100, 1000])
def test_beta_schedules_are_those_of_diffusers(schedule, count):
    ours = VPDiscrete.from_betas(betas_of_schedule(schedule, count))
    theirs = diffusers.DDPMScheduler(beta_schedule=schedule, num_train_timesteps=count).alphas_cumprod
    if schedule == "laplace":  # diffusers' first laplace betas are negative by rounding and make alpha-bar exceed 1
        assert np.allclose(ours.alphas_cumprod, theirs, atol=1e-5)
    else:
        assert np.allclose(ours.alphas_cumprod, theirs, rtol=1e-4, atol=1e-7)


def test_exponential_schedule_is_that_of_diffusers():
    theirs = diffusers.HeunDiscreteScheduler(beta_schedule="exp").betas
    assert np.allclose(betas_of_schedule("exp"), theirs, rtol=1e-4)


def test_zero_terminal_snr_is_that_of_diffusers():
    betas = betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012)
    theirs = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    ).alphas_cumprod
    ours = VPDiscrete.from_betas(betas, "v_prediction", zero_terminal_snr=True)
    assert np.allclose(ours.alphas_cumprod, theirs, rtol=2e-4, atol=1e-7)
    assert ours.alphas_cumprod[-1] == 0
    assert VPDiscrete.from_betas(betas, "epsilon", zero_terminal_snr=True).alphas_cumprod[-1] == 2.0**-24
    bar = np.cumprod(1 - betas)
    assert rescale_to_zero_terminal_snr(bar)[0] == pytest.approx(bar[0], rel=1e-12)


ALL = [
    VPDiscrete.from_betas(betas_of_schedule("linear")),
    VPContinuous(),
    VPContinuous("cosine"),
    Flow(),
    EDM(),
]


@pytest.mark.parametrize("process", ALL, ids=lambda p: f"{type(p).__name__}-{getattr(p, 'schedule', '')}")
def test_at_sigma_undoes_sigma_of(process):
    for sigma in (0.02, 0.3, 0.9) if isinstance(process, Flow) else (0.02, 0.3, 0.9, 3.0, 40.0):
        node = process.at_sigma(sigma)
        assert process.sigma_of(node) == pytest.approx(sigma, rel=1e-9)
        again = process.at(node.timestep)
        assert again.alpha == pytest.approx(node.alpha, rel=1e-7)
        assert again.sigma == pytest.approx(node.sigma, rel=1e-7)
        expected = 1 - node.sigma if isinstance(process, Flow) else 1.0 if isinstance(process, EDM) else None
        if expected is None:
            assert node.alpha**2 + node.sigma**2 == pytest.approx(1, rel=1e-12)
        else:
            assert node.alpha == pytest.approx(expected)


def test_continuous_vp_marginals_solve_their_sde():
    """d log alpha / dt = -beta(t) / 2 with beta(t) = beta_min + t (beta_max - beta_min)."""
    process = VPContinuous(time_scale=1.0)
    for t in (0.1, 0.5, 0.9):
        slope = (math.log(process.alpha(t + 1e-6)) - math.log(process.alpha(t - 1e-6))) / 2e-6
        assert slope == pytest.approx(-(0.1 + t * 19.9) / 2, rel=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize("process", [VPDiscrete, Flow, EDM])
def test_conversions_recover_data_and_noise(prediction, process):
    made = (
        process(prediction=prediction)
        if process is not VPDiscrete
        else VPDiscrete.from_betas(betas_of_schedule("linear"), prediction)
    )
    node = made.at_sigma(0.7)
    x0, eps = 0.37, -1.21
    x = node.alpha * x0 + node.sigma * eps
    p = {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": node.alpha * eps - node.sigma * x0,
        "flow_prediction": eps - x0,
    }[prediction]

    def value(form):
        return form.of_sample * x + form.of_output * p

    assert value(made.x0(node)) == pytest.approx(x0)
    assert value(made.eps(node)) == pytest.approx(eps)
    slope = eps - x0 if process is Flow else eps
    assert value(field_of(made, "slope", node)) == pytest.approx(slope)
    to = made.at_sigma(0.4)
    assert value(ddim(made, node, to)) == pytest.approx(to.alpha * x0 + to.sigma * eps)
    scale, tau = slope_coordinate(made, node)
    assert (scale, tau) == pytest.approx((1, node.sigma) if process is Flow else (node.alpha, node.ratio))


@pytest.mark.parametrize(("prediction", "name"), [("edm", "epsilon"), ("edm_v", "v_prediction")])
def test_edm_preconditioning_is_that_of_diffusers(prediction, name):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=name)
    process = EDM(prediction=prediction)
    node = process.at_sigma(1.7)
    x, f = torch.tensor([0.8]), torch.tensor([-0.3])
    sigma = torch.tensor(1.7)
    assert node.timestep == pytest.approx(float(scheduler.precondition_noise(sigma)))
    assert process.input_scale(node) * x == pytest.approx(scheduler.precondition_inputs(x, sigma))
    form = process.x0(node)
    assert form.of_sample * x + form.of_output * f == pytest.approx(scheduler.precondition_outputs(x, f, sigma))
    eps = process.eps(node)
    x0 = float(form.of_sample * x + form.of_output * f)
    assert float(eps.of_sample * x + eps.of_output * f) == pytest.approx((0.8 - x0) / 1.7)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Flow("noise"), "prediction must be one of"),
        (lambda: EDM(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: VPContinuous("quadratic"), "linear or cosine"),
        (lambda: VPDiscrete((0.9, 0.95)), "decrease"),
        (lambda: betas_of_schedule("cosine"), "unknown beta schedule"),
        (lambda: betas_of_schedule("linear", 1), "at least 2"),
        (lambda: betas_of_schedule("linear", trained=[0.1, 1.4]), r"\[0, 1\]"),
        (lambda: Flow().at_sigma(1.2), r"\[0, 1\]"),
        (lambda: ALL[0].at(1000), r"\[0, 999\]"),
        (lambda: ALL[0].at_sigma(-1), "negative"),
    ],
)
def test_bad_processes_are_refused_with_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_epsilon_at_pure_noise_is_refused_with_a_sentence():
    process = VPDiscrete((0.9, 0.5, 0.0), "epsilon")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        process.x0(process.at(2))
