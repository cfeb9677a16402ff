"""A VAE between latents and pictures, differentiable, in the scale of the network; and the prompt's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Coder:
    """Decoder and encoder of a VAE as posterior methods call them.

    decode: z -> D(z / scaling_factor + shift_factor), pictures (B, C, H, W), not clamped.
    encode: x -> (mean of E(x) - shift_factor) * scaling_factor.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        config = vae.config
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.vae.decode((z / self.scale + self.shift).to(self.vae.dtype), return_dict=False)[0].to(z.dtype)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        said = self.vae.encode(x.to(self.vae.dtype))
        latents = said.latent_dist.mode() if hasattr(said, "latent_dist") else said.latents
        return (latents.to(x.dtype) - self.shift) * self.scale


def prompt_embeds(tokenizer: Any, text_encoder: Any, prompts: Sequence[str], device: torch.device) -> torch.Tensor:
    """What cross-attention reads of prompts, (len(prompts), L, D); a prompt that is too long is cut off."""
    told = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = told.attention_mask.to(device) if text_encoder.config.to_dict().get("use_attention_mask") else None
    with torch.no_grad():
        return text_encoder(told.input_ids.to(device), attention_mask=mask)[0]
