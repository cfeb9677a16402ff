"""Real flow-matching pipelines of diffusers with tiny random networks, and how to call them for latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from tiny_parts import embeds, picture, seeded, vae


@dataclass
class Flow:
    """A pipeline, its arguments for one latent, the shape that `latents` has, and its network."""

    pipe: Any
    call: dict[str, Any]
    shape: tuple[int, ...]
    network: torch.nn.Module

    def __post_init__(self) -> None:
        self.config = self.pipe.scheduler.config

    def run(self, scheduler: Any, steps: int, latents: torch.Tensor | None = None, **more: Any) -> Any:
        """Final latents; the scheduler is set as it is."""
        self.pipe.scheduler = scheduler
        self.pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            out = self.pipe(
                **{**self.call, **more},
                latents=latents,
                num_inference_steps=steps,
                output_type="latent",
                generator=torch.Generator().manual_seed(0),
            )
        return out.frames if hasattr(out, "frames") else out.images

    def noise(self, seed: int = 1) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))


def shifted_vae() -> Any:
    """With the shift of its latents that Flux and SD 3 have."""
    made = vae()
    made.register_to_config(shift_factor=0.06)
    return made


def video_vae(kind: str) -> Any:
    return seeded(
        lambda: getattr(diffusers, kind)(
            base_dim=3,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )


def euler(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def flux(kind: str = "FluxPipeline", *, guidance: bool = False) -> Flow:
    net = seeded(
        lambda: diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        )
    )
    empty = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = getattr(diffusers, kind)(transformer=net, scheduler=euler(**DYNAMIC), vae=shifted_vae(), **empty)
    call: dict[str, Any] = {
        "prompt_embeds": embeds(1, 7, 16),
        "pooled_prompt_embeds": embeds(1, 16),
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
    }
    if kind != "FluxPipeline":
        call["image"] = picture()
    return Flow(pipe, call, (1, 16, 16), net)


def flux_img2img() -> Flow:
    return flux("FluxImg2ImgPipeline")


def sd3() -> Flow:
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
    empty = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    pipe = diffusers.StableDiffusion3Pipeline(transformer=net, scheduler=euler(shift=3.0), vae=shifted_vae(), **empty)
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "pooled_prompt_embeds": embeds(1, 16),
        "guidance_scale": 1.0,
        "height": 16,
        "width": 16,
    }
    return Flow(pipe, call, (1, 4, 8, 8), net)


def sana() -> Flow:
    net = seeded(
        lambda: diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        )
    )
    autoencoder = seeded(
        lambda: diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
    )
    theirs = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = diffusers.SanaPipeline(tokenizer=None, text_encoder=None, vae=autoencoder, transformer=net, scheduler=theirs)
    call = {
        "prompt_embeds": embeds(1, 7, 8),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt": None,
        "guidance_scale": 1.0,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
    }
    size = 32 // pipe.vae_scale_factor
    return Flow(pipe, call, (1, 4, size, size), net)


def qwen_image() -> Flow:
    net = seeded(
        lambda: diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            guidance_embeds=False,
            axes_dims_rope=(8, 4, 4),
        )
    )
    pipe = diffusers.QwenImagePipeline(
        tokenizer=None,
        text_encoder=None,
        vae=video_vae("AutoencoderKLQwenImage"),
        transformer=net,
        scheduler=euler(**DYNAMIC),
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_embeds_mask": torch.ones(1, 7, dtype=torch.int64),
        "true_cfg_scale": 1.0,
        "height": 32,
        "width": 32,
    }
    return Flow(pipe, call, (1, 4, 16), net)


def wan() -> Flow:
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
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=video_vae("AutoencoderKLWan"),
        transformer=net,
        scheduler=euler(shift=3.0),
    )
    call = {"prompt_embeds": embeds(1, 7, 16), "guidance_scale": 1.0, "height": 16, "width": 16, "num_frames": 5}
    return Flow(pipe, call, (1, 4, 2, 2, 2), net)


FLOWS: dict[str, Callable[[], Flow]] = {make.__name__: make for make in (flux, sd3, sana, qwen_image, wan)}


def damp_time(network: torch.nn.Module, keep: float = 0.02) -> None:
    """Scale down what the network makes of the fast frequencies of its timestep: random weights have no smooth time.

    The sinusoidal embedding varies over 1e-3 in sigma, and so would a velocity of random weights.
    """
    for module in network.modules():
        if type(module).__name__ == "TimestepEmbedding":
            half = module.linear_1.weight.shape[1] // 2
            slow = torch.exp(-torch.arange(half) / half * np.log(10000)) < keep
            with torch.no_grad():
                module.linear_1.weight *= torch.cat([slow, slow]).to(module.linear_1.weight)
