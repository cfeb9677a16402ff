"""Small random pixel priors, and a Stable Diffusion of random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from fewstep.pipelines import PixelRestorationPipeline, StableDiffusionRestorationPipeline


def pixel_unet(attention: bool = False, channels: int = 3, out: int | None = None, side: int = 16) -> UNet2DModel:
    """A U-Net of two levels for pictures of 16 x 16, random but for the seed."""
    torch.manual_seed(0)
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=out or channels,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=down if attention else (down[0],) * 2,
        up_block_types=up if attention else (up[1],) * 2,
        norm_num_groups=4,
        attention_head_dim=4,
        add_attention=attention,
    ).eval()


@pytest.fixture
def make_pixel() -> Callable[..., Any]:
    """A quiet pixel pipeline; arguments of `pixel_unet`, and a scheduler."""

    def make(scheduler: Any = None, **options: Any) -> Any:
        made = PixelRestorationPipeline(pixel_unet(**options), scheduler or DDIMScheduler())
        made.set_progress_bar_config(disable=True)
        return made

    return make


@pytest.fixture
def pixel(make_pixel: Callable[..., Any]) -> Any:
    return make_pixel()


@pytest.fixture
def latent(pipe: Any) -> Any:
    made = StableDiffusionRestorationPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def pictures() -> Callable[..., torch.Tensor]:
    """Random pictures in [-1, 1]."""

    def make(count: int = 1, height: int = 16, width: int = 16, channels: int = 3) -> torch.Tensor:
        generator = torch.Generator().manual_seed(height * width + count)
        return torch.rand(count, channels, height, width, generator=generator) * 2 - 1

    return make


def seeded(*seeds: int) -> Any:
    """A generator of one seed, or a list of them."""
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return made[0] if len(made) == 1 else made


@pytest.fixture(name="seeded")
def seeded_fixture() -> Callable[..., Any]:
    return seeded
