"""The networks of `garments-tokens`: a vector-quantised autoencoder, a masked-token transformer and its text encoder.

All are stock classes of diffusers and transformers, in the sizes that 64 tokens of 512 kinds ask for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

CODES = 512
"""Kinds of picture tokens; the mask token comes after them."""
SIDE = 8
"""Tokens along each side of a picture."""
WORDS = 24
"""Tokens of a caption; the longest of the data takes 15."""
TEXT_WIDTH = 128
MICRO_CONDITIONS = (32.0, 32.0, 0.0, 0.0, 6.0)
"""Width, height, crop and aesthetic score, as AmusedPipeline passes them at its defaults; they never vary here."""


def new_vqvae() -> Any:
    """VQModel, pictures (B, 3, 32, 32) in [0, 1] <-> (B, 8, 8) tokens: the layers of `garments`' autoencoder."""
    from diffusers import VQModel

    return VQModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        num_vq_embeddings=CODES,
        lookup_from_codebook=True,
    )


@torch.no_grad()
def start_from_autoencoder(vqvae: Any, folder: Path) -> None:
    """Copy the weights of an `AutoencoderKL` of the same layers, for pictures in [0, 1] instead of [-1, 1].

    The means of its latents become what is quantised: the half of the last encoder layer that makes variances is left
    out, and its 1x1 convolution is folded into that layer. Raises FileNotFoundError where `folder` holds none.
    """
    from diffusers import AutoencoderKL

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"There is no autoencoder in {folder}; make garments first, with fewstep.assets.recipes.garments."
        )
    source: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    channels = vqvae.config.latent_channels
    weights = source.encoder.state_dict()
    mixing, offset = source.quant_conv.weight[:channels, :, 0, 0], source.quant_conv.bias[:channels]
    weights["conv_out.bias"] = mixing @ weights["conv_out.bias"] + offset
    weights["conv_out.weight"] = torch.einsum("oi,ichw->ochw", mixing, weights["conv_out.weight"])
    # 2x - 1 on the way in and (x + 1) / 2 on the way out.
    weights["conv_in.bias"] = weights["conv_in.bias"] - weights["conv_in.weight"].sum((1, 2, 3))
    weights["conv_in.weight"] = 2 * weights["conv_in.weight"]
    vqvae.encoder.load_state_dict(weights)
    vqvae.quant_conv.weight.copy_(torch.eye(channels)[:, :, None, None])
    vqvae.quant_conv.bias.zero_()
    vqvae.post_quant_conv.load_state_dict(source.post_quant_conv.state_dict())
    weights = source.decoder.state_dict()
    weights["conv_out.weight"] = weights["conv_out.weight"] / 2
    weights["conv_out.bias"] = (weights["conv_out.bias"] + 1) / 2
    vqvae.decoder.load_state_dict(weights)


def new_text_encoder(vocabulary: dict[str, int]) -> Any:
    """CLIPTextModelWithProjection, (B, 24) word tokens -> hidden states (B, 24, 128) and one vector (B, 128)."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WORDS,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def new_transformer() -> Any:
    """UVit2DModel, (B, 8, 8) tokens, some masked -> logits (B, 512, 8, 8) of what they are."""
    from diffusers import UVit2DModel

    transformer = UVit2DModel(
        hidden_size=256,
        cond_embed_dim=TEXT_WIDTH,
        micro_cond_encode_dim=8,
        micro_cond_embed_dim=8 * len(MICRO_CONDITIONS),
        encoder_hidden_size=TEXT_WIDTH,
        vocab_size=CODES + 1,
        codebook_size=CODES,
        in_channels=128,
        block_out_channels=64,
        num_res_blocks=3,
        block_num_heads=1,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        sample_size=SIDE,
    )
    initialise(transformer)
    return transformer


def initialise(transformer: Any) -> None:
    """Start every modulation at the identity, every residual branch small and the logits near zero."""
    for name, module in transformer.named_modules():
        if name.endswith(("cond_embeds_mapper", ".linear")):
            nn.init.zeros_(module.weight)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
    nn.init.trunc_normal_(transformer.mlm_layer.conv2.weight, std=0.02)


def new_scheduler() -> Any:
    """AmusedScheduler with the cosine mask ratio that the transformer is trained for."""
    from diffusers import AmusedScheduler

    return AmusedScheduler(mask_token_id=CODES, masking_schedule="cosine")
