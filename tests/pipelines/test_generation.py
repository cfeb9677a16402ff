"""Pictures that repeat: seeds, batches, threads, counted calls, and no picture from values that are no numbers."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_models
import torch

from fewstep.pipelines import generate, load, set_guidance, set_sampler, usual_guidance
from fewstep.samplers import generators, noise


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def first_inputs(pipe: Any, **arguments: Any) -> torch.Tensor:
    """Initial latents of all pictures of a run, as the network sees them."""
    seen: list[torch.Tensor] = []
    steps = 2
    hook = pipe.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    try:
        generate(pipe, "a boot", steps=steps, guidance=1.0, **arguments)
    finally:
        hook.remove()
    return torch.cat(seen[::steps])


def test_pictures_are_those_of_the_pipeline_itself(pipe: Any) -> None:
    made = generate(pipe, "a boot", steps=6, guidance=4.0, seed=3, count=2, negative="a shirt")
    pipe.set_progress_bar_config(disable=True)
    direct = pipe(
        ["a boot"] * 2,
        num_inference_steps=6,
        guidance_scale=4.0,
        negative_prompt=["a shirt"] * 2,
        generator=generators([3, 4]),
    ).images
    assert (pixels(made.images) == pixels(direct)).all()
    assert made.seeds == [3, 4]
    assert made.settings["sampler"] == "exponential-adams"


def test_initial_latents_do_not_depend_on_the_batch(pipe: Any) -> None:
    together, alone = first_inputs(pipe, count=4, batch=4), first_inputs(pipe, count=4, batch=1)
    assert torch.equal(together, alone)
    assert torch.equal(alone, noise((4, 8, 8), [0, 1, 2, 3]))


def test_a_seed_is_a_picture_in_any_batch_and_count(pipe: Any) -> None:
    arguments: dict[str, Any] = {"steps": 6, "guidance": 4.0}
    alone = pixels(generate(pipe, "a boot", count=4, batch=1, **arguments).images)
    together = pixels(generate(pipe, "a boot", count=4, batch=4, **arguments).images)
    assert abs(alone - together).max() <= 1
    assert (pixels(generate(pipe, "a boot", count=2, batch=1, **arguments).images) == alone[:2]).all()
    assert (pixels(generate(pipe, "a boot", seed=2, **arguments).images) == alone[2:3]).all()
    assert abs(alone[0] - alone[1]).max() > 5


def test_more_pictures_of_several_prompts_only_add(pipe: Any) -> None:
    few = generate(pipe, ["a boot", "a bag"], steps=2, batch=1)
    more = generate(pipe, ["a boot", "a bag"], steps=2, batch=1, count=2)
    assert more.prompts == ["a boot", "a bag", "a boot", "a bag"]
    assert more.seeds == [0, 1, 2, 3]
    assert (pixels(few.images) == pixels(more.images[:2])).all()


@pytest.mark.parametrize(
    ("sampler", "count", "batch", "guidance", "calls"),
    [
        ("ghvb", 1, 1, 4.0, 6),  # both halves of guidance in one pass
        ("ghvb", 4, 2, 4.0, 12),
        ("ghvb", 4, 4, 1.0, 6),
        ("diffusers:HeunDiscreteScheduler", 1, 1, 4.0, 11),  # two a step, but for the last
    ],
)
def test_network_calls_are_counted(
    pipe: Any, sampler: str, count: int, batch: int, guidance: float, calls: int
) -> None:
    set_sampler(pipe, sampler)
    seen: list[int] = []
    hook = pipe.unet.register_forward_hook(lambda *_: seen.append(1))
    made = generate(pipe, "a boot", steps=6, count=count, batch=batch, guidance=guidance)
    hook.remove()
    assert made.calls == len(seen) == calls


def test_callback_hears_of_every_step(pipe: Any) -> None:
    heard: list[tuple[int, int, tuple[int, ...]]] = []
    generate(
        pipe, "a boot", steps=3, count=3, batch=2, callback=lambda i, n, latents: heard.append((i, n, latents.shape))
    )
    assert [(i, n) for i, n, _ in heard] == [(i, 6) for i in range(1, 7)]
    assert heard[0][2] == (2, 4, 8, 8)
    assert heard[-1][2] == (1, 4, 8, 8)


def test_an_exception_of_the_callback_ends_the_run_and_leaves_nothing(pipe: Any) -> None:
    def stop(done: int, total: int, latents: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(pipe, "a boot", callback=stop)
    assert not pipe.unet._forward_hooks
    assert not pipe.vae.decoder._forward_hooks
    assert pipe.scheduler.step_index is None


def test_the_pipeline_is_left_as_it_was(pipe: Any) -> None:
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    before = set(vars(pipe))
    generate(pipe, "a boot", steps=2)
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    assert scheduler.step_index is None
    assert scheduler.num_inference_steps is None
    assert set(vars(pipe)) == before


def test_threads_share_a_pipeline_and_nothing_else(pipe: Any) -> None:
    set_sampler(pipe, "ghvb", momentum=3.5)
    jobs = [{"steps": 3 + i % 4, "seed": i, "guidance": 1.0 + i, "prompts": "a boot" + " red" * i} for i in range(12)]

    def work(job: dict[str, Any]) -> tuple[np.ndarray, int]:
        made = generate(pipe, **job)
        return pixels(made.images), made.calls

    expected = [work(job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, jobs))
    for job, (one, calls), (other, counted) in zip(jobs, expected, found, strict=True):
        assert calls == counted == job["steps"]
        assert (one == other).all()


OTHERS = [
    (tiny_models.stable_diffusion_xl, 5.0),
    (tiny_models.stable_diffusion_3, 7.0),
    (tiny_models.flux, 3.5),
    (tiny_models.pixart, 4.5),
]


@pytest.mark.parametrize(("make", "guidance"), OTHERS, ids=lambda value: getattr(value, "__name__", None))
def test_other_pipelines(make: Any, guidance: float, tmp_path: Path) -> None:
    other = set_sampler(make(tmp_path), "ghvb")
    made = generate(other, "a boot", steps=3, count=2, batch=1, size=(48, 32))
    assert usual_guidance(other) == made.settings["guidance"] == guidance
    assert made.calls == 6
    assert [image.size for image in made.images] == [(48, 32)] * 2
    again = generate(other, "a boot", steps=3, count=2, batch=2, size="48x32")
    assert abs(pixels(made.images) - pixels(again.images)).max() <= 1


@pytest.mark.parametrize("make", [tiny_models.stable_diffusion_3, tiny_models.flux])
def test_euler_on_a_flow_model_is_that_of_diffusers(make: Any, tmp_path: Path) -> None:
    other = make(tmp_path)
    theirs = generate(other, "a boot", steps=6)
    assert theirs.settings["sampler"] == "diffusers:FlowMatchEulerDiscreteScheduler"
    ours = generate(set_sampler(other, "euler"), "a boot", steps=6)
    assert abs(pixels(ours.images) - pixels(theirs.images)).max() <= 1
    set_sampler(other, "diffusers:UniPCMultistepScheduler")  # told by itself that this is a flow
    assert other.scheduler.config.use_flow_sigmas
    assert generate(other, "a boot", steps=6).calls == 6
    with pytest.raises(ValueError, match="and this one is a flow-matching model"):
        set_sampler(other, "diffusers:DDIMScheduler")


def test_arguments_that_a_pipeline_has_no_use_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FluxPipeline takes no negative prompt"):
        generate(tiny_models.flux(tmp_path), "a boot", negative="a shirt")
    pixel = diffusers.DDPMPipeline(
        diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=4,
        ),
        diffusers.DDPMScheduler(),
    )
    with pytest.raises(ValueError, match="DDPMPipeline takes no prompt"):
        generate(pixel, "a boot")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 1001}, "steps must be at most 1000, the timesteps that the model was trained with; got 1001"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"guidance": -1.0}, "guidance must be a finite number of at least 0, got -1.0"),
        ({"guidance": math.nan}, "guidance must be a finite number"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**63}, r"seed must be below 2\^63"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"size": 36}, "multiples of 8 for this model, got 36x36; the nearest is 32x32"),
        ({"size": "32x20"}, "multiples of 8 for this model, got 32x20"),
        ({"size": "big"}, "size must be N or WIDTHxHEIGHT in pixels, got 'big'"),
        ({"size": -8}, "size must be N or WIDTHxHEIGHT"),
        ({"prompts": []}, "prompts must be a text or a list of texts"),
        ({"prompts": [3]}, "prompts must be a text or a list of texts"),
    ],
)
def test_errors_are_sentences(pipe: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(pipe, **{"prompts": "a boot", **arguments})


def test_every_training_step_can_be_taken(pipe: Any) -> None:
    set_sampler(pipe, "ddim", "linspace")
    pipe.scheduler.set_timesteps(1000)
    assert pipe.scheduler.timesteps.tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["unet.conv_out", "vae.decoder.conv_out"])
def test_no_picture_is_made_of_values_that_are_no_numbers(pipe: Any, where: str, value: float) -> None:
    module = pipe
    for name in where.split("."):
        module = getattr(module, name)
    with torch.no_grad():
        module.bias.fill_(value)
    with pytest.raises(FloatingPointError, match="seed 5 came out as values that are not finite"):
        generate(pipe, "a boot", seed=5, steps=2)


def test_half_precision_is_named_as_a_likely_cause(tiny_folder: Path) -> None:
    half = load(tiny_folder, dtype="bfloat16", device="cpu")
    assert generate(half, "a boot", steps=2).settings["dtype"] == "bfloat16"
    with torch.no_grad():
        half.vae.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="bfloat16 may be too small for this model, try float32"):
        generate(half, "a boot", steps=2)


def test_calls_that_were_saved_are_counted(pipe: Any) -> None:
    """Rows that reach the first convolution, below every hook, against what `generate` says."""
    rows: list[int] = []
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    arguments: dict[str, Any] = {"steps": 12, "guidance": 4.0, "count": 2, "batch": 2}
    try:
        cached = generate(pipe, "a boot", cache="ab:order=2,interval=3,warmup=2,tail=1", **arguments)
        assert (cached.calls, cached.skipped, cached.halved) == (len(rows), 12 - len(rows), 0)
        assert cached.skipped > 3
        rows.clear()
        limited = generate(set_guidance(pipe, "cfg", (1.0, 6.0)), "a boot", **arguments)
        assert (limited.calls, limited.skipped) == (12, 0)
        assert limited.halved == rows.count(2) > 0
        assert rows.count(4) == 12 - limited.halved > 0
    finally:
        handle.remove()


def test_settings_say_guidance_and_cache(pipe: Any) -> None:
    plain = generate(pipe, "a boot", steps=2).settings
    assert (plain["guidance_mode"], plain["guidance_interval"], plain["cache"]) == ("cfg", None, "none")
    set_guidance(pipe, "cfg-zero", (0.5, math.inf))
    made = generate(pipe, "a boot", steps=2, cache="ab:1,2,warmup=1")
    assert (made.settings["guidance_mode"], made.settings["guidance_interval"]) == ("cfg-zero", "0.5,inf")
    assert made.settings["cache"] == "ab:order=1,interval=2,warmup_steps=1"
    json.dumps(made.settings, allow_nan=False)


def test_an_interval_of_one_is_not_the_next_batch_s(pipe: Any) -> None:
    set_guidance(pipe, "cfg-zero", (0.5, 5), zero_init_steps=1)
    arguments: dict[str, Any] = {"steps": 6, "guidance": 4.0, "count": 3}
    alone = pixels(generate(pipe, "a boot", batch=1, **arguments).images)
    together = pixels(generate(pipe, "a boot", batch=3, **arguments).images)
    assert abs(alone - together).max() <= 1


@pytest.mark.parametrize(
    ("cache", "sentence"), [("xy", "unknown cache 'xy'"), (3, "a cache is a text"), ("ab:9", "order must be")]
)
def test_caches_that_cannot_be_are_refused(pipe: Any, cache: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(pipe, "a boot", steps=2, cache=cache)


def test_a_small_flux_model_draws_the_size_that_it_was_trained_on() -> None:
    made = generate(load("garments-flow"), "a red bag", steps=2)
    assert made.images[0].size == (32, 32)
