"""What diffusers asks of every scheduler class: configurations that round-trip, shapes, outputs, public names."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

import fewstep.samplers as fs
from fewstep.samplers.schedulers import COMMON_OPTIONS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLASSES = [getattr(fs, f"{cls.__name__}Scheduler") for cls in fs.methods().values()]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def sample() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def ramp() -> torch.Tensor:
    count = 4 * 3 * 8 * 8
    return (torch.arange(count) / count).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def model(x: torch.Tensor, t: Any) -> torch.Tensor:
    """A denoiser that is large at small t, as diffusers' tests use."""
    t = torch.as_tensor(t, dtype=x.dtype)
    return x * t / (t + 1)


def full_loop(scheduler: Any, x: torch.Tensor, steps: int = 10, start: int = 0) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    if start:
        scheduler.set_begin_index(start)
    for t in scheduler.timesteps[start:]:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


def calls_of(scheduler: Any, steps: int) -> int:
    spec = scheduler.method.spec
    no_middle = spec.calls > 1 and steps >= 1000  # between training timestep 0 and clean data
    return steps * spec.calls + spec.extra_calls - no_middle


def alpha_bar(scheduler: Any, timestep: torch.Tensor) -> torch.Tensor:
    """alpha-bar at a timestep, log(sigma / alpha) being linear between two training timesteps."""
    bar = scheduler.alphas_cumprod.double().numpy()
    log_ratio = np.interp(float(timestep), np.arange(len(bar)), 0.5 * np.log((1 - bar) / bar))
    return torch.tensor(1 / (1 + np.exp(2 * log_ratio)), dtype=torch.float32)


def reloaded(scheduler: Any, path: Path) -> Any:
    scheduler.save_config(path)
    return type(scheduler).from_pretrained(path)


def same_steps(one: Any, other: Any, steps: int = 25, calls: tuple[int, ...] = (0, 1, 2)) -> None:
    """Both take the same steps, told timesteps that need not be in the schedule."""
    x = y = sample()
    for scheduler in (one, other):
        scheduler.set_timesteps(steps)
        scheduler.scale_model_input(x, 0)
    for t in calls:
        x, y = one.step(0.1 * x, t, x).prev_sample, other.step(0.1 * y, t, y).prev_sample
        assert torch.equal(x, y)
        assert torch.isfinite(x).all()


CONFIGS: list[dict[str, Any]] = [
    *[{"num_train_timesteps": n} for n in (25, 50, 100, 999, 1000)],
    *[{"beta_start": a, "beta_end": b} for a, b in [(0.0001, 0.002), (0.001, 0.02), (0.01, 0.2)]],
    *[{"beta_schedule": s} for s in ("linear", "scaled_linear", "squaredcos_cap_v2")],
    *[{"prediction_type": p} for p in ("epsilon", "sample", "v_prediction")],
    *[{"timestep_spacing": s, "steps_offset": o} for s in ("linspace", "leading", "trailing") for o in (0, 1)],
    *[{"thresholding": True, "sample_max_value": m} for m in (0.5, 1.0, 2.0)],
    {"thresholding": True, "prediction_type": "sample", "dynamic_thresholding_ratio": 0.5},
    {"rescale_betas_zero_snr": True},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    {"final_sigmas_type": "sigma_min"},
    {"lambda_min_clipped": -5.1},
    {"use_karras_sigmas": True},
    {"use_lu_lambdas": True},
    {"variance_type": "learned"},
    {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    {"process": "flow", "shift": 2.0},
    {"process": "edm"},
]


@each_class
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: ", ".join(f"{k}={v}" for k, v in c.items()))
def test_a_saved_configuration_steps_alike(cls: Any, config: dict[str, Any], tmp_path: Path) -> None:
    scheduler = cls(**config)
    again = reloaded(scheduler, tmp_path)
    for key, value in config.items():
        assert again.config[key] == scheduler.config[key] == value
    same_steps(scheduler, again)


@each_class
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50, 100, 999, 1000])
def test_every_number_of_steps(cls: Any, steps: int, tmp_path: Path) -> None:
    scheduler = cls()
    same_steps(scheduler, reloaded(scheduler, tmp_path), steps, (0,))
    assert scheduler.num_inference_steps == steps
    assert len(scheduler.timesteps) == calls_of(scheduler, steps)
    assert len(scheduler.sigmas) == len(scheduler.timesteps) + 1
    assert scheduler.sigmas[-1] == 0
    assert (scheduler.sigmas.diff() < 0).all()
    if steps <= 100:
        assert torch.isfinite(full_loop(scheduler, sample(), steps)).all()


