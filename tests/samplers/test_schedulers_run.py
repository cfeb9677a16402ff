"""The state of a run: where it starts, that it repeats, can be copied and shared, what it refuses and never reads."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep.samplers as fs

METHODS = [
    fs.AdamsBashforth(),
    fs.ExponentialAdams(order=3),
    fs.GHVB(),
    fs.GHVB(momentum="auto"),
    fs.HeavyBall(),
    fs.Nesterov(),
    fs.LML(kappa=0.2),
    fs.LML(base="euler"),
]
FLOW = {"process": "flow", "prediction_type": "flow_prediction", "shift": 3.0}
PROCESSES: list[dict[str, Any]] = [{"beta_schedule": "scaled_linear"}, FLOW, {"process": "edm"}]


def name_of(method: fs.Method) -> str:
    changed = {k: v for k, v in vars(method).items() if v != getattr(type(method)(), k)}
    return f"{type(method).__name__}({', '.join(f'{k}={v}' for k, v in changed.items())})"


each_method = pytest.mark.parametrize("method", METHODS, ids=name_of)
each_process = pytest.mark.parametrize("options", PROCESSES, ids=["vp", "flow", "edm"])


def scheduler(method: fs.Method, **options: Any) -> Any:
    return fs.scheduler_class(method)(**vars(method), **options)


def noise(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)


def network(i: int, x: torch.Tensor) -> torch.Tensor:
    return torch.sin((1 + 0.1 * i) * x + 0.3 * i)


def go(s: Any, x: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Loop over `timesteps` from `start` on, with networks numbered from the beginning of the schedule."""
    for i, t in enumerate(s.timesteps[start:], start):
        x = s.step(network(i, s.scale_model_input(x, t)), t, x, return_dict=False)[0]
    return x


# -- where a run starts ----------------------------------------------------------------------------------------


@each_process
@each_method
def test_a_run_from_the_middle_is_a_run_on_the_tail(method: fs.Method, options: dict[str, Any]) -> None:
    """Starting at call k equals a fresh scheduler on the last sigmas: no history leaks in, no weight differs."""
    s = scheduler(method, **options)
    s.set_timesteps(10)
    tail_options = {**options, "shift": 1.0} if "shift" in options else options
    for k in (0, 3, 9):
        fresh = scheduler(method, **tail_options)
        fresh.set_timesteps(sigmas=s.sigmas[k:-1].double().tolist())
        s.set_timesteps(10)
        by_timestep = go(s, noise(), k)
        s.set_timesteps(10)
        s.set_begin_index(k)
        by_index = go(s, noise(), k)
        x = noise()
        for i, t in enumerate(fresh.timesteps):
            x = fresh.step(network(i + k, fresh.scale_model_input(x, t)), t, x).prev_sample
        assert torch.equal(by_index, by_timestep)
        torch.testing.assert_close(by_index, x, rtol=1e-4, atol=1e-4)


@each_process
@each_method
def test_running_again_is_bit_identical(method: fs.Method, options: dict[str, Any]) -> None:
    s = scheduler(method, **options)
    s.set_timesteps(7)
    first = go(s, noise())
    assert s.step_index == 7
    assert torch.equal(go(s, noise()), first)  # a finished object restarts by itself
    s.set_timesteps(4)
    s.set_begin_index(2)
    go(s, noise(), 2)
    s.set_timesteps(7)
    assert (s.step_index, s.begin_index) == (None, None)
    go_half = s.step(noise(), s.timesteps[0], noise()).prev_sample
    assert go_half.shape == noise().shape  # a run that was cut short
    s.set_timesteps(7)
    assert torch.equal(go(s, noise()), first)


def test_the_step_index_counts_calls_from_the_beginning_of_the_schedule() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(6)
    s.set_begin_index(2)
    x = noise()
    for expected, t in zip((3, 4, 5, 6), s.timesteps[2:], strict=True):
        x = s.step(x, t, x).prev_sample
        assert s.step_index == expected
    assert s.begin_index == 2


def test_a_step_index_cleared_by_hand_begins_anew() -> None:
    s = fs.AdamsBashforthScheduler()
    s.set_timesteps(6)
    expected = go(s, noise(), 3)
    s.set_timesteps(6)
    s.step(noise(), s.timesteps[5], noise())
    s._step_index = None
    assert torch.equal(go(s, noise(), 3), expected)


