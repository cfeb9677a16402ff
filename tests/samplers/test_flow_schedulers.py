"""FireFlow's schedulers and their inverses in real flow-matching pipelines: calls, grids, precision, changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_flows
import torch
from tiny_flows import FLOWS, Flow, damp_time, euler
from torch.utils._python_dispatch import TorchDispatchMode

import fewstep.samplers as fs

LEGS = ("FireFlowScheduler", "FireFlowInverseScheduler")
STAGED = ("FireFlowScheduler", "MidpointScheduler", "OBELMScheduler")
INVERSE = (
    "EulerInverseScheduler",
    "FireFlowInverseScheduler",
    "MidpointInverseScheduler",
    "OBELMInverseScheduler",
    "UniInvInverseScheduler",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FLOWS)
def flow(request: pytest.FixtureRequest) -> Flow:
    made = FLOWS[request.param]()
    damp_time(made.network)
    return made


def watched(flow: Flow, scheduler: Any, steps: int, latents: torch.Tensor, **more: Any) -> tuple[torch.Tensor, list]:
    """Final latents, and (arguments, keywords) of every network call."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = flow.network.register_forward_pre_hook(lambda _, a, k: seen.append((a, dict(k))), with_kwargs=True)
    try:
        return flow.run(scheduler, steps, latents, **more), seen
    finally:
        hook.remove()


def made(flow: Flow, name: str, **options: Any) -> Any:
    return getattr(fs, name).from_config(flow.config, **options)


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.float() - y.float()).norm() / y.float().norm())


def noise(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)


def velocity(x: torch.Tensor, t: Any) -> torch.Tensor:
    return (torch.sin(1.3 * x.float() + 0.4) * (0.5 + float(t) / 1000)).to(x.dtype)


def go(s: Any, x: torch.Tensor, start: int = 0) -> torch.Tensor:
    for t in s.timesteps[start:]:
        x = s.step(velocity(x, t), t, x, return_dict=False)[0]
    return x


# -- in pipelines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEGS)
def test_a_pipeline_makes_one_call_an_entry_and_computes_what_the_plain_loop_does(flow: Flow, name: str) -> None:
    """Flux packs its latents, SD3 does not, Sana and Wan tell their networks the time in other ways: all alike."""
    scheduler, start = made(flow, name), flow.noise()
    end, seen = watched(flow, scheduler, 6, start)
    count = scheduler.num_inference_steps
    assert len(seen) == len(scheduler.timesteps) == count + 1
    edges = [node.timestep for node in scheduler.edges.nodes]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    assert scheduler.timesteps.tolist() == pytest.approx([edges[0], *middles], abs=1e-3)
    assert (edges[0] == 0) == (name == "FireFlowInverseScheduler")
    _, keywords = seen[0]
    told = [float(k["timestep"].reshape(-1)[0]) for _, k in seen]
    scale = told[1] / float(scheduler.timesteps[1])
    assert told == pytest.approx([scale * t for t in scheduler.timesteps.tolist()], rel=1e-3, abs=1e-6)

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        time = torch.full_like(keywords["timestep"], scale * timestep)
        with torch.no_grad():
            return flow.network(**{**keywords, "hidden_states": x, "timestep": time, "return_dict": False})[0]

    expected = fs.run(network, fs.FireFlow(), scheduler.process, scheduler.edges, start).sample
    assert relative(end, expected) < 2e-5


def test_inverting_and_sampling_returns_to_the_latents(flow: Flow) -> None:
    """Eight steps of FireFlow come nearer than 32 of Euler; twice the steps give less than a third of the error."""
    start = flow.noise(3)

    def error(there: str, back: str, steps: int, **fields: Any) -> float:
        found = flow.run(made(flow, there), steps, start)
        return relative(flow.run(made(flow, back, **fields), steps, found), start)

    eight, sixteen = (error("FireFlowInverseScheduler", "FireFlowScheduler", n) for n in (8, 16))
    assert eight < 0.4 * error("EulerInverseScheduler", "AdamsBashforthScheduler", 32, order=1)
    assert sixteen < 0.35 * eight


def test_the_other_inverses_run_in_the_same_pipelines_and_return_nearer_than_euler(flow: Flow) -> None:
    start = flow.noise(3)
    errors = []
    for there, back, fields, calls in (
        ("EulerInverseScheduler", "AdamsBashforthScheduler", {"order": 1}, (6, 6)),
        ("MidpointInverseScheduler", "MidpointScheduler", {}, (12, 12)),
        ("UniInvInverseScheduler", "AdamsBashforthScheduler", {"order": 1}, (7, 6)),
    ):
        found, up = watched(flow, made(flow, there), 6, start)
        again, down = watched(flow, made(flow, back, **fields), 6, found)
        assert (len(up), len(down)) == calls
        errors.append(relative(again, start))
    assert max(errors[1:]) < 0.5 * errors[0]


