"""Editing with Stable Diffusion 3: unpacked latents, classifier-free guidance in two calls.

Every block of these models is double-stream; features are those of the picture's stream. No recipe is published for
them, so which blocks and tensors to inject is open.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fewstep.samplers import Grid

from .injection import Block
from .models import Condition, EditModel
from .schedules import flow_grid


class StableDiffusion3EditModel(EditModel):
    """`StableDiffusion3Pipeline` and its siblings with the same transformer."""

    def pack(self, planes: torch.Tensor) -> torch.Tensor:
        return planes

    def unpack(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return latents

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], guidance: float) -> Condition:
        third = getattr(self.pipe, "tokenizer_3", None)
        length = min(256, int(getattr(third, "model_max_length", 256)))
        embeds, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=guidance > 1,
            max_sequence_length=length,
        )
        cond = {"encoder_hidden_states": embeds, "pooled_projections": pooled}
        uncond = {"encoder_hidden_states": negative, "pooled_projections": negative_pooled} if guidance > 1 else None
        return Condition(cond, uncond, guidance)

    @torch.no_grad()
    def velocity(
        self, x: torch.Tensor, sigma: float, told: dict[str, torch.Tensor], size: tuple[int, int], guidance: float
    ) -> torch.Tensor:
        last = float(self.pipe.scheduler.config.get("num_train_timesteps", 1000))
        return self.denoiser(
            hidden_states=x.to(self.dtype),
            timestep=torch.full([x.shape[0]], sigma * last, device=x.device, dtype=torch.float32),
            return_dict=False,
            **told,
        )[0].float()

    def image_tokens(self, x: torch.Tensor) -> int:
        patch = int(self.denoiser.config.patch_size)
        return (x.shape[2] // patch) * (x.shape[3] // patch)

    def grid(self, steps: int, x: torch.Tensor) -> Grid:
        return flow_grid(self.pipe.scheduler.config, steps, self.image_tokens(x))

    def blocks(self) -> list[Block]:
        joint = self.denoiser.transformer_blocks
        return [Block(f"transformer_blocks.{i}.attn", block.attn, norm_axis=2) for i, block in enumerate(joint)]