@each_method
def test_two_threads_with_a_scheduler_each_do_not_meet(method: fs.Method) -> None:
    config = scheduler(method).config
    cls = fs.scheduler_class(method)

    def one(seed: int) -> torch.Tensor:
        s = cls.from_config(config)
        s.set_timesteps(12)
        return go(s, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))

    alone = [one(seed) for seed in range(4)]
    together: dict[int, torch.Tensor] = {}

    def keep(seed: int) -> None:
        together[seed] = one(seed)

    threads = [threading.Thread(target=keep, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[seed], alone[seed]) for seed in range(4))


@each_process
@each_method
def test_copies_go_their_own_way(method: fs.Method, options: dict[str, Any]) -> None:
    """deepcopy and pickle in the middle of a run carry on alike and leave the original alone."""
    s = scheduler(method, **options)
    s.set_timesteps(8)
    x = noise()
    for i, t in enumerate(s.timesteps[:4]):
        x = s.step(network(i, s.scale_model_input(x, t)), t, x).prev_sample
    copies = [copy.deepcopy(s), pickle.loads(pickle.dumps(s))]
    ends = [go(other, x, 4) for other in copies]
    assert s.step_index == 4
    end = go(s, x, 4)
    for other, result in zip(copies, ends, strict=True):
        assert type(other) is type(s)
        assert other.config == s.config
        assert torch.equal(result, end)


# -- grids of one's own ------------------------------------------------------------------------------------------


def test_timesteps_of_ones_own() -> None:
    s = fs.GHVBScheduler()
    for given in ([900, 500, 100], (900, 500, 100), np.array([900, 500, 100]), torch.tensor([900, 500, 100])):
        s.set_timesteps(timesteps=given)
        assert s.timesteps.tolist() == [900, 500, 100]
        assert s.timesteps.dtype == torch.int64
        bar = s.alphas_cumprod[s.timesteps].double()
        torch.testing.assert_close(s.sigmas[:-1].double(), ((1 - bar) / bar).sqrt(), rtol=1e-5, atol=0)
    s.set_timesteps(timesteps=[900.5, 500, 100])
    assert s.timesteps.dtype == torch.float32
    assert s.timesteps.tolist() == [900.5, 500, 100]


def test_sigmas_of_ones_own() -> None:
    """The timesteps told are those whose noise level it is: Euler's, from the same sigmas. A final 0 may be there."""
    theirs = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    s = fs.GHVBScheduler.from_config(theirs.config)
    levels = [14.0, 3.0, 0.5, 0.05]
    for given in (levels, [*levels, 0.0], np.array(levels), torch.tensor([*levels, 0.0])):
        s.set_timesteps(sigmas=given)
        assert s.sigmas.tolist() == pytest.approx([14.0, 3.0, 0.5, 0.05, 0.0])
    theirs.set_timesteps(sigmas=[14.0, 3.0, 0.5, 0.05, 0.0])
    torch.testing.assert_close(s.timesteps, theirs.timesteps, rtol=0, atol=2e-2)


def test_mu_is_needed_with_dynamic_shifting_and_ignored_by_a_flow_without() -> None:
    dynamic = fs.GHVBScheduler(**{**FLOW, "use_dynamic_shifting": True})
    with pytest.raises(ValueError, match="by mu, and none was given"):
        dynamic.set_timesteps(5)
    dynamic.set_timesteps(5, mu=0.7)
    plain = fs.GHVBScheduler(**FLOW)
    plain.set_timesteps(5)
    expected = plain.sigmas
    plain.set_timesteps(5, mu=0.7)  # as FlowMatchEuler: Flux' pipelines pass mu to every scheduler
    assert torch.equal(plain.sigmas, expected)
    with pytest.raises(ValueError, match="mu was given"):
        fs.GHVBScheduler().set_timesteps(5, mu=0.7)