def test_o_belm_goes_on_from_an_inversion_and_returns_to_rounding(flow: Flow) -> None:
    start = flow.noise(3)
    inverse, scheduler = made(flow, "OBELMInverseScheduler"), made(flow, "OBELMScheduler")
    found, up = watched(flow, inverse, 8, start)
    back, down = watched(flow, scheduler, 8, scheduler.resume(inverse))
    assert (len(up), len(down)) == (8, 7)
    assert relative(back, start) < 1e-4
    plain = flow.run(made(flow, "OBELMScheduler"), 8, found)
    assert relative(plain, start) > 100 * relative(back, start)


def test_o_belm_in_bfloat16_is_exact_but_for_the_rounding_of_what_comes_out() -> None:
    half = tiny_flows.flux()
    half.pipe.to(torch.bfloat16)
    half.call |= {k: v.to(torch.bfloat16) for k, v in half.call.items() if isinstance(v, torch.Tensor)}
    start = half.noise(3).bfloat16()
    inverse, scheduler = made(half, "OBELMInverseScheduler"), made(half, "OBELMScheduler")
    half.run(inverse, 8, start)
    back = half.run(scheduler, 8, scheduler.resume(inverse))
    assert relative(back, start) < 1e-4


def test_fireflow_starts_warm_from_its_inversion(flow: Flow) -> None:
    start = flow.noise(3)
    inverse, scheduler = made(flow, "FireFlowInverseScheduler"), made(flow, "FireFlowScheduler")
    found = flow.run(inverse, 8, start)
    warm, calls = watched(flow, scheduler, 8, scheduler.resume(inverse))
    assert len(calls) == 8
    assert relative(warm, start) < 1.5 * relative(flow.run(made(flow, "FireFlowScheduler"), 8, found), start)
    again = flow.run(scheduler, 8, found)
    assert len(scheduler.timesteps) == 9  # the run after it is an ordinary one
    assert torch.equal(again, flow.run(made(flow, "FireFlowScheduler"), 8, found))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_round_trip_in_half_precision_stays_below_its_floor(dtype: torch.dtype) -> None:
    """Model and latents in half precision, the state of the scheduler in float32: less than 5e-3 off in bfloat16."""
    half = tiny_flows.flux()
    damp_time(half.network)
    half.pipe.to(dtype)
    half.call |= {k: v.to(dtype) for k, v in half.call.items() if isinstance(v, torch.Tensor)}
    start = half.noise(3).to(dtype)
    bound = 5e-3 if dtype == torch.bfloat16 else 8e-4
    for steps in (8, 32):
        found = half.run(made(half, "FireFlowInverseScheduler"), steps, start)
        back = half.run(made(half, "FireFlowScheduler"), steps, found)
        assert found.dtype == back.dtype == dtype
        assert relative(back, start) < bound


def test_image_to_image_starts_in_a_middle() -> None:
    """Five steps at strength 0.6 are four calls: Euler makes three, and begins half an interval later."""
    case = tiny_flows.flux_img2img()
    scheduler = made(case, "FireFlowScheduler")
    end, seen = watched(case, scheduler, 5, None, strength=0.6)
    edges = [node.sigma for node in scheduler.edges.nodes]
    assert len(seen) == 4
    assert float(seen[0][1]["timestep"]) == pytest.approx((edges[1] + edges[2]) / 2, rel=1e-4)
    assert torch.isfinite(end).all()
    _, theirs = watched(case, euler(**tiny_flows.DYNAMIC), 5, None, strength=0.6)
    assert len(theirs) == 3
    midpoint = made(case, "MidpointScheduler")
    _, twice = watched(case, midpoint, 5, None, strength=0.6)
    assert len(twice) == 6
    assert float(twice[0][1]["timestep"]) == pytest.approx(edges[2], rel=1e-4)