@each_class
def test_a_saved_configuration_is_the_same_dictionary(cls: Any, tmp_path: Path) -> None:
    scheduler = cls(beta_end=0.03)
    scheduler.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path)
    expected = dict(scheduler.config)
    assert "beta_start" in expected.pop("_use_default_values")
    assert expected == dict(again.config)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert stored["_class_name"] == cls.__name__
    assert stored["beta_end"] == 0.03


@each_class
@pytest.mark.parametrize("options", [{}, {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}])
def test_a_way_through_every_compatible_class_gives_the_same_configuration(cls: Any, options: dict[str, Any]) -> None:
    pytest.importorskip("torchsde")
    scheduler = cls(**options)
    assert len(scheduler.compatibles) == 16  # the Karras family and the class itself, as for classes of diffusers
    for other in scheduler.compatibles:
        back = cls.from_config(other.from_config(scheduler.config).config)
        assert {k: v for k, v in back.config.items() if k in scheduler.config} == dict(scheduler.config)
        added = {k for k in back.config if k not in scheduler.config}
        assert not added & set(inspect.signature(cls.__init__).parameters)


@each_class
def test_shape_and_dtype_of_a_step(cls: Any) -> None:
    scheduler = cls()
    scheduler.set_timesteps(25)
    x = sample()
    for first, second in ((scheduler.timesteps[5], scheduler.timesteps[6]), (0, 1)):
        scheduler.set_timesteps(25)
        one = scheduler.step(0.1 * x, first, x).prev_sample
        two = scheduler.step(0.1 * x, second, x).prev_sample
        assert one.shape == two.shape == x.shape
        assert one.dtype == two.dtype == x.dtype


@each_class
def test_a_tuple_says_the_same_as_a_dictionary(cls: Any) -> None:
    scheduler = cls()
    for t in (0, 1.0, None):
        results = []
        for return_dict in (False, True):
            scheduler.set_timesteps(10)
            at = scheduler.timesteps[3] if t is None else t
            results.append(scheduler.step(0.1 * sample(), at, sample(), return_dict=return_dict))
        as_tuple, as_dict = results
        assert isinstance(as_tuple, tuple)
        assert torch.equal(as_tuple[0], as_dict.prev_sample)
        assert torch.equal(as_dict["prev_sample"], as_dict[0])
        assert len(as_dict.to_tuple()) == len(as_tuple) == 1


@each_class
def test_the_output_predicts_clean_data(cls: Any) -> None:
    """x0 of epsilon prediction, (x - sigma eps) / alpha, whatever the method."""
    scheduler = cls()
    scheduler.set_timesteps(10)
    x = sample()
    t = scheduler.timesteps[3]
    output = scheduler.step(0.1 * x, t, x)
    bar = alpha_bar(scheduler, t)
    expected = (x - (1 - bar).sqrt() * 0.1 * x) / bar.sqrt()
    torch.testing.assert_close(output.pred_original_sample, expected, rtol=1e-5, atol=1e-6)


@each_class
def test_public_names(cls: Any) -> None:
    scheduler = cls()
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.order == 1  # until a number of steps is set: then what a step takes
    scheduler.set_timesteps(10)
    assert scheduler.order == scheduler.method.spec.calls
    scheduler = cls()
    assert len(scheduler) == 1000
    x = sample()
    assert torch.equal(scheduler.scale_model_input(x, 0.0), x)
    assert scheduler.step_index is None
    assert scheduler.begin_index is None
    assert isinstance(scheduler, SchedulerMixin)
    assert isinstance(scheduler, ConfigMixin)
    assert cls.__module__ == "fewstep.samplers"
    assert cls.has_compatibles
    assert scheduler.config_name == "scheduler_config.json"
    assert scheduler.timesteps.shape == (1000,)


@each_class
def test_the_signatures_that_pipelines_inspect(cls: Any) -> None:
    grid = inspect.signature(cls.set_timesteps).parameters
    assert {"num_inference_steps", "device", "timesteps", "sigmas", "mu"} <= set(grid)
    assert "generator" in inspect.signature(cls.step).parameters
    constructor = inspect.signature(cls.__init__).parameters
    assert "kwargs" not in constructor
    assert not cls._deprecated_kwargs
    assert set(COMMON_OPTIONS) <= set(constructor)