def test_timesteps_live_where_asked_and_sigmas_on_the_host() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(5, device="meta")
    assert s.timesteps.device.type == "meta"
    assert s.sigmas.device.type == "cpu"


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ({"num_inference_steps": 0}, "at least 1, got 0"),
        ({"num_inference_steps": -1}, "at least 1, got -1"),
        ({"num_inference_steps": 1.5}, "whole number"),
        ({"num_inference_steps": True}, "whole number"),
        ({"num_inference_steps": 1001}, "1001 steps are more than the 1000 timesteps"),
        ({}, "say how many steps"),
        ({"timesteps": []}, "empty"),
        ({"timesteps": [500, 500, 100]}, "without duplicates"),
        ({"timesteps": [100, 500, 900]}, "decreas|monotone"),
        ({"timesteps": [1000, 500]}, r"lie in \[0, 999\], got 1000"),
        ({"timesteps": [500, -1]}, r"lie in \[0, 999\], got -1"),
        ({"timesteps": [900, 500], "num_inference_steps": 3}, "3 steps were asked for"),
        ({"timesteps": [900, 500], "sigmas": [3.0, 1.0, 0.5]}, "numbers must agree"),
        ({"timesteps": [900, 500], "sigmas": [3.0, 1.0]}, "not both"),
        ({"sigmas": [3.0, 3.0, 1.0]}, "without duplicates"),
        ({"sigmas": [3.0, -1.0]}, "must not be negative"),
        ({"sigmas": [float("nan"), 1.0]}, "nan"),
    ],
)
def test_bad_grids_are_refused_with_a_sentence(grid: dict[str, Any], sentence: str) -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(4)
    before = (s.timesteps, s.sigmas)
    with pytest.raises(ValueError, match=sentence):
        s.set_timesteps(**grid)
    assert s.timesteps is before[0]  # the last good grid stays
    assert s.sigmas is before[1]


@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
def test_timesteps_and_a_sigma_spacing_contradict_each_other(key: str) -> None:
    with pytest.raises(ValueError, match="one's own timesteps cannot be combined"):
        fs.GHVBScheduler(**{key: True}).set_timesteps(timesteps=[900, 500, 100])


def test_a_whole_float_is_a_number_of_steps() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(10.0)
    assert len(s.timesteps) == 10


@pytest.mark.parametrize("sigmas", [[1.0, 1.0], [0.2, 0.8], [1.2, 0.5], [1.0, 0.0, 0.0]])
def test_bad_flow_sigmas_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"monotone|\(0, 1\]"):
        fs.GHVBScheduler(**FLOW).set_timesteps(sigmas=sigmas)


def test_a_step_before_set_timesteps_is_refused() -> None:
    with pytest.raises(ValueError, match="call set_timesteps before the first step"):
        fs.GHVBScheduler().step(noise(), 0, noise())


def test_an_output_of_another_shape_is_refused() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(4)
    with pytest.raises(ValueError, match=r"\(2, 6, 4, 4\), the sample \(2, 3, 4, 4\)"):
        s.step(noise().repeat(1, 2, 1, 1), s.timesteps[0], noise())


def test_an_epsilon_network_at_pure_noise_is_refused_in_words() -> None:
    flow = fs.GHVBScheduler(process="flow", prediction_type="epsilon")
    flow.set_timesteps(4)
    with pytest.raises(ValueError, match="no signal is left"):
        flow.step(noise(), flow.timesteps[0], noise())


@each_method
def test_nan_stays_in_its_sample(method: fs.Method) -> None:
    """A network that fails is seen in the picture, as NaN; its batch mates are as without it."""
    for options in ({}, {"thresholding": True}):
        s = scheduler(method, **options)
        s.set_timesteps(6)
        clean = go(s, noise())
        bad = noise()
        bad[0] = torch.nan
        result = go(s, bad)
        assert result[0].isnan().all()
        assert torch.equal(result[1], clean[1])


# -- what a step reads -------------------------------------------------------------------------------------------


