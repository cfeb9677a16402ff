"""The cache on real pipeline classes of diffusers with tiny random networks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_pipelines as cases
import torch
from accelerate.hooks import ModelHook as OffloadingHook
from accelerate.hooks import add_hook_to_module, remove_hook_from_module

from fewstep.pipelines.generation import own_run
from fewstep.samplers import ABCacheConfig, ab_cache, ab_cache_stats, apply_ab_cache, remove_ab_cache, scheduler_class
from fewstep.samplers.cache import planned_mask
from fewstep.samplers.cache.hook import hook_of

STEPS = 14
SETTINGS: dict[str, Any] = {"order": 2, "interval": 3, "warmup_steps": 3, "tail_steps": 2}
MASK = planned_mask(ABCacheConfig(**SETTINGS), STEPS)


def case_of(name: str, folder: Path, **call: Any) -> Any:
    case = cases.CASES[name](folder / "tokenizer")
    case.pipe.set_progress_bar_config(disable=True)
    case.call |= {"num_inference_steps": STEPS, **call}
    return case


def network_calls(network: torch.nn.Module) -> tuple[list[int], Any]:
    """Calls that reach the inside of a network: its first child that every call goes through."""
    names = ("conv_in", "x_embedder", "pos_embed", "patch_embedding")
    inside = next(module for name in names if (module := getattr(network, name, None)) is not None)
    seen: list[int] = []
    return seen, inside.register_forward_hook(lambda *_: seen.append(1))


def masks(target: Any, name: str) -> dict[str, list[bool]]:
    return {key: branch["mask"] for key, branch in ab_cache_stats(target)["denoisers"][name].items()}


PIPELINES = ["sd", "sd_ddim", "sdxl", "pixart", "ddpm", "sd3", "flux", "wan"]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_denoiser(name: str, tmp_path: Path) -> None:
    """Interval 1 and removal are bit-identical, a cached run repeats, calls are as planned, nothing is left."""
    case = case_of(name, tmp_path)
    which = "unet" if hasattr(case.pipe, "unet") else "transformer"
    network = getattr(case.pipe, which)
    before = set(vars(network))
    plain, calls = case.run()
    assert calls == STEPS
    apply_ab_cache(case.pipe, ABCacheConfig(interval=1))
    assert np.array_equal(case.run()[0], plain)
    remove_ab_cache(case.pipe)
    apply_ab_cache(case.pipe, **SETTINGS)
    seen, counter = network_calls(network)
    first, _ = case.run()
    assert len(seen) == sum(MASK)
    assert masks(case.pipe, which) == {next(iter(masks(case.pipe, which))): MASK}
    hook = hook_of(network)
    assert hook is not None
    assert hook.shared is not None
    assert not [t for _, lane in hook.shared[0].lanes() for t in lane.memory()]  # reset by the pipeline
    assert np.isfinite(first).all()
    assert not np.array_equal(first, plain)
    assert np.array_equal(case.run()[0], first)
    assert ab_cache_stats(case.pipe)["real"] == 2 * sum(MASK)
    counter.remove()
    remove_ab_cache(case.pipe)
    assert set(vars(network)) == before
    assert np.array_equal(case.run()[0], plain)


def test_sequential_guidance_has_a_history_a_branch(tmp_path: Path) -> None:
    """Wan names its two calls a step; true guidance of Flux names them too, its image-to-image pipeline does not."""
    case = case_of("wan", tmp_path, guidance_scale=4.0, negative_prompt_embeds=cases.embeds(1, 7, 16) * 0.3)
    with ab_cache(case.pipe, **SETTINGS):
        _, calls = case.run()
        assert calls == 2 * STEPS
        assert masks(case.pipe, "transformer") == {"cond": MASK, "uncond": MASK}
    case = case_of(
        "flux_img2img",
        tmp_path,
        true_cfg_scale=4.0,
        strength=0.99,
        negative_prompt_embeds=cases.embeds(1, 7, 16) * 0.3,
        negative_pooled_prompt_embeds=cases.embeds(1, 16) * 0.3,
    )
    with ab_cache(case.pipe, **SETTINGS):
        _, calls = case.run()
        found = masks(case.pipe, "transformer")
    made = planned_mask(ABCacheConfig(**SETTINGS), calls // 2)
    assert found == {"branch 0": made, "branch 1": made}


def test_sequential_and_batched_guidance_agree(tmp_path: Path) -> None:
    """Two calls a step of half the batch against one call: the same extrapolations, the same picture."""
    case = case_of("sd_ddim", tmp_path)
    with ab_cache(case.pipe, **SETTINGS):
        together, _ = case.run()
    network = case.pipe.unet
    whole = network.forward

    def halves(sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **more: Any) -> Any:
        parts = [
            network_of_half(sample[:1], timestep, encoder_hidden_states=part, return_dict=False)[0]
            for part in encoder_hidden_states.chunk(2)
        ]
        return (torch.cat(parts),)

    class Half(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: Any, **more: Any) -> Any:
            return whole(sample, timestep, **more)

    network_of_half = Half().eval()
    network.forward = halves
    try:
        with ab_cache(network_of_half, num_inference_steps=STEPS, **SETTINGS) as cache:
            apart, _ = case.run()
    finally:
        del network.forward
    assert len(cache.stats()["denoisers"]["denoiser"]) == 2
    np.testing.assert_allclose(apart, together, atol=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [
        ("DDIMScheduler", STEPS),
        ("UniPCMultistepScheduler", STEPS),
        ("EulerDiscreteScheduler", STEPS),
        ("PNDMScheduler", STEPS + 1),
        ("HeunDiscreteScheduler", 2 * STEPS - 1),
        ("KDPM2DiscreteScheduler", 2 * STEPS - 1),
    ],
)
def test_calls_are_read_from_the_scheduler(scheduler: str, calls: int, tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    case.pipe.scheduler = getattr(diffusers, scheduler).from_config(case.theirs.config, skip_prk_steps=True)
    with ab_cache(case.pipe, **SETTINGS):
        case.run()
        found = masks(case.pipe, "unet")
    assert found == {"branch 0": planned_mask(ABCacheConfig(**SETTINGS), calls)}


def test_calls_of_a_run_that_begins_late(tmp_path: Path) -> None:
    for name in ("sd_img2img", "flux_img2img"):
        for scheduler in ("DDIMScheduler", None):
            case = case_of(name, tmp_path, strength=0.75)
            if scheduler is not None and name == "sd_img2img":
                case.pipe.scheduler = getattr(diffusers, scheduler).from_config(case.theirs.config)
            with ab_cache(case.pipe, **SETTINGS):
                _, calls = case.run()
                (mask,) = masks(case.pipe, "unet" if name[0] == "s" else "transformer").values()
            assert calls < STEPS
            assert mask == planned_mask(ABCacheConfig(**SETTINGS), calls)


def test_order_two_is_taylorseer_of_order_one_on_its_mask(tmp_path: Path) -> None:
    case = case_of("flux", tmp_path, output_type="latent")
    start, interval = 3, 3
    mask = [i < start or (i - start - 1) % interval == 0 for i in range(STEPS)]
    config = diffusers.TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=start,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )
    case.network.enable_cache(config)
    theirs, _ = case.run()
    case.network.disable_cache()
    with ab_cache(case.pipe, order=2, compute_mask=mask):
        ours, _ = case.run()
    plain, _ = case.run()
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours - plain).max() > 1e-4


def test_it_works_above_a_cache_of_diffusers(tmp_path: Path) -> None:
    case = case_of("flux", tmp_path)
    case.network.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.0))
    below, _ = case.run()
    with ab_cache(case.pipe, interval=1):
        assert np.array_equal(case.run()[0], below)
    with ab_cache(case.pipe, **SETTINGS):
        both, _ = case.run()
        assert masks(case.pipe, "transformer") == {"cond": MASK}
    assert np.isfinite(both).all()
    case.network.disable_cache()


def test_diffusers_takes_no_foreign_cache_config(tmp_path: Path) -> None:
    """The day this fails, diffusers has opened the door, and `enable_cache` can be the way in."""
    case = case_of("flux", tmp_path)
    with pytest.raises(ValueError, match="is not supported"):
        case.network.enable_cache(ABCacheConfig())
    apply_ab_cache(case.pipe)
    assert case.network._cache_config is None
    remove_ab_cache(case.pipe)


def test_a_controlnet_rests_with_the_denoiser(tmp_path: Path) -> None:
    case = case_of("sd_controlnet", tmp_path)
    plain, _ = case.run()
    calls: list[int] = []
    counter = case.pipe.controlnet.conv_in.register_forward_hook(lambda *_: calls.append(1))
    before = set(vars(case.pipe.controlnet))
    with ab_cache(case.pipe.unet, num_inference_steps=STEPS, **SETTINGS):
        alone, _ = case.run()
    assert len(calls) == STEPS  # a bare denoiser knows of no other network
    calls.clear()
    with ab_cache(case.pipe, **SETTINGS):
        for _ in range(2):
            assert np.array_equal(case.run()[0], alone)
    assert len(calls) == 2 * sum(MASK)
    calls.clear()
    assert set(vars(case.pipe.controlnet)) == before
    assert np.array_equal(case.run()[0], plain)
    assert len(calls) == STEPS
    counter.remove()


def test_two_experts_have_counters_of_their_own(tmp_path: Path) -> None:
    case = case_of("wan", tmp_path, num_inference_steps=24, guidance_scale_2=1.0)
    parts = {**case.pipe.components, "transformer_2": copy.deepcopy(case.network)}
    case.pipe = diffusers.WanPipeline(**parts, boundary_ratio=0.75)
    case.pipe.set_progress_bar_config(disable=True)
    seen, counter = network_calls(case.pipe.transformer)
    seen_2, counter_2 = network_calls(case.pipe.transformer_2)
    case.run()
    high, low = len(seen), len(seen_2)
    assert high + low == 24
    assert min(high, low) > 6
    with ab_cache(case.pipe, **SETTINGS):
        case.run()
        for name, calls in (("transformer", high), ("transformer_2", low)):
            assert masks(case.pipe, name) == {"cond": planned_mask(ABCacheConfig(**SETTINGS), calls)}
    counter.remove()
    counter_2.remove()


@pytest.mark.parametrize("first", ["offloading", "cache"])
def test_offloading_takes_its_hook_off_and_on_and_the_cache_stays(first: str, tmp_path: Path) -> None:
    """What accelerate does at the end of every run of an offloaded pipeline."""
    case = case_of("sd", tmp_path)
    plain, _ = case.run()
    network = case.pipe.unet
    if first == "offloading":
        add_hook_to_module(network, OffloadingHook())
    apply_ab_cache(case.pipe, **SETTINGS)
    if first == "cache":
        add_hook_to_module(network, OffloadingHook())
    cached = []
    for _ in range(3):
        cached.append(case.run()[0])
        remove_hook_from_module(network, recurse=True)
        add_hook_to_module(network, OffloadingHook())
    assert ab_cache_stats(case.pipe)["real"] == 3 * sum(MASK)
    assert all(np.array_equal(picture, cached[0]) for picture in cached)
    remove_ab_cache(case.pipe)
    assert np.array_equal(case.run()[0], plain)
    remove_hook_from_module(network, recurse=True)
    assert np.array_equal(case.run()[0], plain)
    assert hook_of(network) is None


def interrupted(case: Any, at: int) -> None:
    def stop(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == at:
            raise KeyboardInterrupt
        return values

    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        case.pipe(**case.call, callback_on_step_end=stop, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("at", [0, 1, 4, 8])
def test_an_interrupted_run_leaves_nothing_to_the_next(at: int, tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    apply_ab_cache(case.pipe, **SETTINGS)
    clean, _ = case.run()
    interrupted(case, at)
    assert np.array_equal(case.run()[0], clean)
    assert masks(case.pipe, "unet") == {"branch 0": MASK}
    case.call["prompt"] = "a dog"
    other, _ = case.run()
    remove_ab_cache(case.pipe)
    with ab_cache(case.pipe, **SETTINGS):
        assert np.array_equal(case.run()[0], other)
    with ab_cache(case.pipe, **SETTINGS) as cache:
        interrupted(case, at)
    assert not [t for _, lane in cache.lanes() for t in lane.memory()]


def test_a_scheduler_that_ran_before_says_nothing_of_a_run_without_it(tmp_path: Path) -> None:
    """The cache is on a pipeline, and a copy of it with a scheduler of its own runs the same network."""
    case = case_of("sd", tmp_path)
    apply_ab_cache(case.pipe, **SETTINGS)
    case.run()
    run = own_run(case.pipe)
    with torch.no_grad():
        for steps in (10, 12):
            run(**{**case.call, "num_inference_steps": steps})
            (mask,) = masks(case.pipe, "unet").values()
            no_tail = ABCacheConfig(**{**SETTINGS, "tail_steps": 0})
            assert mask == planned_mask(no_tail, steps)
    remove_ab_cache(case.pipe)


def test_pipelines_in_threads_share_networks_and_no_history(tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    jobs = [(10 + 2 * i, 2 + i % 3) for i in range(6)]

    def work(job: tuple[int, int]) -> np.ndarray:
        steps, interval = job
        run = own_run(case.pipe)
        call = {**case.call, "num_inference_steps": steps}
        with torch.no_grad(), ab_cache(run, ABCacheConfig(interval=interval, warmup_steps=3, tail_steps=1)):
            return run(**call, generator=torch.Generator().manual_seed(0)).images

    expected = [work(job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, jobs))
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert hook_of(case.pipe.unet) is None


REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: diffusers.EulerAncestralDiscreteScheduler.from_config(c), "draws noise in every step"),
    (lambda c: diffusers.DDPMScheduler.from_config(c), "draws noise in every step"),
    (
        lambda c: diffusers.DPMSolverMultistepScheduler.from_config(c, algorithm_type="sde-dpmsolver++"),
        "draws noise in every step",
    ),
    (lambda c: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "draws noise in every step"),
    (lambda c: diffusers.LCMScheduler.from_config(c), "sampler of a distilled model"),
    (lambda c: diffusers.TCDScheduler.from_config(c), "sampler of a distilled model"),
    (lambda c: diffusers.FlowMatchLCMScheduler(), "sampler of a distilled model"),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED)
def test_samplers_that_it_would_break_are_refused(make: Any, sentence: str, tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    case.pipe.scheduler = make(case.theirs.config)
    with pytest.raises(ValueError, match=sentence):
        apply_ab_cache(case.pipe, order=2)
    assert hook_of(case.pipe.unet) is None
    with ab_cache(case.pipe, interval=1):  # changes nothing, so it breaks nothing
        pass
    if "distilled" in sentence:
        with pytest.raises(ValueError, match=sentence), ab_cache(case.pipe, force=True):
            pass
    else:
        with ab_cache(case.pipe, force=True):
            pass


def test_a_sampler_swapped_in_later_is_refused_at_its_run(tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    with ab_cache(case.pipe, **SETTINGS):
        case.pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(case.theirs.config)
        with pytest.raises(ValueError, match="EulerAncestralDiscreteScheduler draws noise"):
            case.run()


def test_no_sampler_of_ours_is_refused(tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    for name in ("lml", "ghvb", "heavy-ball", "nesterov", "adams-bashforth", "exponential-adams"):
        case.pipe.scheduler = scheduler_class(name).from_config(case.theirs.config)
        with ab_cache(case.pipe, **SETTINGS):
            case.run()
            assert masks(case.pipe, "unet") == {"branch 0": MASK}


def test_it_warns_where_fewer_steps_are_the_better_deal(tmp_path: Path) -> None:
    case = case_of("sd", tmp_path, num_inference_steps=8)
    with ab_cache(case.pipe):
        with pytest.warns(UserWarning, match="8 calls leaves the cache nothing to skip"):
            case.run()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # said once
            case.run()
    case.call |= {"num_inference_steps": STEPS, "guidance_scale": 7.5}
    with ab_cache(case.pipe, interval=5), pytest.warns(UserWarning, match="at guidance 7.5 an interval of 5"):
        case.run()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with ab_cache(case.pipe, **SETTINGS):
            case.run()


def dit() -> tuple[Any, dict[str, Any]]:
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8, patch_size=2
    )
    return network, {"class_labels": torch.tensor([3])}


def sana() -> tuple[Any, dict[str, Any]]:
    network = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
        patch_size=1,
    )
    return network, {"encoder_hidden_states": cases.embeds(1, 7, 8)}


@pytest.mark.parametrize("make", [dit, sana])
@pytest.mark.parametrize("return_dict", [True, False])
def test_more_denoisers_in_a_loop_of_ones_own(make: Any, return_dict: bool) -> None:
    torch.manual_seed(0)
    network, more = make()
    network.eval()

    def loop() -> torch.Tensor:
        scheduler = diffusers.DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(STEPS)
        x = cases.embeds(1, 4, 8, 8)
        with torch.no_grad():
            for t in scheduler.timesteps:
                out = network(x, timestep=t[None], return_dict=return_dict, **more)
                x = scheduler.step(out.sample if return_dict else out[0], t, x).prev_sample
        return x

    plain = loop()
    with ab_cache(network, interval=1):
        assert torch.equal(loop(), plain)
    with ab_cache(network, num_inference_steps=STEPS, **SETTINGS) as cache:
        first, second = loop(), loop()
    assert torch.equal(first, second)
    assert cache.stats()["real"] == 2 * sum(MASK)
    assert torch.equal(loop(), plain)


def test_a_cached_pipeline_can_be_saved_and_its_network_not_copied(tmp_path: Path) -> None:
    case = case_of("sd", tmp_path)
    apply_ab_cache(case.pipe, **SETTINGS)
    cached, _ = case.run()
    case.pipe.save_pretrained(tmp_path / "saved")
    with pytest.raises(TypeError, match="cannot be copied while an AB-Cache is on it"):
        copy.deepcopy(case.pipe.unet)
    assert np.array_equal(case.run()[0], cached)
    remove_ab_cache(case.pipe)
    copy.deepcopy(case.pipe.unet)
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert hook_of(loaded.unet) is None