@each_class
def test_add_noise_takes_one_timestep_or_one_a_sample(cls: Any) -> None:
    scheduler = cls()
    scheduler.set_timesteps(100)
    x = sample()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    t = scheduler.timesteps[5]
    noised = scheduler.add_noise(x, noise, t[None])
    bar = alpha_bar(scheduler, t)
    torch.testing.assert_close(noised, bar.sqrt() * x + (1 - bar).sqrt() * noise, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scheduler.add_noise(x, noise, t.expand(4)), noised, rtol=0, atol=0)
    assert scheduler.add_noise(x.half(), noise.half(), t[None]).dtype == torch.float16


@each_class
def test_betas_of_ones_own(cls: Any, tmp_path: Path) -> None:
    scheduler = cls(trained_betas=np.array([0.1, 0.3]))
    again = reloaded(scheduler, tmp_path)
    for one in (scheduler, again):
        torch.testing.assert_close(one.betas, torch.tensor([0.1, 0.3]))
        torch.testing.assert_close(one.alphas_cumprod, torch.tensor([0.9, 0.63]))
    assert again.config.trained_betas == [0.1, 0.3]
    assert torch.equal(again.betas, scheduler.betas)
    assert torch.equal(cls.from_config(scheduler.config).betas, scheduler.betas)


@each_class
def test_attribute_access_to_the_configuration_warns(cls: Any) -> None:
    scheduler = cls()
    scheduler.register_to_config(dummy_attribute="dummy")
    with pytest.warns(FutureWarning, match="dummy_attribute"):
        assert scheduler.dummy_attribute == "dummy"
    with pytest.warns(FutureWarning, match="beta_start"):
        assert scheduler.beta_start == 0.0001
    with pytest.raises(AttributeError) as error:
        _ = scheduler.does_not_exist
    assert str(error.value) == f"'{cls.__name__}' object has no attribute 'does_not_exist'"
    with pytest.raises(Exception, match="cannot use"):
        scheduler.config.pop("beta_start")


@each_class
def test_half_precision_stays(cls: Any) -> None:
    for config in ({}, {"thresholding": True, "dynamic_thresholding_ratio": 0}):
        result = full_loop(cls(**config), ramp().half())
        assert result.dtype == torch.float16
        assert torch.isfinite(result).all()


@each_class
def test_full_loops_with_and_without_begin_index(cls: Any) -> None:
    """A begin index of 0 changes nothing; a loop from the middle on, with or without it, is the same."""
    scheduler, x = cls(), ramp()
    whole = full_loop(scheduler, x)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(0)
    y = x
    for t in scheduler.timesteps:
        y = scheduler.step(model(y, t), t, y).prev_sample
    assert torch.equal(whole, y)

    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for begin in (True, False):
        scheduler.set_timesteps(10)
        if begin:
            scheduler.set_begin_index(8)
        y = scheduler.add_noise(x, noise, scheduler.timesteps[8:9])
        for t in scheduler.timesteps[8:]:
            y = scheduler.step(model(y, t), t, y).prev_sample
        results.append(y)
    assert torch.equal(*results)


@each_class
def test_a_learned_variance_is_cut_off(cls: Any) -> None:
    plain, learned = cls(), cls(variance_type="learned_range")
    x = sample()
    for scheduler in (plain, learned):
        scheduler.set_timesteps(5)
    a, b = x, x
    for t in plain.timesteps:
        out = 0.3 * torch.cos(a)
        a = plain.step(out, t, a).prev_sample
        b = learned.step(torch.cat([out, 7 * out], dim=1), t, b).prev_sample
    assert torch.equal(a, b)


def test_the_documentation_of_a_class_is_that_of_its_method() -> None:
    for cls in CLASSES:
        assert inspect.getdoc(cls.method_class) in cls.__doc__
        assert f"{cls.__name__}.from_config(pipe.scheduler.config" in cls.__doc__
        for name, value in inspect.signature(cls.__init__).parameters.items():
            if name != "self":
                assert value.default is not inspect.Parameter.empty


def test_scheduler_class_by_name_or_method() -> None:
    assert fs.scheduler_class("ghvb") is fs.GHVBScheduler
    assert fs.scheduler_class("dpm++ 2m karras") is fs.ExponentialAdamsScheduler
    assert fs.scheduler_class(fs.LML()) is fs.LMLScheduler
    with pytest.raises(ValueError, match="did you mean 'ghvb'"):
        fs.scheduler_class("ghbv")
    with pytest.raises(AttributeError, match="has no attribute 'GHBVScheduler'"):
        _ = fs.GHBVScheduler