class NoScalarRead(TorchDispatchMode):
    """Fails on every read of a value from a tensor; counts the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.equal.default,
        ), f"a step read a scalar: {func}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("begin", [True, False])
@each_process
@each_method
def test_a_step_reads_no_scalar(method: fs.Method, options: dict[str, Any], begin: bool, start: int) -> None:
    """Neither the first step, where the timestep is an element of `timesteps`, nor any other."""
    s = scheduler(method, **options)
    s.set_timesteps(6)
    if begin:
        s.set_begin_index(start)
    x, prediction = noise(), noise().flip(0)
    times = list(s.timesteps[start:])
    with NoScalarRead() as watch:
        for t in times:
            x = s.scale_model_input(x, t) * 1.0
            x = s.step(prediction, t, x, return_dict=False)[0]
            x = s.add_noise(x, prediction, t) if begin and s.step_index < 6 else x
    assert watch.operations > 0


def test_the_operations_of_a_step_are_few() -> None:
    """What `Spec.operations` promises holds for the scheduler too: the adapter adds none on float32 latents."""
    for method in (fs.AdamsBashforth(), fs.ExponentialAdams(form="eps"), fs.GHVB()):
        s = scheduler(method)
        s.set_timesteps(20)
        x, prediction = noise(), noise().flip(0)
        for t in list(s.timesteps):
            with NoScalarRead() as watch:
                x = s.step(prediction, t, x, return_dict=False)[0]
            # looking up a storage is not an operation; the comparison of shapes neither
            assert watch.operations <= method.spec.operations


# -- index_for_timestep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, FLOW], ids=["int64", "float32"])
def test_index_of_a_timestep(options: dict[str, Any]) -> None:
    s = fs.GHVBScheduler(**options)
    s.set_timesteps(10)
    for i, t in enumerate(s.timesteps):
        assert s.index_for_timestep(t) == i
        assert s.index_for_timestep(t[None]) == i
        assert s.index_for_timestep(t.clone()) == i
        assert s.index_for_timestep(float(t)) == i
        assert s.index_for_timestep(int(t)) == i
        assert s.index_for_timestep(t.expand(3)) == i
        assert s.index_for_timestep(t.double()) == i
        assert s.index_for_timestep(t, s.timesteps) == i
        assert s.index_for_timestep(t, s.timesteps.clone()) == i
    for i, t in enumerate(s.timesteps[4:]):
        assert s.index_for_timestep(t) == i + 4
        assert s.index_for_timestep(t, s.timesteps[4:]) == i
    for i, t in enumerate(s.timesteps[1::3]):
        assert s.index_for_timestep(t) == 1 + 3 * i
        assert s.index_for_timestep(t, s.timesteps[1::3]) == i
    for i, t in enumerate(s.timesteps.flip(0)):
        assert s.index_for_timestep(t) == 9 - i
    for i, t in enumerate(s.timesteps.to(torch.float64)):
        assert s.index_for_timestep(t) == i


def test_a_timestep_that_lies_between_is_the_nearest() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(timesteps=[900, 500, 100])
    assert [s.index_for_timestep(t) for t in (999, 701, 699, 301, 299, 0)] == [0, 0, 1, 1, 2, 2]


def test_elements_of_an_earlier_schedule_are_found_by_value() -> None:
    s = fs.GHVBScheduler()
    s.set_timesteps(timesteps=[900, 500, 100])
    old = s.timesteps
    s.set_timesteps(timesteps=[500, 100, 50])
    assert s.index_for_timestep(old[1]) == 0
    assert s.index_for_timestep(old[2]) == 1


# -- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_process
@each_method
def test_half_precision_is_float32_but_for_the_rounding_of_latents(
    method: fs.Method, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """With the same rounded network outputs, a run differs from float32's by a few units in the last place."""
    low, high = scheduler(method, **options), scheduler(method, **options)
    x = y = noise(dtype)
    for s in (low, high):
        s.set_timesteps(8)
    y = y.float()
    largest = float(y.abs().max())
    for i, t in enumerate(low.timesteps):
        prediction = network(i, x).to(dtype)
        x = low.step(prediction, t, x).prev_sample
        y = high.step(prediction.float(), t, y).prev_sample
        assert x.dtype == dtype
        assert y.dtype == torch.float32
        largest = max(largest, float(y.abs().max()))
    scale = 12 if not isinstance(method, fs.LML) else 40  # the rotation of LML hangs on small differences
    assert (x.float() - y).abs().max() <= scale * torch.finfo(dtype).eps * largest


@each_method
def test_the_dtype_of_the_network_decides(method: fs.Method) -> None:
    """A float32 latent with a bf16 network goes on in bf16, as with diffusers' schedulers; float64 stays float64."""
    s = scheduler(method)
    s.set_timesteps(3)
    assert s.step(noise(torch.bfloat16), s.timesteps[0], noise()).prev_sample.dtype == torch.bfloat16
    s.set_timesteps(3)
    assert go(s, noise(torch.float64)).dtype == torch.float64


@each_method
def test_a_step_leaves_its_arguments_alone(method: fs.Method) -> None:
    s = scheduler(method, thresholding=True)
    s.set_timesteps(4)
    x, prediction = noise(), noise().flip(0)
    for t in s.timesteps:
        s.step(prediction, t, x)
    assert torch.equal(x, noise())
    assert torch.equal(prediction, noise().flip(0))
