"""Tiny pixel priors in diffusers' own class: one with random weights, and one that is sure of middle grey."""

from __future__ import annotations

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel


def unet(channels: int = 3) -> UNet2DModel:
    """Windows of 16 x 16 pixels."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )


def random_prior(channels: int = 3) -> DDPMPipeline:
    return DDPMPipeline(unet(channels), DDPMScheduler())


def grey_prior(channels: int = 3) -> DDPMPipeline:
    """Its clean estimate is 0 (middle grey) always, so that DDNM, which projects last, gives A^+ y exactly."""
    net = unet(channels)
    torch.nn.init.zeros_(net.conv_out.weight)
    torch.nn.init.zeros_(net.conv_out.bias)
    return DDPMPipeline(net, DDPMScheduler(prediction_type="sample"))
