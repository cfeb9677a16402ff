"""Guidance inside of real pipeline classes: against loops written by hand around diffusers' guider and schedulers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_models
import torch
from diffusers import ClassifierFreeZeroStarGuidance

from fewstep.pipelines import generate, guidance_settings, load, set_guidance
from fewstep.pipelines.guidance_layout import Layout, layout_of
from fewstep.samplers import ab_cache, apply_ab_cache, remove_ab_cache

SCALE = 4.0
Run = tuple[Any, dict[str, Any]]


def stable_diffusion(folder: Path) -> Run:
    return tiny_models.stable_diffusion(folder), {"negative_prompt": "a shirt", "guidance_scale": SCALE}


def sd3(folder: Path) -> Run:
    return tiny_models.stable_diffusion_3(folder), {
        "negative_prompt": "a shirt",
        "guidance_scale": SCALE,
        "height": 32,
        "width": 32,
    }


def pixart(folder: Path) -> Run:
    return tiny_models.pixart(folder), {
        "negative_prompt": "shirt",
        "guidance_scale": SCALE,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "clean_caption": False,
    }


def flux(folder: Path) -> Run:
    return tiny_models.flux(folder), {
        "negative_prompt": "shirt",
        "true_cfg_scale": SCALE,
        "height": 32,
        "width": 32,
        "max_sequence_length": 16,
    }


def wan(folder: Path) -> Run:
    torch.manual_seed(0)
    network = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
    ).eval()
    vae = diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return pipe, {
        "prompt": None,
        "prompt_embeds": torch.randn(1, 7, 16),
        "negative_prompt_embeds": torch.randn(1, 7, 16),
        "guidance_scale": SCALE,
        "height": 16,
        "width": 16,
        "num_frames": 5,
    }


PIPELINES = [stable_diffusion, sd3, pixart, flux, wan]
FLOWS = (sd3, flux, wan)
STEPS = 4


def latents(pipe: Any, arguments: dict[str, Any], steps: int = STEPS, **more: Any) -> torch.Tensor:
    """Final latents of a run with one seed."""
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a boot", **arguments, "num_inference_steps": steps, "output_type": "latent", **more}
    made = pipe(**call, generator=torch.Generator().manual_seed(0))
    return (made.frames if hasattr(made, "frames") else made.images).clone()


def network_of(pipe: Any) -> Any:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


class Calls:
    """Arguments of every call that reaches a network, below the hooks of torch and those that diffusers adds later."""

    def __init__(self, pipe: Any) -> None:
        self.module = network_of(pipe)
        self.seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __enter__(self) -> Calls:
        self.before = self.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.seen.append((args, dict(kwargs)))
            return self.before(*args, **kwargs)

        self.module.forward = forward
        return self

    def __exit__(self, *_: Any) -> None:
        del self.module.forward


def by_hand(
    pipe: Any, arguments: dict[str, Any], combine: Callable[[torch.Tensor, torch.Tensor, int, Any], torch.Tensor]
) -> torch.Tensor:
    """The pipeline's loop with ``combine(cond, uncond, step, scheduler)``, from what its first step says."""
    with Calls(pipe) as calls:
        latents(pipe, arguments)
    network, scheduler = network_of(pipe), copy.deepcopy(pipe.scheduler)
    scheduler._step_index = None
    batched = len(calls.seen) == STEPS
    args, kwargs = calls.seen[0]
    name = "sample" if "sample" in kwargs else "hidden_states"
    x = args[0] if args else kwargs[name]
    x = x.chunk(2)[0] if batched else x
    told = kwargs.get("timestep", args[1] if len(args) > 1 else None)
    unit = float(told.reshape(-1)[0] / scheduler.timesteps[0])

    def output(sample: torch.Tensor, t: torch.Tensor, call: tuple[tuple[Any, ...], dict[str, Any]]) -> torch.Tensor:
        args, kwargs = call
        if args:
            t = t if "timestep" in kwargs else t * unit
            rest = args[2:] if len(args) > 1 else ()
            both = (sample, t) if len(args) > 1 else (sample,)
            more = {**kwargs, "timestep": t.expand(len(sample))} if "timestep" in kwargs else kwargs
            return network(*both, *rest, **more)[0]
        return network(**{**kwargs, name: sample, "timestep": (t * unit).expand(len(sample))})[0]

    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            if batched:
                uncond, cond = output(torch.cat([x, x]), t, calls.seen[0]).chunk(2)
            else:
                cond, uncond = (output(x, t, call) for call in calls.seen[:2])
            if cond.ndim == 4 and cond.shape[1] == 2 * x.shape[1]:
                cond, uncond = cond.chunk(2, 1)[0], uncond.chunk(2, 1)[0]
            x = scheduler.step(combine(cond, uncond, step, scheduler), t, x, return_dict=False)[0]
    return x


