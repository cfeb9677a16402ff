"""What holds for every registered method, whatever it computes."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep.samplers import EDM, Flow, GridOptions, VPContinuous, make_grid, run
from fewstep.samplers.core import oracle
from problems import METHODS, name_of, vp

every_method = pytest.mark.parametrize("method", METHODS, ids=name_of)

PROCESSES = {
    **{f"vp-{p}": (lambda p=p: vp(p)) for p in ("epsilon", "sample", "v_prediction")},
    "vp-cosine-v": lambda: VPContinuous("cosine", prediction="v_prediction"),
    **{f"flow-{p}": (lambda p=p: Flow(p)) for p in ("flow_prediction", "sample", "v_prediction")},
    **{f"edm-{p}": (lambda p=p: EDM(prediction=p)) for p in ("edm", "edm_v", "epsilon", "sample")},
}


def _data(seed: int = 0, count: int = 5, size: int = 6) -> torch.Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _start(points, shape=(4, 6), seed: int = 1) -> torch.Tensor:
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return points.nodes[0].sigma * noise


@every_method
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_constant_fields_are_solved_exactly(method, process):
    """Data at one point: x0, eps and the slope are constant along the path, whose end is the point itself."""
    process = process()
    point = _data()[:1]
    points = make_grid(process, 9, GridOptions(spacing="karras"))
    first = points.nodes[0]
    noise = _data(3, 4)
    start = first.alpha * point + first.sigma * noise
    end = run(oracle.finite(process, point), method, process, points, start).sample
    assert (end - point).abs().max() < 1e-9 * max(1.0, first.sigma)


@every_method
@pytest.mark.parametrize("kind", ["vp", "flow", "edm"])
def test_prediction_types_give_the_same_sample(method, kind):
    kinds = {
        "vp": [vp(p) for p in ("epsilon", "sample", "v_prediction")],
        "flow": [Flow(p) for p in ("flow_prediction", "sample", "v_prediction")],
        "edm": [EDM(prediction=p) for p in ("edm", "edm_v", "epsilon", "sample", "v_prediction", "flow_prediction")],
    }[kind]
    points = make_grid(kinds[0], 8, GridOptions(spacing="karras" if kind != "flow" else "linspace"))
    samples = [run(oracle.mixture(p, _data(), 0.4), method, p, points, _start(points)).sample for p in kinds]
    for other in samples[1:]:
        assert torch.allclose(samples[0], other, rtol=1e-7, atol=1e-8)


@every_method
def test_a_sample_does_not_depend_on_its_batch(method):
    process = vp()
    points = make_grid(process, 7)
    network = oracle.mixture(process, _data(), 0.4)
    start = _start(points)
    together = run(network, method, process, points, start).sample
    alone = torch.cat([run(network, method, process, points, start[i : i + 1]).sample for i in range(len(start))])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_keep_float32_states_and_their_dtype(method, dtype):
    process = vp()
    points = make_grid(process, 8)
    plan = method.plan(process, points)
    network = oracle.mixture(process, _data().float(), 0.4)
    half, full, s_half, s_full = _start(points).to(dtype), _start(points).to(dtype).float(), (), ()
    for i, node in enumerate(plan.calls):
        half, s_half = method.step(plan, i, half, network(half.float(), node.timestep).to(dtype), s_half)
        full, s_full = method.step(plan, i, full, network(full, node.timestep), s_full)
        assert half.dtype == dtype
        assert all(kept.dtype == torch.float32 for kept in s_half)
    assert torch.isfinite(half).all()
    assert (half.float() - full).abs().max() < (0.5 if dtype == torch.bfloat16 else 0.07)


class _Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name != "aten::_local_scalar_dense", "a scalar was read from a tensor: the device must wait for it"
        if not any(v in name for v in ("view", "reshape", "unsqueeze", "detach", "alias", "expand", "slice", "lift")):
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


@every_method
@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_tensor_operations_of_a_step_stay_within_the_declared_number(method, kind):
    process = vp() if kind == "vp" else Flow()
    if kind == "flow" and ("x0" in str(method) or "eps" in str(method) or "exponential" in str(method)):
        pytest.skip("declared for networks that predict what the method extrapolates")
    points = make_grid(process, 16)
    plan = method.plan(process, points)
    x, state = torch.randn(2, 4, 8, 8), ()
    for i in range(len(plan.calls)):
        prediction = torch.randn(2, 4, 8, 8)
        with _Count() as count:
            x, state = method.step(plan, i, x, prediction, state)
        assert len(count.operations) <= method.spec.operations, count.operations


@every_method
def test_overhead_is_at_most_order_plus_four_operations(method):
    """The limit for all but LML, which turns vectors and needs reductions."""
    numbers = getattr(method, "numbers", (getattr(method, "order", method.spec.order),))
    if method.name == "lml":
        assert method.spec.operations <= method.order + 27
    else:
        assert method.spec.operations <= numbers[0] + 4


@every_method
def test_latents_kept_are_those_declared(method):
    process = vp()
    points = make_grid(process, 24)
    plan = method.plan(process, points)
    x, state, kept = _start(points), (), []
    for i in range(len(plan.calls)):
        x, state = method.step(plan, i, x, torch.randn_like(x), state)
        kept.append(len(state))
    assert max(kept) == method.spec.history


@every_method
def test_inputs_are_never_changed_in_place(method):
    process = vp()
    points = make_grid(process, 6)
    plan = method.plan(process, points)
    x, state = _start(points), ()
    for i in range(len(plan.calls)):
        prediction = torch.randn_like(x)
        before = [t.clone() for t in (x, prediction, *state)]
        result, new_state = method.step(plan, i, x, prediction, state)
        for old, new in zip(before, (x, prediction, *state), strict=True):
            assert torch.equal(old, new)
        x, state = result, new_state


@every_method
def test_a_method_keeps_nothing_between_runs(method):
    process = vp()
    points = make_grid(process, 6)
    network = oracle.mixture(process, _data(), 0.4)
    first, second = (run(network, method, process, points, _start(points)).sample for _ in range(2))
    assert torch.equal(first, second)


@every_method
def test_zero_terminal_snr_starts_from_pure_noise(method):
    """alpha = 0 at the first call: every method must begin with the finite first-order step."""
    from fewstep.samplers import VPDiscrete, betas_of_schedule

    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012), "v_prediction", True)
    points = make_grid(process, 12, GridOptions(spacing="trailing"))
    assert points.nodes[0].alpha == 0
    end = run(oracle.mixture(process, _data(), 0.4), method, process, points, _start(points)).sample
    assert torch.isfinite(end).all()
    reference = run(
        oracle.mixture(process, _data(), 0.4), method, process, make_grid(process, 999), _start(points)
    ).sample
    if method.spec.order:
        assert (end - reference).abs().median() < 0.35


@every_method
def test_a_run_makes_the_declared_number_of_network_calls(method):
    process = vp()
    calls = []
    network = oracle.mixture(process, _data(), 0.4)

    def counted(x, timestep):
        calls.append(timestep)
        return network(x, timestep)

    points = make_grid(process, 5)
    result = run(counted, method, process, points, _start(points))
    assert result.calls == len(calls) == 5 * method.spec.calls + method.spec.extra_calls


@every_method
def test_every_field_is_documented_and_checked(method):
    for item in dataclasses.fields(method):
        assert len(item.metadata["help"]) > 10
        if item.metadata["choices"] is not None:
            with pytest.raises(ValueError, match=item.name):
                dataclasses.replace(method, **{item.name: "nonsense"})
        elif item.metadata["high"] is not None:
            for bad in (item.metadata["high"] + 1, math.nan, "nonsense"):
                with pytest.raises(ValueError, match=item.name):
                    dataclasses.replace(method, **{item.name: bad})
    assert method.summary
    assert method.formula
    assert all(r.authors and r.title and r.year > 1950 for r in method.references)
    assert "arXiv" in type(method).__doc__


@every_method
def test_a_run_of_one_call_is_ddim(method):
    if method.spec.calls + method.spec.extra_calls > 1:
        pytest.skip("one step of it is more than one call")
    process = vp()
    points = make_grid(process, 1)
    network = oracle.mixture(process, _data(), 0.4)
    start = _start(points)
    node = points.nodes[0]
    eps = network(start, node.timestep)
    expected = (start - node.sigma * eps) / node.alpha
    assert torch.allclose(run(network, method, process, points, start).sample, expected, atol=1e-10)


def test_every_pair_of_processes_and_spacings_runs():
    method = METHODS[0]
    processes = [vp(), VPContinuous(), Flow(), EDM()]
    for process, spacing in itertools.product(
        processes, ("linspace", "leading", "trailing", "karras", "exponential", "beta", "logsnr")
    ):
        for steps in (1, 2, 7, 30):
            points = make_grid(process, steps, GridOptions(spacing=spacing))
            assert points.calls == steps
            end = run(oracle.mixture(process, _data(), 0.4), method, process, points, _start(points)).sample
            assert torch.isfinite(end).all()