def test_a_callback_that_changes_the_latents_is_felt_and_one_that_returns_them_is_not(flow: Flow) -> None:
    if not hasattr(flow.pipe, "_callback_tensor_inputs"):
        pytest.skip("this pipeline has no callback")
    start = flow.noise()

    def run(change: float | None) -> torch.Tensor:
        def callback(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            return {"latents": kwargs["latents"] + change} if change is not None and i == 2 else kwargs

        return flow.run(made(flow, "FireFlowScheduler"), 5, start, callback_on_step_end=callback)

    plain = flow.run(made(flow, "FireFlowScheduler"), 5, start)
    assert torch.equal(run(None), plain)
    assert torch.equal(run(0.0), plain)
    assert 0.05 < float((run(0.1) - plain).abs().mean()) < 0.2


# -- the grid --------------------------------------------------------------------------------------------------

GRIDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"num_inference_steps": 8}),
    "one step": ({}, {"num_inference_steps": 1}),
    "shift": ({"shift": 3.0}, {"num_inference_steps": 8}),
    "mu": ({"use_dynamic_shifting": True}, {"num_inference_steps": 8, "mu": 0.8}),
    "terminal": ({"shift": 2.0, "shift_terminal": 0.1}, {"num_inference_steps": 8}),
    "karras": ({"shift": 3.0, "use_karras_sigmas": True}, {"num_inference_steps": 8}),
    "sigmas": ({"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.4, 0.1]}),
    "sigmas and mu": ({"use_dynamic_shifting": True}, {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 1.0}),
    "backwards": ({"shift": 3.0, "invert_sigmas": True}, {"num_inference_steps": 8}),
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_edges_are_the_sigmas_of_flow_euler(name: str) -> None:
    options, grid = GRIDS[name]
    theirs = euler(**options)
    theirs.set_timesteps(**grid)
    s = fs.FireFlowScheduler.from_config(theirs.config)
    s.set_timesteps(**grid)
    count = len(theirs.timesteps)
    sigmas = theirs.sigmas.double()
    middles = (sigmas[1:] + sigmas[:-1]) / 2
    expected = torch.cat([sigmas[:1], middles, sigmas[-1:]])
    torch.testing.assert_close(s.sigmas.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(s.timesteps.double(), 1000 * expected[:-1], rtol=0, atol=1e-3)
    assert (len(s.timesteps), s.num_inference_steps) == (count + 1, count)
    inverse = fs.FireFlowInverseScheduler.from_config(theirs.config)
    inverse.set_timesteps(**grid)
    back = torch.cat([sigmas[-1:], middles.flip(0), sigmas[:1]])
    torch.testing.assert_close(inverse.sigmas.double(), back, rtol=0, atol=1e-6)
    torch.testing.assert_close(inverse.timesteps.double(), 1000 * back[:-1], rtol=0, atol=1e-3)
    assert [n.sigma for n in inverse.edges.nodes] == [n.sigma for n in s.edges.nodes][::-1]


def test_a_flow_whose_time_runs_backwards_is_the_same_flow() -> None:
    """Mochi: sigma' = 1 - sigma, velocity x0 - eps. The sample is that of the ordinary convention."""
    plain, reverse = (fs.FireFlowScheduler.from_config(euler(shift=3.0, invert_sigmas=b).config) for b in (False, True))
    for s in (plain, reverse):
        s.set_timesteps(7)
    x = y = noise()
    for t, u in zip(plain.timesteps, reverse.timesteps, strict=True):
        assert float(t + u) == pytest.approx(1000, abs=1e-3)
        x, y = plain.step(velocity(x, t), t, x).prev_sample, reverse.step(-velocity(y, t), u, y).prev_sample
    torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    theirs = euler(shift=3.0, invert_sigmas=True)
    theirs.set_timesteps(7)
    mine = fs.EulerInverseScheduler.from_config(theirs.config)
    mine.set_timesteps(7)
    z = noise()
    for t in mine.timesteps:
        z = mine.step(0.1 * z, t, z).prev_sample
    expected, edges = noise(), theirs.sigmas.flip(0).tolist()
    for e, to in pairwise(edges):
        expected = expected + (to - e) * 0.1 * expected
    torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)


def test_timesteps_told_by_hand_hold_for_the_edges_and_between_them() -> None:
    s = fs.FireFlowScheduler.from_config(euler().config)
    s.set_timesteps(sigmas=[1.0, 0.6], timesteps=[990.0, 500.0])
    assert s.timesteps.tolist() == [990.0, 745.0, 250.0]
    assert s.sigmas.tolist() == pytest.approx([1.0, 0.8, 0.3, 0.0])


def test_scale_noise_is_at_the_level_of_the_network_call() -> None:
    """Image to image and inpainting noise their latents at `timesteps[i]`, which is a middle."""
    s = fs.FireFlowScheduler.from_config(euler(shift=3.0).config)
    s.set_timesteps(6)
    x, e = noise(), noise().flip(0)
    for t, sigma in zip(s.timesteps, s.sigmas.tolist(), strict=False):
        torch.testing.assert_close(s.scale_noise(x, t[None], e), (1 - sigma) * x + sigma * e, rtol=0, atol=1e-6)


def test_order_is_what_a_pipeline_must_multiply_a_number_of_steps_by() -> None:
    """Flux and others count the entries of `timesteps` once they have passed sigmas; others go by the number."""
    for name, factor in (("FireFlowScheduler", 1), ("MidpointScheduler", 2), ("OBELMScheduler", 1)):
        s = getattr(fs, name).from_config(euler().config)
        s.set_timesteps(6)
        assert s.order == factor
        s.set_timesteps(sigmas=[1.0, 0.5, 0.2])
        assert s.order == 1


# -- a run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_state_between_two_calls_is_the_published_one(steps: int) -> None:
    """y_k = x_k + h_k/2 v_{k-1} is what a pipeline holds; x_N comes out at the end."""
    s = fs.FireFlowScheduler.from_config(euler(shift=2.0).config)
    s.set_timesteps(steps)
    e = [node.sigma for node in s.edges.nodes]
    x = y = noise(torch.float64)
    for i, t in enumerate(s.timesteps):
        v = velocity(y, t)
        y = s.step(v, t, y).prev_sample
        x = x if i == 0 else x + (e[i] - e[i - 1]) * v
        expected = x if i == steps else x + (e[i + 1] - e[i]) / 2 * v
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_a_start_in_the_middle_is_the_published_one() -> None:
    s = fs.FireFlowScheduler.from_config(euler(shift=2.0).config)
    for begin in (True, False):
        s.set_timesteps(5)
        if begin:
            s.set_begin_index(2)
        e = [node.sigma for node in s.edges.nodes]
        x, t = noise(torch.float64), s.timesteps[2]
        v = velocity(x, t)
        base = x + (e[2] - (e[1] + e[2]) / 2) * v
        expected = base + (e[3] - e[2]) / 2 * v
        torch.testing.assert_close(s.step(v, t, x).prev_sample, expected, rtol=0, atol=1e-12)
        assert s.step_index == 3


@pytest.mark.parametrize("name", [*STAGED, *INVERSE])
def test_an_instance_repeats_itself_and_copies_go_their_own_way(name: str, tmp_path: Path) -> None:
    s = getattr(fs, name).from_config(euler(shift=3.0).config)
    s.set_timesteps(6)
    first = go(s, noise(torch.bfloat16))
    assert torch.equal(go(s, noise(torch.bfloat16)), first)
    s.save_pretrained(tmp_path)
    again = getattr(fs, name).from_pretrained(tmp_path)
    expected = dict(s.config)
    expected.pop("_use_default_values", None)
    assert expected == {k: v for k, v in again.config.items() if k != "_use_default_values"}
    again.set_timesteps(6)
    assert torch.equal(go(again, noise(torch.bfloat16)), first)
    s.set_timesteps(6)
    x = noise(torch.bfloat16)
    for t in s.timesteps[:3]:
        x = s.step(velocity(x, t), t, x).prev_sample
    others = [copy.deepcopy(s), pickle.loads(pickle.dumps(s))]
    ends = [go(other, x, 3) for other in others]
    assert s.step_index == 3
    assert all(torch.equal(end, first) for end in (*ends, go(s, x, 3)))


@pytest.mark.parametrize("name", [*STAGED, *INVERSE])
def test_two_threads_with_a_scheduler_each_do_not_meet(name: str) -> None:
    config = euler(shift=3.0).config

    def one(seed: int) -> torch.Tensor:
        s = getattr(fs, name).from_config(config)
        s.set_timesteps(9)
        return go(s, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))

    alone = [one(seed) for seed in range(3)]
    together: dict[int, torch.Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: together.update({i: one(i)})) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[i], alone[i]) for i in range(3))


