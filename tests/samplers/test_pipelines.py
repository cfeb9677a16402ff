"""Real pipeline classes of diffusers with tiny random networks: every scheduler goes in by one line and works."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_parts import embeds, picture, seeded, vae
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import fewstep.samplers as fs

OURS = [f"{cls.__name__}Scheduler" for cls in fs.methods().values()]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors of a few hundred numbers: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Case:
    """A pipeline, how to call it, the network whose calls count, and the scheduler of diffusers to compare with."""

    pipe: Any
    call: dict[str, Any]
    network: torch.nn.Module
    theirs: Any
    same: tuple[str, dict[str, Any]]
    calls: int = STEPS

    def swap(self, name: str, **fields: Any) -> None:
        """The one line under test."""
        self.pipe.scheduler = getattr(fs, name).from_config(self.theirs.config, **fields)

    def run(self) -> tuple[np.ndarray, int]:
        """(output, calls of the network)."""
        counted = []
        hook = self.network.register_forward_hook(lambda *_: counted.append(1))
        try:
            with torch.no_grad():
                out = self.pipe(**self.call, generator=torch.Generator().manual_seed(0))
        finally:
            hook.remove()
        value = out.frames if hasattr(out, "frames") else out.images
        return np.asarray(value.float() if isinstance(value, torch.Tensor) else value), len(counted)


def dpm_solver(**options: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(**SD, timestep_spacing="leading", steps_offset=1, **options)


TWO_M = ("ExponentialAdamsScheduler", {"order": 2})
EULER = ("AdamsBashforthScheduler", {"order": 1})


def unet(**options: Any) -> Any:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return seeded(lambda: diffusers.UNet2DConditionModel(**{**settings, **options}))


def text_encoder() -> Any:
    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=58,
        eos_token_id=59,
        pad_token_id=1,
    )
    return seeded(lambda: CLIPTextModel(config))


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single letters, from files of our own."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters)]
    vocab = {word: i for i, word in enumerate([*words, *(f"<{i}>" for i in range(6))])}
    vocab |= {"<|startoftext|>": 58, "<|endoftext|>": 59}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def stable_diffusion(folder: Path, kind: str, **parts: Any) -> Any:
    return getattr(diffusers, kind)(
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder),
        unet=unet(),
        scheduler=dpm_solver(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )


BASE = {"prompt": "a cat", "num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "np"}


def sd(folder: Path) -> Case:
    pipe = stable_diffusion(folder, "StableDiffusionPipeline")
    return Case(pipe, {**BASE, "height": 16, "width": 16}, pipe.unet, dpm_solver(), TWO_M)


def sd_ddim(folder: Path) -> Case:
    pipe = stable_diffusion(folder, "StableDiffusionPipeline")
    ddim = diffusers.DDIMScheduler(**SD, timestep_spacing="trailing", clip_sample=False)
    return Case(pipe, {**BASE, "height": 16, "width": 16}, pipe.unet, ddim, EULER)


def sd_img2img(folder: Path) -> Case:
    pipe = stable_diffusion(folder, "StableDiffusionImg2ImgPipeline")
    call = {**BASE, "image": picture(), "strength": 0.75}
    return Case(pipe, call, pipe.unet, dpm_solver(), TWO_M, calls=3)


def sd_inpaint(folder: Path) -> Case:
    pipe = stable_diffusion(folder, "StableDiffusionInpaintPipeline")
    mask = Image.fromarray(np.kron([[255, 0], [0, 0]], np.ones((8, 8))).astype(np.uint8))
    call = {**BASE, "image": picture(), "mask_image": mask, "height": 16, "width": 16, "strength": 0.75}
    return Case(pipe, call, pipe.unet, dpm_solver(), TWO_M, calls=3)


def sd_controlnet(folder: Path) -> Case:
    net = seeded(lambda: diffusers.ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(4, 8)))
    for name, weight in net.named_parameters():
        if "controlnet" in name:  # zero convolutions would hide it
            torch.nn.init.normal_(weight, std=0.1)
    pipe = stable_diffusion(folder, "StableDiffusionControlNetPipeline", controlnet=net)
    return Case(pipe, {**BASE, "image": picture(16)}, pipe.unet, dpm_solver(), TWO_M)


def sdxl(folder: Path) -> Case:
    net = unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=4 * 6 + 16,
        use_linear_projection=True,
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=net,
        scheduler=dpm_solver(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "pooled_prompt_embeds": embeds(1, 16),
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
        "output_type": "np",
    }
    return Case(pipe, call, net, dpm_solver(), TWO_M)


def pixart(folder: Path) -> Case:
    """Its network predicts a variance beside epsilon."""
    net = seeded(
        lambda: diffusers.PixArtTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=16,
            norm_type="ada_norm_single",
        )
    )
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=vae(), transformer=net, scheduler=dpm_solver()
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt": None,
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
        "use_resolution_binning": False,
        "output_type": "np",
    }
    return Case(pipe, call, net, dpm_solver(), TWO_M)


def ddpm(folder: Path) -> Case:
    net = seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        )
    )
    theirs = diffusers.DPMSolverMultistepScheduler(prediction_type="sample")  # epsilon would leave [-1, 1] at once
    pipe = diffusers.DDPMPipeline(unet=net, scheduler=theirs)
    return Case(pipe, {"num_inference_steps": STEPS, "output_type": "np"}, net, theirs, TWO_M)


def flow(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def sd3(folder: Path) -> Case:
    net = seeded(
        lambda: diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=8,
        )
    )
    theirs = flow(shift=3.0)
    empty = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    autoencoder = vae()
    autoencoder.register_to_config(shift_factor=0.06)
    pipe = diffusers.StableDiffusion3Pipeline(transformer=net, scheduler=theirs, vae=autoencoder, **empty)
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "pooled_prompt_embeds": embeds(1, 16),
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
        "output_type": "np",
    }
    return Case(pipe, call, net, theirs, EULER)


def flux(folder: Path, kind: str = "FluxPipeline", **theirs_options: Any) -> Case:
    net = seeded(
        lambda: diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=False,
        )
    )
    theirs = flow(**(theirs_options or {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}))
    autoencoder = vae()
    autoencoder.register_to_config(shift_factor=0.06)
    empty = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = getattr(diffusers, kind)(transformer=net, scheduler=theirs, vae=autoencoder, **empty)
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "pooled_prompt_embeds": embeds(1, 16),
        "num_inference_steps": STEPS,
        "height": 16,
        "width": 16,
        "output_type": "np",
    }
    return Case(pipe, call, net, theirs, EULER)


def flux_schnell(folder: Path) -> Case:
    """No dynamic shift in its configuration, and a mu passed all the same."""
    return flux(folder, shift=1.0, use_dynamic_shifting=False)


def flux_img2img(folder: Path) -> Case:
    case = flux(folder, "FluxImg2ImgPipeline")
    case.call |= {"image": picture(), "strength": 0.75}
    case.calls = 3
    return case


def wan(folder: Path) -> Case:
    net = seeded(
        lambda: diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        )
    )
    autoencoder = seeded(
        lambda: diffusers.AutoencoderKLWan(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )
    theirs = flow(shift=3.0)
    pipe = diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=autoencoder, transformer=net, scheduler=theirs)
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "output_type": "latent",  # the tiny decoder is nearly constant
    }
    return Case(pipe, call, net, theirs, EULER)


CASES: dict[str, Callable[[Path], Case]] = {
    make.__name__: make
    for make in (
        sd,
        sd_ddim,
        sd_img2img,
        sd_inpaint,
        sd_controlnet,
        sdxl,
        pixart,
        ddpm,
        sd3,
        flux,
        flux_schnell,
        flux_img2img,
        wan,
    )
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = CASES[request.param](tmp_path_factory.mktemp(request.param) / "tokenizer")
    made.pipe.set_progress_bar_config(disable=True)
    return made


def calls_of(name: str, steps: int) -> int:
    """Network calls of a run over so many intervals."""
    spec = getattr(fs, name).method_class().spec
    return steps * spec.calls + spec.extra_calls


@pytest.mark.parametrize("name", OURS)
def test_a_swapped_scheduler_makes_its_declared_number_of_network_calls(case: Case, name: str) -> None:
    case.swap(name)
    picture, calls = case.run()
    assert calls == calls_of(name, case.calls)
    assert np.isfinite(picture).all()
    assert picture.std() > 1e-3
    again, _ = case.run()
    assert np.array_equal(picture, again)


def test_the_picture_is_that_of_the_scheduler_of_diffusers(case: Case) -> None:
    """First-order Adams-Bashforth is Euler and DDIM, exponential Adams of order 2 is DPM-Solver++ 2M; others differ."""
    name, fields = case.same
    case.swap(name, **fields)
    ours, calls = case.run()
    case.pipe.scheduler = type(case.theirs).from_config(case.theirs.config)
    theirs, their_calls = case.run()
    assert calls == their_calls
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    case.swap("HeavyBallScheduler")
    assert np.abs(case.run()[0] - theirs).max() > 1e-3


@pytest.mark.parametrize("name", OURS)
def test_a_pipeline_with_a_sampler_of_ours_saves_and_loads(name: str, tmp_path: Path) -> None:
    made = sd(tmp_path / "tokenizer")
    made.pipe.set_progress_bar_config(disable=True)
    fields = {"momentum": 1.8} if name == "GHVBScheduler" else {}
    made.swap(name, **fields)
    before, _ = made.run()
    made.pipe.save_pretrained(tmp_path / "pipe")
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert index["scheduler"] == ["fewstep.samplers", name]
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is getattr(fs, name)
    assert loaded.scheduler.method == made.pipe.scheduler.method
    made.pipe, made.network = loaded, loaded.unet
    after, calls = made.run()
    assert calls == calls_of(name, STEPS)
    assert np.array_equal(before, after)
    swapped = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", scheduler=dpm_solver())
    assert isinstance(swapped.scheduler, diffusers.DPMSolverMultistepScheduler)


FRESH = """
import sys
import torch
import fewstep.samplers
assert "diffusers" not in sys.modules, "importing the mathematics imported diffusers"
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
print(type(pipe.scheduler).__module__, type(pipe.scheduler).__name__, pipe.scheduler.method.momentum)
image = pipe("a cat", num_inference_steps=4, guidance_scale=3.0, height=16, width=16, output_type="np",
             generator=torch.Generator().manual_seed(0)).images
