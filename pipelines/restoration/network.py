"""A U-Net as the posterior methods see it: float32 outside, its own numbers inside, every evaluation counted."""

from __future__ import annotations

from typing import Any

import torch

#: Number formats in which a run's own numbers never are.
HALVES = (torch.float16, torch.bfloat16)


def recomputing() -> bool:
    """Whether this is a forward pass within a backward pass: activations that checkpointing computes again."""
    return torch._C._current_graph_task_id() != -1


class CountedNetwork:
    """``denoiser(x, timestep) -> prediction`` of a U-Net; counts evaluations a sample.

    Args:
        unet: of diffusers, pixel or latent.
        samples: pictures of the run; a batch of N rows is N / samples evaluations of each.
        embeds: what cross-attention reads, (samples, L, D); None for networks without.
        unconditional: the same without the prompt, for guidance; None for none.
        guidance: scale s of unconditional + s (conditional - unconditional).
        pixels: of a batch that goes through the network at once, without gradients; one row at least.

    Attributes:
        forward, backward: evaluations and vector-Jacobian products a sample so far. What gradient checkpointing
            computes a second time is not counted.
    """

    def __init__(
        self,
        unet: Any,
        samples: int,
        embeds: torch.Tensor | None = None,
        unconditional: torch.Tensor | None = None,
        guidance: float = 1.0,
        pixels: int = 2**16,
    ) -> None:
        self.unet, self.samples, self.pixels = unet, samples, pixels
        self.embeds, self.unconditional, self.guidance = embeds, unconditional, guidance
        self.forward = self.backward = 0

    def _predict(self, x: torch.Tensor, timestep: float, embeds: torch.Tensor | None) -> torch.Tensor:
        time = torch.full((len(x),), timestep, dtype=torch.float32, device=x.device)
        told = {} if embeds is None else {"encoder_hidden_states": embeds}
        try:
            said = self.unet(x.to(self.unet.dtype), time, return_dict=False, **told)[0]
        except RuntimeError as error:
            if self.unet.dtype in HALVES and "not implemented for" in str(error):
                raise ValueError(
                    f"{x.device.type} cannot run this network in {str(self.unet.dtype).removeprefix('torch.')}; load "
                    "the model in float32"
                ) from error
            raise
        if said.shape[1] == 2 * x.shape[1]:
            said = said.chunk(2, dim=1)[0]  # the other half is a learned variance
        return said.to(x.dtype)

    def _said(self, x: torch.Tensor, timestep: float, embeds: torch.Tensor | None) -> torch.Tensor:
        if embeds is not None:
            embeds = embeds.to(self.unet.dtype).repeat(len(x) // len(embeds), 1, 1)
        rows = len(x) if torch.is_grad_enabled() else max(self.pixels // (x.shape[-2] * x.shape[-1]), 1)
        parts = range(0, len(x), rows)
        said = torch.cat(
            [self._predict(x[i : i + rows], timestep, None if embeds is None else embeds[i : i + rows]) for i in parts]
        )
        evaluations = max(len(x) // self.samples, 1)
        if not recomputing():
            self.forward += evaluations
        if said.requires_grad:

            def count(gradient: torch.Tensor) -> None:
                self.backward += evaluations

            said = said.view_as(said)
            said.register_hook(count)
        return said

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        """The prediction for (N, C, h, w), N a multiple of `samples`, window by window."""
        said = self._said(x, timestep, self.embeds)
        if self.unconditional is None:
            return said
        plain = self._said(x, timestep, self.unconditional)
        return plain + self.guidance * (said - plain)
