"""Tiny random pipelines of the usual classes, made on the spot: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)


def clip_tokenizer(folder: Path, length: int = 16) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer without merges, from its own vocab.json and merges.txt."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    words = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def clip_text_config(tokenizer: CLIPTokenizer, width: int = 16, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def vae(channels: int = 4, **more: Any) -> AutoencoderKL:
    """(B, 3, 4h, 4w) <-> (B, channels, h, w)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **more,
    )


def unet(width: int = 16, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def vp_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


def stable_diffusion(folder: Path) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of 32x32 pictures with random weights."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer)).eval(),
        tokenizer=tokenizer,
        unet=unet().eval(),
        scheduler=vp_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def t5(width: int = 16) -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 encoder with a vocabulary of single letters."""
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    config = T5Config(vocab_size=len(letters) + 8, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval(), T5Tokenizer(vocab=letters, extra_ids=0)


def stable_diffusion_xl(folder: Path) -> Any:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    config = clip_text_config(tokenizer, projection_dim=16)
    denoiser = unet(
        32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
        transformer_layers_per_block=1,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=denoiser.eval(),
        scheduler=vp_scheduler(),
        add_watermarker=False,
    )


def stable_diffusion_3(folder: Path) -> Any:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    config = clip_text_config(tokenizer, projection_dim=16)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        vae=vae(shift_factor=0.0),
        text_encoder=CLIPTextModelWithProjection(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(folder: Path) -> Any:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    encoder, tokenizer_2 = t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipe = FluxPipeline(
        vae=vae(shift_factor=0.0),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer)).eval(),
        text_encoder_2=encoder,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    pipe.default_sample_size = 8
    return pipe


def pixart(folder: Path) -> Any:
    torch.manual_seed(0)
    encoder, tokenizer = t5()
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=16,
    )
    return PixArtAlphaPipeline(
        vae=vae(), text_encoder=encoder, tokenizer=tokenizer, transformer=transformer.eval(), scheduler=vp_scheduler()
    )


def amused(folder: Path, codes: int = 24) -> Any:
    """An AmusedPipeline with random weights that draws 32 pixels as 4 x 4 of so many tokens; its words in a folder."""
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder)
    transformer = UVit2DModel(
        hidden_size=16, use_bias=False, hidden_dropout=0.0, cond_embed_dim=16, micro_cond_encode_dim=2,
        micro_cond_embed_dim=10, encoder_hidden_size=16, vocab_size=codes + 1, codebook_size=codes, in_channels=16,
        block_out_channels=16, num_res_blocks=1, downsample=False, upsample=False, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, attention_dropout=0.0, intermediate_size=16, layer_norm_eps=1e-6,
        ln_elementwise_affine=True, sample_size=4,
    )  # fmt: skip
    vqvae = VQModel(
        act_fn="silu", block_out_channels=[8, 8, 8, 8], down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3,
        latent_channels=8, layers_per_block=1, norm_num_groups=8, num_vq_embeddings=codes, out_channels=3,
        sample_size=32, up_block_types=["UpDecoderBlock2D"] * 4, mid_block_add_attention=False,
        lookup_from_codebook=True,
    )  # fmt: skip
    text = CLIPTextModelWithProjection(clip_text_config(tokenizer, projection_dim=16))
    return AmusedPipeline(
        transformer=transformer, vqvae=vqvae, text_encoder=text, tokenizer=tokenizer, scheduler=AmusedScheduler(codes)
    )
