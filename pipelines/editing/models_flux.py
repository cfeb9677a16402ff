"""Editing with the Flux pipelines: packed latents, text before the picture, guidance as an input of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewstep.samplers import Grid

from .injection import Block
from .models import Condition, EditModel
from .schedules import flow_grid

#: Width of the T5 states that all sizes of FLUX.1 read; smaller networks are nobody's distillation.
_FLUX_1_STATES = 4096


def is_distilled(network: Mapping[str, Any], scheduler: Mapping[str, Any]) -> bool:
    """Whether configurations are those of a FLUX.1 distilled to a few steps, as FLUX.1-schnell is.

    FLUX.1 with smooth paths reads its guidance as an input or has noise levels shifted by the size of the picture; the
    distilled one has neither.
    """
    shifted = scheduler.get("use_dynamic_shifting", False) or float(scheduler.get("shift") or 1.0) != 1.0
    return not network["guidance_embeds"] and not shifted and network["joint_attention_dim"] >= _FLUX_1_STATES


class FluxEditModel(EditModel):
    """`FluxPipeline` and its siblings with the same transformer."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        channels = self.denoiser.config.in_channels
        if channels != 4 * pipe.vae.config.latent_channels:
            raise ValueError(
                f"{type(pipe).__name__} takes more than the latents of a picture ({channels} channels), so it cannot "
                "be edited with; use a FluxPipeline"
            )
        if is_distilled(self.denoiser.config, pipe.scheduler.config):
            self.distilled, self.edit_guidance = True, 1.0

    def pack(self, planes: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = planes.shape
        return self.pipe._pack_latents(planes, batch, channels, height, width)

    def unpack(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.pipe._unpack_latents(latents, size[1], size[0], self.pipe.vae_scale_factor)

    def condition(self, prompts: Sequence[str], guidance: float) -> Condition:
        embedded = self.denoiser.config.guidance_embeds
        uncond = None if embedded or guidance <= 1 else self._told([""] * len(prompts))
        return Condition(self._told(list(prompts)), uncond, guidance)

    @torch.no_grad()
    def _told(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        # the text encoders read no more than their tokenizer gives them
        length = min(512, int(getattr(self.pipe.tokenizer_2, "model_max_length", 512)))
        embeds, pooled, ids = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, device=self.device, max_sequence_length=length
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled, "txt_ids": ids}

    @torch.no_grad()
    def velocity(
        self, x: torch.Tensor, sigma: float, told: dict[str, torch.Tensor], size: tuple[int, int], guidance: float
    ) -> torch.Tensor:
        batch, (width, height) = x.shape[0], self.cells(size)
        ids = self.pipe._prepare_latent_image_ids(batch, height // 2, width // 2, x.device, self.dtype)
        scale = torch.full([batch], guidance, device=x.device, dtype=torch.float32)
        return self.denoiser(
            hidden_states=x.to(self.dtype),
            timestep=torch.full([batch], sigma, device=x.device, dtype=self.dtype),
            guidance=scale if self.denoiser.config.guidance_embeds else None,
            img_ids=ids,
            return_dict=False,
            **told,
        )[0].float()

    def grid(self, steps: int, x: torch.Tensor) -> Grid:
        return flow_grid(self.pipe.scheduler.config, steps, x.shape[1])

    def blocks(self) -> list[Block]:
        single = self.denoiser.single_transformer_blocks
        return [Block(f"single_transformer_blocks.{i}.attn", block.attn) for i, block in enumerate(single)]
