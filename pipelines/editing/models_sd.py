"""Editing with Stable Diffusion and other variance-preserving U-Nets, as if they were rectified flows.

With z = alpha x0 + sigma_z eps, the state ``x = z / (alpha + sigma_z)`` is ``(1 - s) x0 + s eps`` for
``s = sigma_z / (alpha + sigma_z)``, and the probability-flow equation reads dx/ds = eps_hat - x0_hat, exactly. An Euler
step in s is a DDIM step, so the ``euler`` inversion of such a model is DDIM inversion (Song, Meng, Ermon 2021,
arXiv 2010.02502). Pure noise lies at s < 1 here, because the last alpha of these models is not 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from fewstep.samplers import Grid, Node, Process, VPDiscrete, scheduler_class

from ..quiet import quiet
from .injection import Block
from .models import PROCESS, Condition, EditModel


def as_flow(node: Node) -> float:
    """The noise level of the rectified flow at a node of another process: sigma / (alpha + sigma)."""
    return node.sigma / (node.alpha + node.sigma)


def flow_velocity(
    process: Process, node: Node, z: torch.Tensor, prediction: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x0, eps) of a prediction at `z`, a sample of `process` at `node`; eps - x0 is the flow's velocity."""
    x0, eps = process.x0(node), process.eps(node)
    return z * x0.of_sample + prediction * x0.of_output, z * eps.of_sample + prediction * eps.of_output


class StableDiffusionEditModel(EditModel):
    """`StableDiffusionPipeline` and its siblings with the same U-Net."""

    smallest: ClassVar[float] = 1.0
    denoiser_name: ClassVar[str] = "unet"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        config = self.denoiser.config
        if config.in_channels != pipe.vae.config.latent_channels:
            raise ValueError(
                f"{type(pipe).__name__} takes more than the latents of a picture ({config.in_channels} channels), so "
                "it cannot be edited with; use a StableDiffusionPipeline"
            )
        if config.get("addition_embed_type") is not None or config.get("time_cond_proj_dim") is not None:
            raise ValueError(
                f"{type(pipe).__name__} tells its U-Net more than a prompt (as SDXL and distilled models do), which "
                "editing does not know; allowed are Flux, Stable Diffusion 3 and Stable Diffusion pipelines"
            )
        with quiet():
            self.process: Any = scheduler_class("exponential-adams").from_config(dict(pipe.scheduler.config)).process
        if not isinstance(self.process, VPDiscrete):
            raise ValueError(
                f"{type(pipe).__name__} has the scheduler of another kind of model ({type(pipe.scheduler).__name__}), "
                "so it cannot be inverted; give it one of a variance-preserving model, such as DDIMScheduler"
            )

        if self.process.prediction == "sample":
            raise ValueError(
                f"{type(pipe).__name__} predicts the clean sample (prediction_type 'sample'), which says nothing of "
                "the noise in clean data, so it cannot be inverted; allowed are epsilon and v_prediction"
            )

    def pack(self, planes: torch.Tensor) -> torch.Tensor:
        return planes

    def unpack(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return latents

    @torch.no_grad()
    def condition(self, prompts: Sequence[str], guidance: float) -> Condition:
        embeds, negative = self.pipe.encode_prompt(list(prompts), self.device, 1, guidance > 1)
        uncond = {"encoder_hidden_states": negative} if guidance > 1 else None
        return Condition({"encoder_hidden_states": embeds}, uncond, guidance)

    @torch.no_grad()
    def velocity(
        self, x: torch.Tensor, sigma: float, told: dict[str, torch.Tensor], size: tuple[int, int], guidance: float
    ) -> torch.Tensor:
        node = self.process.at_sigma(sigma / (1 - sigma) if sigma < 1 else math.inf)
        z = x * (node.alpha + node.sigma)
        time = torch.full([x.shape[0]], node.timestep, device=x.device, dtype=torch.float32)
        prediction = self.denoiser(z.to(self.dtype), time, return_dict=False, **told)[0].float()
        x0, eps = flow_velocity(self.process, node, z, prediction)
        return eps - x0

    def image_tokens(self, x: torch.Tensor) -> int:
        return sys.maxsize  # self-attention of a U-Net holds no text

    def grid(self, steps: int, x: torch.Tensor) -> Grid:
        """Trailing timesteps, T, T - T/N, ..., then clean data."""
        count = len(self.process.alphas_cumprod)
        if steps > count:
            raise ValueError(
                f"steps must be at most {count}, the timesteps that the model was trained with; got {steps}"
            )
        levels = [as_flow(self.process.at(count * (1 - i / steps) - 1)) for i in range(steps)]
        return Grid(tuple(PROCESS.at_sigma(level) for level in [*levels, 0.0]))

    def blocks(self) -> list[Block]:
        """Self-attention of the decoder; cross-attention is left alone, since it reads the prompt."""
        found = [
            (f"up_blocks.{name}", module)
            for name, module in self.denoiser.up_blocks.named_modules()
            if name.endswith("attn1")
        ]
        return [Block(name, module, norm_axis=2) for name, module in found]