print(repr(float(image.sum())))
assert "samplers" not in sys.modules, "a second copy of the package was loaded"
"""


def test_a_fresh_process_loads_it_after_one_import(tmp_path: Path) -> None:
    """`import fewstep.samplers` is all that `from_pretrained` needs: the class is made when diffusers asks for it."""
    made = sd(tmp_path / "tokenizer")
    made.pipe.set_progress_bar_config(disable=True)
    made.swap("GHVBScheduler", momentum=1.8)
    expected, _ = made.run()
    made.pipe.save_pretrained(tmp_path / "pipe")
    told = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "pipe")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[-2] == "fewstep.samplers GHVBScheduler 1.8"
    assert float(lines[-1]) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_swapping_inside_a_pipeline_warns_of_nothing(tmp_path: Path) -> None:
    """Nor do the checks that the pipeline's constructor makes on a scheduler's configuration."""
    made = sd(tmp_path / "tokenizer")
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stderr(said):
            for name in OURS:
                made.swap(name)
                diffusers.StableDiffusionPipeline(**made.pipe.components, requires_safety_checker=False)
    finally:
        logger.removeHandler(handler)
    told = [line for line in said.getvalue().splitlines() if "safety checker" not in line and line.strip()]
    assert told == []


def test_sdxl_hands_over_from_one_model_to_another(tmp_path: Path) -> None:
    """denoising_end and denoising_start split one schedule: together as many calls as the whole."""
    made = sdxl(tmp_path)
    made.pipe.set_progress_bar_config(disable=True)
    made.swap("GHVBScheduler")
    second = diffusers.StableDiffusionXLImg2ImgPipeline(**made.pipe.components, add_watermarker=False)
    second.set_progress_bar_config(disable=True)
    calls: list[int] = []
    hook = made.network.register_forward_hook(lambda *_: calls.append(1))
    call = {k: v for k, v in made.call.items() if k not in ("height", "width", "num_inference_steps", "output_type")}
    with torch.no_grad():
        first = made.pipe(
            **call,
            num_inference_steps=10,
            denoising_end=0.6,
            height=16,
            width=16,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).images
        done = len(calls)
        end = second(**call, num_inference_steps=10, denoising_start=0.6, image=first, output_type="np").images
    hook.remove()
    assert 0 < done < 10
    assert len(calls) == 10
    assert np.isfinite(end).all()
