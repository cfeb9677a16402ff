"""Pictures of any size: what one window is, what windows cost, what is met, and how much memory it takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewstep.samplers.posterior.operators import AveragePool, Identity, Mask, Resample

Make = Callable[..., Any]


@pytest.mark.parametrize("tile", ["whole", "canvas", "msr"])
def test_one_window_is_the_plain_run(pixel: Any, pictures: Make, seeded: Make, tile: str) -> None:
    operator = Resample((16, 16), 4)
    y, more = operator.A(pictures()), {"method": "ddnm", "num_inference_steps": 4, "output_type": "raw"}
    plain = pixel(y, operator, generator=seeded(0), **more)
    found = pixel(y, operator, generator=seeded(0), tile=tile, **more)
    assert torch.equal(found.images, plain.images)
    assert found.forward == plain.forward == 4


@pytest.mark.parametrize(("tile", "windows"), [("whole", 1), ("canvas", 15), ("msr", 15), ("hir", 15 + 2)])
def test_windows_are_counted(pixel: Any, pictures: Make, seeded: Make, tile: str, windows: int) -> None:
    """ceil(28 / 8) - 1 = 3 rows and ceil(44 / 8) - 1 = 5 columns; of half the size, 14 x 22, one row of two."""
    operator = AveragePool(2, (28, 44))
    y = operator.A(pictures(1, 28, 44))
    rows = [0]
    pixel.unet.register_forward_pre_hook(lambda module, given: rows.__setitem__(0, rows[0] + len(given[0])))
    out = pixel(y, operator, method="ddnm", num_inference_steps=3, tile=tile, generator=seeded(0), output_type="raw")
    plan = pixel.plan(operator, method="ddnm", num_inference_steps=3, tile=tile)
    assert out.forward == plan.forward == rows[0] == 3 * windows
    assert plan.windows == windows
    assert plan.tile == tile
    assert out.images.shape == (1, 3, 28, 44)
    assert out.residual.item() < 1e-4


def test_gradients_through_windows_are_counted_once(pixel: Any, pictures: Make, seeded: Make) -> None:
    operator = AveragePool(2, (16, 40))
    y = operator.A(pictures(1, 16, 40))
    more = {"method": "dps", "num_inference_steps": 2, "tile": "canvas"}
    out = pixel(y, operator, generator=seeded(0), output_type="raw", **more)
    plan = pixel.plan(operator, **more)
    assert (out.forward, out.backward) == (plan.forward, plan.backward) == (8, 8)


def test_masks_are_met_exactly_on_a_canvas_and_window_by_window(pixel: Any, pictures: Make, seeded: Make) -> None:
    known = torch.rand(20, 36, generator=torch.Generator().manual_seed(1)) < 0.5
    operator, clean = Mask(known), pictures(1, 20, 36)
    for tile in ("whole", "canvas", "msr", "hir"):
        out = pixel(
            operator.A(clean), operator, method="ddnm", num_inference_steps=3, tile=tile, generator=seeded(0),
            output_type="raw",
        )  # fmt: skip
        assert torch.equal(out.images[..., known], clean[..., known]), tile


def test_without_a_mode_convolutions_take_the_whole_and_attention_takes_windows(make_pixel: Make) -> None:
    operator = Identity()
    for attention, tile in ((False, "whole"), (True, "canvas")):
        pipe = make_pixel(attention=attention)
        assert pipe.plan(operator, (40, 40), noise_sigma=0.1).tile == tile
        assert pipe.plan(operator, (16, 16), noise_sigma=0.1).tile == "whole"
        assert pipe.plan(operator, (4000, 4000), noise_sigma=0.1).tile == "canvas"
        assert pipe.plan(operator, (40, 40), noise_sigma=0.1, window=24, overlap=8).windows == 4
    assert make_pixel().plan(operator, (600, 600), method="dps").tile == "canvas"


def test_small_and_odd_sizes_lie_on_a_canvas_of_a_window(make_pixel: Make, pictures: Make, seeded: Make) -> None:
    for attention in (False, True):
        pipe = make_pixel(attention=attention)
        for height, width in ((1, 1), (5, 9), (17, 23)):
            operator = Identity()
            out = pipe(pictures(1, height, width), operator, 0.1, num_inference_steps=2, output_type="pil")
            assert out.images[0].size == (width, height)


def test_a_resampler_gets_the_overlap_that_its_kernel_needs(make_pixel: Make, pictures: Make, seeded: Make) -> None:
    pipe, operator = make_pixel(side=32), Resample((40, 72), 2)
    y = operator.A(pictures(1, 40, 72))
    out = pipe(y, operator, method="ddnm", num_inference_steps=2, tile="msr", generator=seeded(0), output_type="raw")
    assert out.settings["tile"] == "msr"
    assert out.settings["overlap"][0] >= 16
    assert out.forward == pipe.plan(operator, method="ddnm", num_inference_steps=2, tile="msr").forward


MEMORY = """
import resource, sys, torch
from diffusers import DDIMScheduler, UNet2DModel
from fewstep.pipelines import PixelRestorationPipeline
from fewstep.samplers.posterior.operators import AveragePool
torch.set_num_threads(1)
unet = UNet2DModel(sample_size=64, block_out_channels=(16,), layers_per_block=1, down_block_types=("DownBlock2D",),
                   up_block_types=("UpBlock2D",), norm_num_groups=4, add_attention=False)
pipe = PixelRestorationPipeline(unet, DDIMScheduler())
pipe.set_progress_bar_config(disable=True)
height, width, tile = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for size in ((64, 64), (height, width)):
    operator = AveragePool(4, size)
    y = operator.A(torch.rand(1, 3, *size) * 2 - 1)
    if size == (64, 64):
        pipe(y, operator, method="ddnm", num_inference_steps=1, output_type="pt")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = pipe(y, operator, method="ddnm", num_inference_steps=1, tile=tile, overlap=0 if tile != "whole" else None,
           output_type="pt")
assert out.residual.item() < 1e-4 and tuple(out.images.shape[-2:]) == (height, width)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def added_memory(height: int, width: int, tile: str) -> float:
    """Peak memory that a run adds to a process that has restored one window, MiB."""
    made = subprocess.run(
        [sys.executable, "-c", MEMORY, str(height), str(width), tile], capture_output=True, text=True, check=True
    )
    return float(made.stdout)


@pytest.mark.parametrize("tile", ["canvas", "msr"])
def test_memory_is_that_of_the_window_and_some_copies_of_the_picture(tile: str) -> None:
    """A picture of 1 Mpx is 12 MiB in float32, and one layer of 16 channels at its size 64 MiB, of which a U-Net holds
    several at once. The run may hold 16 copies of the picture, and 12 layers of one batch of windows (16 of 64 x 64,
    4 MiB a layer)."""
    assert added_memory(1024, 1024, tile) < 16 * 12 + 12 * 4
