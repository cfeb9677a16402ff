"""The hook on bare denoisers: exactness, orders, branches, state, and what it must leave alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from fewstep.samplers import (
    ABCacheConfig,
    VPDiscrete,
    ab_cache,
    ab_cache_stats,
    apply_ab_cache,
    betas_of_schedule,
    oracle,
    remove_ab_cache,
    reset_ab_cache,
)
from fewstep.samplers.cache.hook import hook_of
from problems import slope


class Mixture(nn.Module):
    """The exact epsilon of a mixture of 8 Gaussians in 16 dimensions, as a network."""

    def __init__(self) -> None:
        super().__init__()
        process = VPDiscrete.from_betas(betas_of_schedule("linear", 1000, 0.0001, 0.02), "epsilon")
        means = torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        self.exact = oracle.mixture(process, means, 0.5)
        self.made = 0
        self.eval()

    def forward(self, sample: torch.Tensor, timestep: Any, return_dict: bool = True) -> Any:
        self.made += 1
        value = self.exact(sample, float(timestep))
        return UNet2DOutput(sample=value) if return_dict else (value,)


class Line(nn.Module):
    """A polynomial of the count of its calls, whatever it is given; `seen` is how often it was really called."""

    def __init__(self, *coefficients: float, wrap: Any = None) -> None:
        super().__init__()
        self.coefficients, self.wrap = coefficients, wrap
        self.at = self.seen = 0
        self.eval()

    def forward(self, sample: torch.Tensor, timestep: Any = None, return_dict: bool = True) -> Any:
        self.seen += 1
        value = torch.full_like(sample, float(np.polyval(self.coefficients, self.at)))
        return self.wrap(value) if self.wrap else value


def outputs(network: Line, calls: int, start: int = 0) -> list[float]:
    """First number of each output of a run with timesteps falling from `calls`."""
    found = []
    for i in range(start, calls):
        network.at = i
        found.append(float(torch.as_tensor(network(torch.zeros(1, 2), float(calls - i))).flatten()[0]))
    return found


def ddim(network: nn.Module, steps: int, count: int = 12) -> torch.Tensor:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    x = torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    return x


def test_the_error_against_the_full_run_has_the_declared_order():
    """Median error a sample: a few samples change sides between modes, and would rule a mean."""
    network = Mixture()
    counts = [100, 200, 500]
    full = {steps: ddim(network, steps) for steps in counts}
    for order in (1, 2, 3, 4):
        errors = []
        for steps in counts:
            config = ABCacheConfig(
                order=order,
                interval=2,
                warmup_steps=steps // 8,
                tail_steps=steps // 8,
                num_inference_steps=steps,
            )
            with ab_cache(network, config):
                off = ddim(network, steps) - full[steps]
            errors.append(float(off.square().mean(1).sqrt().median()))
        assert slope(errors, counts) >= order - 0.35, (order, errors)


@pytest.mark.parametrize("interval", [3, 4, 5, 6])
def test_fifty_steps_do_not_blow_up(interval):
    network = Mixture()
    full = ddim(network, 50)
    with ab_cache(network, order=2, interval=interval, num_inference_steps=50):
        off = ddim(network, 50) - full
    assert float(off.square().mean(1).sqrt().median()) < 0.1


def test_interval_one_is_no_cache_and_removal_leaves_nothing():
    network = Mixture()
    before = set(vars(network))
    full = ddim(network, 20)
    apply_ab_cache(network, interval=1)
    assert torch.equal(ddim(network, 20), full)
    assert ab_cache_stats(network)["skipped"] == 0
    remove_ab_cache(network)
    apply_ab_cache(network, interval=3)
    assert not torch.equal(ddim(network, 20), full)
    remove_ab_cache(network)
    assert set(vars(network)) == before
    assert "forward" not in vars(network)
    assert torch.equal(ddim(network, 20), full)
    remove_ab_cache(network)  # nothing to take off: nothing happens


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_outputs_that_are_a_polynomial_of_the_call_are_returned_to_rounding(order):
    network = Line(*np.random.default_rng(order).normal(size=order))
    expected = [float(np.polyval(network.coefficients, i)) for i in range(40)]
    torch.set_default_dtype(torch.float64)
    try:
        with ab_cache(network, order=order, interval=3, max_amplification=None):
            found = outputs(network, 40)
    finally:
        torch.set_default_dtype(torch.float32)
    assert network.seen < 20
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_order_one_repeats_the_last_real_output():
    network = Line(1.0, 0.0)
    with ab_cache(network, order=1, interval=3, warmup_steps=2) as cache:
        found = outputs(network, 9)
    mask = cache.stats()["denoisers"]["denoiser"]["branch 0"]["mask"]
    assert mask == [True, True, False, False, True, False, False, True, False]
    assert found == [0, 1, 1, 1, 4, 4, 4, 7, 7]


@pytest.mark.parametrize("coordinate", ["index", "timestep"])
def test_the_coordinate_is_what_the_outputs_are_a_polynomial_of(coordinate):
    class Square(nn.Module):
        def forward(self, sample, timestep):
            return sample * 0 + float(timestep)

    network = Square().eval()
    times = [1000 * 0.9**i for i in range(30)]
    with ab_cache(network, coordinate=coordinate, interval=3, max_amplification=None):
        off = [abs(float(network(torch.zeros(1), t)) - t) for t in times]
    assert (max(off) < 1e-3) == (coordinate == "timestep")
    with ab_cache(network, coordinate="timestep", interval=3) as cache:  # equal timesteps, as in Heun's method
        for t in np.repeat(times, 2):
            network(torch.randn(1), float(t))
    assert cache.stats()["skipped"] > 20


WRAPPERS = {
    "tensor": lambda v: v,
    "tuple": lambda v: (v,),
    "list": lambda v: [v, v * 2],
    "output": lambda v: Transformer2DModelOutput(sample=v),
    "unet": lambda v: UNet2DOutput(sample=v),
    "mixed": lambda v: (v, None, "text", torch.arange(3)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_container_and_dtype_of_an_output_are_kept(wrap, dtype):
    network = Line(2.0, 1.0, wrap=wrap)
    found = []
    with ab_cache(network, interval=2, warmup_steps=2):
        for i in range(8):
            network.at = i
            found.append(network(torch.zeros(2, 3, dtype=dtype), float(-i)))
    assert network.seen == 5
    for i, output in enumerate(found):
        expected = wrap(torch.full((2, 3), 2.0 * i + 1, dtype=dtype))
        assert type(output) is type(expected)
        torch.testing.assert_close(
            [v for v in _leaves(output) if isinstance(v, torch.Tensor)],
            [v for v in _leaves(expected) if isinstance(v, torch.Tensor)],
        )
        assert [v for v in _leaves(output) if not isinstance(v, torch.Tensor)] == [
            v for v in _leaves(expected) if not isinstance(v, torch.Tensor)
        ]


def _leaves(output: Any) -> list[Any]:
    if isinstance(output, torch.Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)


def test_a_real_output_is_handed_on_untouched_and_a_written_one_does_no_harm():
    network = Line(1.0, 5.0)
    with ab_cache(network, interval=2, warmup_steps=2):
        for i in range(9):
            network.at = i
            value = network(torch.zeros(1, 2), float(-i))
            assert float(value[0, 0]) == 5 + i
            value.fill_(torch.nan)  # pipelines add and rescale in place


class TwoBranches(nn.Module):
    """cond = 1 + 2i, uncond = -(3 + i): a history that mixed them would be far off."""

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        i = 100 - float(timestep if torch.is_tensor(timestep) else torch.tensor(timestep))
        cond = encoder_hidden_states.flatten()[0] > 0
        return hidden_states * 0 + (1 + 2 * i if cond else -3 - i)


@pytest.mark.parametrize("same", ["sample and number", "sample and time", "time only"])
def test_two_calls_a_step_are_two_branches_without_a_context(same):
    network = TwoBranches().eval()
    times = torch.arange(100.0, 80.0, -1.0)
    with ab_cache(network, interval=3, warmup_steps=3, max_amplification=None) as cache:
        for i, t in enumerate(times):
            x = torch.randn(1, 4)
            for sign in (1.0, -1.0):
                sample = x if "sample" in same else x.clone()
                time = float(t) if same == "sample and number" else t.expand(1)
                value = network(sample, timestep=time, encoder_hidden_states=torch.full((1, 2), sign))
                assert float(value[0, 0]) == pytest.approx(1 + 2 * i if sign > 0 else -3 - i, abs=1e-4)
    branches = cache.stats()["denoisers"]["denoiser"]
    assert list(branches) == ["branch 0", "branch 1"]
    assert branches["branch 0"]["mask"] == branches["branch 1"]["mask"]
    assert branches["branch 0"]["calls"] == 20
    assert branches["branch 0"]["real"] == 8


def test_extrapolating_branches_is_extrapolating_their_combination():
    network = Mixture()
    other = Mixture()
    other.exact = oracle.gaussian(network.exact.process, torch.zeros(16, dtype=torch.float64), 1.0)

    class Guided(nn.Module):
        def forward(self, sample, timestep):
            u, c = other(sample, timestep).sample, network(sample, timestep).sample
            return UNet2DOutput(sample=u + 3.0 * (c - u))

    together, settings = Guided().eval(), {"interval": 3, "num_inference_steps": 30}
    with ab_cache(together, **settings):
        expected = ddim(together, 30)
    with ab_cache(network, **settings), ab_cache(other, **settings):
        found = ddim(together, 30)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found, ddim(together, 30), atol=1e-6)


def test_repeated_times_of_heun_are_no_second_branch():
    network = Mixture()
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(20)
    x = torch.randn(2, 16, dtype=torch.float64)
    with ab_cache(network, num_inference_steps=39) as cache:
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    branches = cache.stats()["denoisers"]["denoiser"]
    assert {name: b["calls"] for name, b in branches.items()} == {"branch 0": 39}


def test_a_new_shape_begins_a_new_warm_up():
    network = Line(1.0, 0.0)
    made = []
    with ab_cache(network, interval=3, warmup_steps=2):
        for i in range(20):
            network.at, before = i, network.seen
            size = 4 if i < 7 else 2  # guidance is switched off
            assert network(torch.zeros(size, 2), float(-i)).shape == (size, 2)
            made.append(network.seen > before)
    assert made[:7] == [True, True, False, False, True, False, False]
    assert made[7:14] == [True, True, False, False, True, False, False]


def test_time_that_jumps_back_begins_a_new_run():
    network = Line(1.0, 0.0)
    with ab_cache(network, interval=3, warmup_steps=4, max_amplification=None) as cache:
        outputs(network, 7)  # interrupted: nobody says that the run is over
        first = cache.stats()["denoisers"]["denoiser"]["branch 0"]["mask"]
        found = outputs(network, 20)
        second = cache.stats()["denoisers"]["denoiser"]["branch 0"]["mask"]
    assert first == second[:7]
    assert len(second) == 20
    assert found == pytest.approx(list(range(20)))


def test_an_exception_of_the_network_begins_a_new_run():
    network = Line(1.0, 0.0)
    with ab_cache(network, interval=3, warmup_steps=4, max_amplification=None) as cache:
        outputs(network, 9)
        network.coefficients = None  # type: ignore[assignment]
        with pytest.raises(TypeError):
            outputs(network, 12, start=9)
        assert not [t for _, lane in cache.lanes() for t in lane.memory()]
        network.coefficients = (3.0, 1.0)
        assert outputs(network, 20) == pytest.approx([3 * i + 1 for i in range(20)])
        assert cache.stats()["denoisers"]["denoiser"]["branch 0"]["calls"] == 20


def test_the_run_is_over_when_all_calls_are_made():
    network = Line(1.0, 0.0)
    with ab_cache(network, interval=3, num_inference_steps=10) as cache:
        for _ in range(2):
            for i in range(10):
                network.at = i
                network(torch.randn(1, 2), 5.0)  # the time says nothing
        stats = cache.stats()
    assert stats["calls"] == 20
    assert stats["denoisers"]["denoiser"]["branch 0"]["mask"][:5] == [True] * 5
    assert stats["denoisers"]["denoiser"]["branch 0"]["calls"] == 10


def test_two_branches_meet_the_next_run_together():
    network = TwoBranches().eval()
    settings = {"interval": 3, "warmup_steps": 3, "num_inference_steps": 12, "max_amplification": None}
    with ab_cache(network, **settings) as cache:
        for _ in range(2):
            for i in range(12):
                x = torch.randn(1, 4)
                for sign in (1.0, -1.0):
                    value = network(x, 100.0 - i, encoder_hidden_states=torch.full((1, 2), sign))
                    assert float(value[0, 0]) == pytest.approx(1 + 2 * i if sign > 0 else -3 - i, abs=1e-4)
    assert cache.stats()["calls"] == 48


def test_the_memory_is_order_outputs_a_branch():
    network = Mixture()
    for order in (1, 2, 3, 4):
        with ab_cache(network, order=order) as cache:
            ddim(network, 20, count=5)
            kept = [t for _, lane in cache.lanes() for t in lane.memory()]
            assert [tuple(t.shape) for t in kept] == [(5, 16)] * order
        assert not [t for _, lane in cache.lanes() for t in lane.memory()]


def test_reset_forgets_in_the_middle_of_a_run():
    network = Line(1.0, 0.0)
    with ab_cache(network, interval=4, warmup_steps=2, max_amplification=None) as cache:
        outputs(network, 8)
        network.coefficients = (1.0, 100.0)  # another prompt
        reset_ab_cache(network)
        assert not [t for _, lane in cache.lanes() for t in lane.memory()]
        assert outputs(network, 12, start=8) == pytest.approx([108, 109, 110, 111])
    with pytest.raises(ValueError, match="has no AB-Cache"):
        reset_ab_cache(network)
    with pytest.raises(ValueError, match="has no AB-Cache"):
        ab_cache_stats(network)


def test_training_and_gradients_are_left_alone():
    network = nn.Sequential(nn.Linear(3, 3)).eval()
    network.forward = network[0].forward  # type: ignore[method-assign]
    apply_ab_cache(network, interval=3, warmup_steps=2)
    for _ in range(9):  # an output that needs a gradient is never kept
        assert network(torch.randn(2, 3)).requires_grad
    assert ab_cache_stats(network)["skipped"] == 0
    with torch.no_grad():
        for _ in range(9):
            network(torch.randn(2, 3))
    skipped = ab_cache_stats(network)["skipped"]
    assert skipped > 0
    x = torch.randn(2, 3, requires_grad=True)
    for _ in range(4):
        assert torch.autograd.grad(network(x).sum(), x)[0].abs().sum() > 0
    assert ab_cache_stats(network)["skipped"] == skipped
    network.train()
    with torch.no_grad():
        for _ in range(9):
            network(torch.randn(2, 3))
    assert ab_cache_stats(network)["skipped"] == skipped


def test_inference_mode_is_as_good_as_no_gradients():
    network = Mixture()
    with ab_cache(network, interval=3):
        expected = ddim(network, 20)
    with ab_cache(network, interval=3), torch.inference_mode():
        assert torch.equal(ddim(network, 20), expected)


def test_there_is_one_cache_a_denoiser():
    network = Mixture()
    apply_ab_cache(network)
    for again in (lambda: apply_ab_cache(network), lambda: ab_cache(network).__enter__()):
        with pytest.raises(ValueError, match="has an AB-Cache already"):
            again()
    remove_ab_cache(network)
    with ab_cache(network), pytest.raises(ValueError, match="has an AB-Cache already"):
        apply_ab_cache(network)
    assert hook_of(network) is None


def test_wrong_targets_and_settings_are_named():
    with pytest.raises(TypeError, match="torch module or on a pipeline with one of unet, transformer, transformer_2"):
        apply_ab_cache(object())
    with pytest.raises(TypeError, match="must be an ABCacheConfig, got dict"):
        apply_ab_cache(Mixture(), {"order": 2})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not both: order"):
        apply_ab_cache(Mixture(), ABCacheConfig(), order=2)


def test_threads_share_a_denoiser_and_no_history():
    network = Mixture()
    jobs = [(20 + i, 2 + i % 3) for i in range(8)]

    def work(job: tuple[int, int]) -> torch.Tensor:
        steps, interval = job
        with ab_cache(network, interval=interval, num_inference_steps=steps):
            return ddim(network, steps)

    expected = [work(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, jobs))
        plain = pool.submit(ddim, network, 20)
        with ab_cache(network):
            ddim(network, 20)
        assert torch.equal(plain.result(), ddim(network, 20))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert hook_of(network) is None
    apply_ab_cache(network, interval=3)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda steps: ddim(network, steps), [20] * 8))
    assert all(torch.equal(run, runs[0]) for run in runs)
    remove_ab_cache(network)