@pytest.mark.parametrize("name", [*STAGED, *INVERSE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_step_reads_no_scalar(name: str, dtype: torch.dtype) -> None:
    class NoScalarRead(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
            return func(*args, **(kwargs or {}))

    s = getattr(fs, name).from_config(euler(shift=3.0).config)
    s.set_timesteps(4)
    x, v = noise(dtype), noise(dtype).flip(0)
    times = list(s.timesteps)
    with NoScalarRead():
        for t in times:
            x = s.step(v, t, x, return_dict=False)[0]
    assert x.dtype == dtype


def test_half_precision_keeps_the_unrounded_sample() -> None:
    """A field that is tiny beside the rounding of bfloat16 still moves the sample over many steps."""
    s = fs.FireFlowScheduler.from_config(euler().config)
    s.set_timesteps(200)
    x, v = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16), torch.full((1, 1, 2, 2), -0.25, dtype=torch.bfloat16)
    for t in s.timesteps:
        x = s.step(v, t, x).prev_sample
    assert torch.equal(x, torch.full_like(x, 1.25))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_changes_from_outside_are_felt_in_any_precision(dtype: torch.dtype) -> None:
    """Also those that write into the tensor that the scheduler returned."""
    ends = []
    for change in (0.0, 0.5, "in place"):
        s = fs.FireFlowScheduler.from_config(euler().config)
        s.set_timesteps(8)
        x = noise(dtype)
        for i, t in enumerate(s.timesteps):
            x = s.step(torch.full_like(x, 0.125), t, x).prev_sample
            if i == 3:
                if change == "in place":
                    x.add_(0.5)
                else:
                    x = x + change
        ends.append(x.float())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(ends[1], ends[0] + 0.5, rtol=0, atol=tolerance)
    torch.testing.assert_close(ends[2], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", INVERSE)
def test_inverses_of_an_epsilon_model_agree_with_the_functions(name: str) -> None:
    """On the betas of Stable Diffusion: the same edges, calls and samples as `invert`."""
    theirs = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    s = getattr(fs, name).from_config(theirs.config, timestep_spacing="trailing")
    s.set_timesteps(8)
    told: list[float] = []

    def epsilon(x: torch.Tensor, t: Any) -> torch.Tensor:
        told.append(float(t))
        return torch.tanh(x) * (0.5 + float(t) / 2000)

    x = noise(torch.float64)
    for t in s.timesteps:
        x = s.step(epsilon(x, t), t, x).prev_sample
    by_scheduler = list(told)
    told.clear()
    solver = fs.inverter(
        name.removesuffix("InverseScheduler").lower().replace("uniinv", "uni-inv").replace("ob", "o-b")
    )
    found = fs.invert(epsilon, solver, s.process, s.edges, noise(torch.float64))
    assert told == pytest.approx(by_scheduler, abs=1e-3)
    torch.testing.assert_close(x, found.sample, rtol=1e-5, atol=1e-5)


# -- names and refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*STAGED, *INVERSE])
def test_public_names(name: str, tmp_path: Path) -> None:
    cls = getattr(fs, name)
    assert (cls.__module__, cls.__name__) == ("fewstep.samplers", name)
    assert name in fs.__all__
    assert getattr(diffusers, name) is cls
    assert {"num_inference_steps", "device", "timesteps", "sigmas", "mu"} <= set(
        inspect.signature(cls.set_timesteps).parameters
    )
    assert f"{name}.from_config(pipe.scheduler.config" in cls.__doc__
    pipe = tiny_flows.flux().pipe
    pipe.scheduler = cls.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    loaded = diffusers.FluxPipeline.from_pretrained(tmp_path, **parts)
    assert type(loaded.scheduler) is cls
    assert loaded.scheduler.method == pipe.scheduler.method


def test_what_is_refused_is_refused_with_a_sentence() -> None:
    config = euler().config
    with pytest.raises(ValueError, match="stochastic_sampling=True"):
        fs.FireFlowScheduler.from_config(config, stochastic_sampling=True)
    s = fs.FireFlowInverseScheduler.from_config(config)
    with pytest.raises(ValueError, match="edges of a run are not known"):
        _ = s.edges
    s.set_timesteps(3)
    with pytest.raises(ValueError, match="takes no per_token_timesteps"):
        s.step(noise(), s.timesteps[0], noise(), per_token_timesteps=torch.zeros(1))
    edm = fs.EulerInverseScheduler.from_config(diffusers.EDMEulerScheduler().config)
    with pytest.raises(ValueError, match="final_sigmas_type='sigma_min'"):
        edm.set_timesteps(5)
    ends = fs.EulerInverseScheduler.from_config(edm.config, final_sigmas_type="sigma_min")
    ends.set_timesteps(5)
    assert (ends.sigmas.diff() > 0).all()
    sampler = fs.FireFlowScheduler.from_config(config)
    with pytest.raises(ValueError, match="has not come to its end"):
        sampler.resume(s)
    go(s, noise())
    with pytest.raises(ValueError, match="MidpointScheduler cannot go on from an inversion by fireflow"):
        fs.MidpointScheduler.from_config(config).resume(s)
    with pytest.raises(ValueError, match="inverse of their own name; this is FireFlowScheduler from FireFlowScheduler"):
        sampler.resume(sampler)
    sampler.resume(s)
    with pytest.raises(ValueError, match="over the edges of the inversion"):
        sampler.set_timesteps(4)
    with pytest.raises(ValueError, match="without duplicates"):
        s.set_timesteps(sigmas=[1.0, 0.5, 0.5])
    assert len(s.timesteps) == 4