def zero_star(zero_init_steps: int) -> Callable[..., torch.Tensor]:
    def combine(cond: torch.Tensor, uncond: torch.Tensor, step: int, scheduler: Any) -> torch.Tensor:
        guider = ClassifierFreeZeroStarGuidance(guidance_scale=SCALE, zero_init_steps=zero_init_steps)
        guider.set_state(step=step, num_inference_steps=STEPS, timestep=torch.tensor(0.0))
        return guider.forward(cond, uncond).pred

    return combine


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.isfinite().all()
    torch.testing.assert_close(got.reshape(expected.shape), expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("make", PIPELINES)
def test_the_loop_by_hand_is_the_pipeline(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    plain = by_hand(pipe, arguments, lambda cond, uncond, *_: uncond + SCALE * (cond - uncond))
    close(latents(pipe, arguments), plain)


@pytest.mark.parametrize("make", PIPELINES)
def test_cfg_zero_is_a_loop_by_hand_with_the_guider_of_diffusers(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    expected = by_hand(pipe, arguments, zero_star(int(make in FLOWS)))
    plain = latents(pipe, arguments)
    set_guidance(pipe, "cfg-zero")
    assert guidance_settings(pipe).zero_init_steps == int(make in FLOWS)
    got = latents(pipe, arguments)
    close(got, expected)
    assert (got - plain).abs().max() > 3e-4 * float(plain.abs().max())


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("zero_init_steps", [0, 2])
def test_zero_init_of_other_lengths(make: Any, zero_init_steps: int, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    expected = by_hand(pipe, arguments, zero_star(zero_init_steps))
    close(latents(set_guidance(pipe, "cfg-zero", zero_init_steps=zero_init_steps), arguments), expected)


def test_zero_init_of_an_epsilon_model_keeps_the_state_of_the_flow(tmp_path: Path) -> None:
    pipe, arguments = stable_diffusion(tmp_path)
    set_guidance(pipe, "cfg-zero", zero_init_steps=STEPS)  # no step moves
    got = latents(pipe, arguments)
    with Calls(pipe) as calls:
        latents(pipe, arguments)
    bar = float(pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[0])])
    last = float(pipe.scheduler.final_alpha_cumprod)
    start = calls.seen[0][0][0][:1] / (math.sqrt(bar) + math.sqrt(1 - bar))
    torch.testing.assert_close(got, start * (math.sqrt(last) + math.sqrt(1 - last)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", PIPELINES)
def test_without_guidance_nothing_happens(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    scale = "true_cfg_scale" if make is flux else "guidance_scale"
    plain = latents(pipe, {**arguments, scale: 1.0})
    set_guidance(pipe, "cfg-zero", (0.1, 2.0))
    assert torch.equal(latents(pipe, {**arguments, scale: 1.0}), plain)


@pytest.mark.parametrize("make", PIPELINES)
def test_taken_off_it_was_never_there(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    network = network_of(pipe)
    plain = latents(pipe, arguments)
    before = set(vars(network))
    set_guidance(pipe, "cfg-zero", (0.3, 0.9))
    changed = latents(pipe, arguments)
    assert not torch.equal(changed, plain)
    set_guidance(pipe, "cfg")
    assert torch.equal(latents(pipe, arguments), plain)
    assert set(vars(network)) == before
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


@pytest.mark.parametrize("make", PIPELINES)
def test_the_whole_interval_is_plain_and_an_empty_one_is_no_guidance(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    scale = "true_cfg_scale" if make is flux else "guidance_scale"
    plain, unguided = latents(pipe, arguments), latents(pipe, {**arguments, scale: 1.0})
    assert torch.equal(latents(set_guidance(pipe, "cfg", (0, math.inf)), arguments), plain)
    set_guidance(pipe, "cfg")
    with Calls(pipe) as calls:
        close(latents(set_guidance(pipe, "cfg", (0, 0)), arguments), unguided)
        set_guidance(pipe, "cfg")
    assert len(calls.seen) == STEPS  # one prediction a step
    rows = {len(args[0] if args else kwargs["hidden_states"]) for args, kwargs in calls.seen}
    assert rows == {1}


@pytest.mark.parametrize("make", PIPELINES)
def test_an_interval_is_guidance_there_and_the_condition_alone_elsewhere(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    latents(pipe, arguments)
    times = pipe.scheduler.timesteps.double()
    if make in FLOWS:
        levels = (times / 1000).tolist()
    else:
        bar = pipe.scheduler.alphas_cumprod[times.long()].double()
        levels = ((1 - bar) / bar).sqrt().tolist()

    def combine(cond: torch.Tensor, uncond: torch.Tensor, step: int, scheduler: Any) -> torch.Tensor:
        return uncond + SCALE * (cond - uncond) if step in (1, 2) else cond

    expected = by_hand(pipe, arguments, combine)
    span = ((levels[2] + levels[3]) / 2, (levels[0] + levels[1]) / 2)
    with Calls(pipe) as calls:
        close(latents(set_guidance(pipe, "cfg", span), arguments), expected)
        set_guidance(pipe, "cfg")
    rows = sum(len(args[0] if args else kwargs["hidden_states"]) for args, kwargs in calls.seen)
    assert rows == 2 + 4  # two predictions in two of the four steps


def test_sigma_space_schedulers_have_the_same_noise_levels(tmp_path: Path) -> None:
    pipe, arguments = stable_diffusion(tmp_path)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    latents(pipe, arguments, 6)
    inside = [float(sigma) for sigma in pipe.scheduler.sigmas[2:4]]
    set_guidance(pipe, "cfg", (inside[1] * 0.99, inside[0] * 1.01))
    with Calls(pipe) as calls:
        latents(pipe, arguments, 6)
    assert [len(args[0]) for args, _ in calls.seen] == [1, 1, 2, 2, 1, 1]


def test_two_networks_calls_a_step_are_counted_as_one_level(tmp_path: Path) -> None:
    """Heun's second call of a step has the noise level of the next step."""
    pipe, arguments = stable_diffusion(tmp_path)
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    plain = latents(pipe, arguments)
    assert torch.equal(latents(set_guidance(pipe, "cfg", (0, math.inf)), arguments), plain)


@pytest.mark.parametrize("make", [sd3, flux, wan])
@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_an_interrupted_run_leaves_nothing_behind(make: Any, calls: int, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    set_guidance(pipe, "cfg-zero", (0.2, 0.95))
    expected = latents(pipe, arguments)
    left = [calls]

    def stop(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    handle = network_of(pipe).register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        latents(pipe, arguments)
    handle.remove()
    assert torch.equal(latents(pipe, arguments), expected)


def test_one_step_runs_each_begin_anew(tmp_path: Path) -> None:
    pipe, arguments = sd3(tmp_path)
    set_guidance(pipe, "cfg-zero", zero_init_steps=1)
    first = latents(pipe, arguments, 1)
    assert torch.equal(latents(pipe, arguments, 1), first)
    noise = latents(set_guidance(pipe, "cfg-zero", zero_init_steps=9), arguments)
    torch.testing.assert_close(first, noise)  # a single step of zero velocity leaves the noise


def test_steps_with_one_rounded_timestep_are_several_steps(tmp_path: Path) -> None:
    """In bfloat16 several of 60 timesteps near 1 are one number; zero velocity is for the first of them alone."""
    pipe, arguments = flux(tmp_path)
    pipe.to(torch.bfloat16)
    set_guidance(pipe, "cfg-zero", zero_init_steps=1)
    still: list[bool] = []
    step = pipe.scheduler.step

    def after(prediction: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        still.append(not prediction.any())
        return step(prediction, *args, **kwargs)

    pipe.scheduler.step = after
    latents(pipe, arguments, 60)
    assert still == [True] + [False] * 59


def test_no_tensor_is_kept_after_a_run(tmp_path: Path) -> None:
    from fewstep.pipelines.guidance import guidance_of

    for make in (flux, wan, sd3):
        pipe, arguments = make(tmp_path)
        set_guidance(pipe, "cfg-zero", (0.2, 0.95))
        latents(pipe, arguments)
        run = guidance_of(pipe).run
        assert run.cond is None
        assert run.sample is None


@pytest.mark.parametrize("make", [stable_diffusion, flux])
@pytest.mark.parametrize("guidance_first", [True, False])
def test_a_cache_keeps_raw_predictions_whichever_came_first(make: Any, guidance_first: bool, tmp_path: Path) -> None:
    """Reuse of the last prediction (order 1) in every second step, guided in every step, against a loop by hand."""
    pipe, arguments = make(tmp_path)
    kept: dict[str, torch.Tensor] = {}

    def combine(cond: torch.Tensor, uncond: torch.Tensor, step: int, scheduler: Any) -> torch.Tensor:
        if step % 2 == 0:
            kept.update(cond=cond, uncond=uncond)
        return zero_star(int(make is flux))(kept["cond"], kept["uncond"], step, scheduler)

    expected = by_hand(pipe, arguments, combine)
    settings = {"order": 1, "interval": 2, "warmup_steps": 1, "tail_steps": 0}
    if guidance_first:
        set_guidance(pipe, "cfg-zero")
        apply_ab_cache(pipe, **settings)
    else:
        apply_ab_cache(pipe, **settings)
        set_guidance(pipe, "cfg-zero")
    close(latents(pipe, arguments), expected)
    again = latents(pipe, arguments)
    close(again, expected)
    remove_ab_cache(pipe)
    uncached = latents(pipe, arguments)
    close(uncached, by_hand(set_guidance(pipe, "cfg"), arguments, zero_star(int(make is flux))))


@pytest.mark.parametrize("make", [stable_diffusion, flux])
def test_an_interval_hides_no_call_from_a_cache(make: Any, tmp_path: Path) -> None:
    pipe, arguments = make(tmp_path)
    set_guidance(pipe, "cfg", (0.4, 0.9))
    with ab_cache(pipe, order=1, interval=2, warmup_steps=1, tail_steps=0) as cache, Calls(pipe) as calls:
        latents(pipe, arguments)
    assert cache.stats()["calls"] == (2 * STEPS if make is flux else STEPS)
    assert cache.stats()["skipped"] == cache.stats()["calls"] // 2
    assert {len(args[0] if args else kwargs["hidden_states"]) for args, kwargs in calls.seen} == {
        1 if make is flux else 2
    }


@pytest.mark.parametrize("guidance_first", [True, False])
def test_guidance_can_be_taken_off_below_and_above_a_cache(guidance_first: bool, tmp_path: Path) -> None:
    pipe, arguments = flux(tmp_path)
    settings = {"order": 1, "interval": 2, "warmup_steps": 1, "tail_steps": 0}
    with ab_cache(pipe, **settings):
        cached = latents(pipe, arguments)
    if guidance_first:
        set_guidance(pipe, "cfg", (0.4, 0.9))
        apply_ab_cache(pipe, **settings)
    else:
        apply_ab_cache(pipe, **settings)
        set_guidance(pipe, "cfg", (0.4, 0.9))
    set_guidance(pipe, "cfg")
    assert torch.equal(latents(pipe, arguments), cached)


def test_threads_on_one_pipeline_never_meet(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, guidance="cfg-zero", interval=(0.5, 5), device="cpu")

    def pixels(i: int) -> np.ndarray:
        made = generate(pipe, "a boot", steps=4 + i % 3, guidance=SCALE, seed=i, count=1 + i % 2)
        return np.stack([np.asarray(image) for image in made.images])

    alone = [pixels(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(pixels, range(6)))
    for one, other in zip(alone, together, strict=True):
        assert (one == other).all()


def test_a_deep_copy_guides_by_itself(tmp_path: Path) -> None:
    pipe, arguments = stable_diffusion(tmp_path)
    plain = latents(pipe, arguments)
    guided = latents(set_guidance(pipe, "cfg-zero"), arguments)
    pipe.unet = copy.deepcopy(pipe.unet)
    assert torch.equal(latents(pipe, arguments), guided)
    assert torch.equal(latents(set_guidance(pipe, "cfg"), arguments), plain)


def test_two_equal_pictures_without_guidance_are_no_halves(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, device="cpu")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    pipe.prepare_latents = lambda *_, **__: noise.clone()
    plain = generate(pipe, ["a boot", "a bag"], steps=2, guidance=1.0).images
    got = generate(set_guidance(pipe, "cfg-zero"), ["a boot", "a bag"], steps=2, guidance=1.0).images
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(plain, got, strict=True))


LAYOUTS = {
    "StableDiffusionPipeline": (True, False),
    "StableDiffusionXLPipeline": (True, False),
    "StableDiffusion3Pipeline": (True, False),
    "StableDiffusionControlNetPipeline": (True, False),
    "StableDiffusionInpaintPipeline": (True, False),
    "PixArtSigmaPipeline": (True, False),
    "SanaPipeline": (True, False),
    "MochiPipeline": (True, True),
    "FluxPipeline": (False, False),
    "QwenImagePipeline": (False, False),
    "WanPipeline": (False, False),
    "ChromaPipeline": (False, False),
    "Lumina2Pipeline": (False, True),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_read_from_the_pipelines(name: str) -> None:
    cls = getattr(diffusers, name)
    found = layout_of(cls.__new__(cls))
    assert (found.batched, found.reversed_time) == LAYOUTS[name]
    assert found.divides == (name in ("QwenImagePipeline", "Lumina2Pipeline"))
    assert found.needs_negative == (name in ("QwenImagePipeline", "FluxPipeline"))
    assert isinstance(found, Layout)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionInstructPix2PixPipeline",
        "StableVideoDiffusionPipeline",
        "StableDiffusionPAGPipeline",
        "FluxFillPipeline",
        "Flux2Pipeline",
        "DDPMPipeline",
        "OmniGenPipeline",
        "ZImagePipeline",
    ],
)
def test_other_ways_of_guidance_are_refused(name: str) -> None:
    cls = getattr(diffusers, name)
    with pytest.raises(ValueError, match=name):
        layout_of(cls.__new__(cls))


def test_a_pipeline_that_divides_by_the_norm_has_no_zero_init(tmp_path: Path, monkeypatch: Any) -> None:
    pipe, _ = flux(tmp_path)
    monkeypatch.setattr("fewstep.pipelines.guidance.layout_of", lambda _: Layout(False, divides=True))
    assert guidance_settings(set_guidance(pipe, "cfg-zero")).zero_init_steps == 0
    with pytest.raises(ValueError, match="divides by the norm"):
        set_guidance(pipe, "cfg-zero", zero_init_steps=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mode": "cfg-zerro"}, "unknown guidance mode 'cfg-zerro', did you mean 'cfg-zero'"),
        ({"mode": None}, "unknown guidance mode None"),
        ({"interval": "5"}, '"LO,HI"'),
        ({"interval": (5, 1)}, "0 <= low <= high"),
        ({"interval": 3}, r"two noise levels \(low, high\), got 3"),
        ({"interval": (1, 2, 3)}, "two noise levels"),
        ({"interval": (0, math.nan)}, "must be numbers"),
        ({"mode": "cfg-zero", "zero_init_steps": -1}, "whole number"),
        ({"mode": "cfg-zero", "zero_init_steps": 1.5}, "whole number"),
        ({"zero_init_steps": 2}, "belongs to guidance mode cfg-zero"),
    ],
)
def test_errors_are_sentences_and_change_nothing(pipe: Any, arguments: dict[str, Any], sentence: str) -> None:
    set_guidance(pipe, "cfg-zero", (0.5, 5))
    before = guidance_settings(pipe)
    with pytest.raises(ValueError, match=sentence):
        set_guidance(pipe, **{"mode": "cfg", **arguments})
    assert guidance_settings(pipe) == before


def test_distilled_guidance_has_no_second_prediction(tmp_path: Path) -> None:
    pipe, _ = flux(tmp_path)
    with pytest.raises(ValueError, match="takes its guidance as an input"):
        generate(set_guidance(pipe, "cfg-zero"), "a boot", steps=2, guidance=3.5, size=32)
