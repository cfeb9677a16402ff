"""The pixel pipeline: exact data, unconditional sampling without any, counts, determinism, callbacks, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DiffusionPipeline

from fewstep.pipelines import PixelRestorationPipeline, load_restoration, restoration_of, shipped_models
from fewstep.samplers.posterior import posterior_methods
from fewstep.samplers.posterior.operators import AveragePool, Grey, Identity, Jpeg, Mask, Resample

Make = Callable[..., Any]


@pytest.mark.parametrize("kernel", ["bicubic", "area"])
def test_super_resolution_without_noise_meets_its_data(pixel: Any, pictures: Make, seeded: Make, kernel: str) -> None:
    operator = Resample((16, 16), 4, kernel)
    y = operator.A(pictures(2))
    out = pixel(y, operator, method="ddnm", num_inference_steps=5, generator=seeded(0), output_type="raw")
    off = (operator.A(out.images) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    assert off.max() < 1e-4
    assert torch.allclose(out.residual, (operator.A(out.images) - y).square().flatten(1).mean(1).sqrt(), atol=1e-7)


def test_known_pixels_of_an_inpainting_are_those_that_were_given(pixel: Any, pictures: Make, seeded: Make) -> None:
    known = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    operator, clean = Mask(known), pictures()
    out = pixel(
        operator.A(clean), operator, method="ddnm", num_inference_steps=4, generator=seeded(0), output_type="pt"
    )
    assert torch.equal(out.images[..., known], clean[..., known] / 2 + 0.5)
    assert not torch.equal(out.images[..., ~known], clean[..., ~known] / 2 + 0.5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [True, False])
def test_without_data_it_is_sampling_by_diffusers(make_pixel: Make, seeded: Make, prediction: str, clip: bool) -> None:
    """With A = 0 and no fresh noise, DDNM is DDIM: compared with diffusers' own pipeline from the same noise."""
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=clip, timestep_spacing="trailing")
    pipe = make_pixel(scheduler)
    own = DDIMPipeline(pipe.unet, scheduler)
    own.set_progress_bar_config(disable=True)
    expected = own(batch_size=2, generator=seeded(3), num_inference_steps=5, output_type="np").images
    nothing = torch.zeros(2, 3, 16, 16)
    found = pipe(
        nothing, Mask(nothing[0, 0]), method="ddnm", renoise=0.0, num_inference_steps=5, clip=clip, generator=seeded(3),
        output_type="np",
    )  # fmt: skip
    assert np.abs(found.images - expected).max() < 2e-5
    assert found.forward == 5


@pytest.mark.parametrize("name", sorted(n for n, c in posterior_methods().items() if c.space == "pixel"))
def test_counts_at_the_network_are_those_of_the_plan(pixel: Any, pictures: Make, seeded: Make, name: str) -> None:
    operator = AveragePool(4, (16, 16))
    y = operator.A(pictures(2))
    calls, rows = [0, 0], [0]
    pixel.unet.register_forward_pre_hook(lambda module, given: rows.__setitem__(0, rows[0] + len(given[0])))
    pixel.unet.conv_in.register_full_backward_hook(lambda *_: calls.__setitem__(1, calls[1] + 1))
    out = pixel(y, operator, 0.05, method=name, num_inference_steps=3, generator=seeded(0), output_type="raw")
    plan = pixel.plan(operator, noise_sigma=0.05, method=name, num_inference_steps=3)
    assert out.forward == rows[0] / 2
    assert out.forward == plan.forward
    assert out.backward <= plan.backward if name == "moment-matching" else out.backward == plan.backward
    assert (out.backward > 0) == posterior_methods()[name].gradient
    assert out.residual.shape == (2,)
    assert out.trace.shape[1] == 2
    assert torch.isfinite(out.images).all()


@pytest.mark.parametrize("name", ["ddnm", "dps", "diffpir"])
def test_a_seed_gives_its_picture_whatever_the_batch(pixel: Any, pictures: Make, seeded: Make, name: str) -> None:
    operator, clean = AveragePool(2, (16, 16)), pictures(3)
    y, more = operator.A(clean), {"method": name, "num_inference_steps": 4, "output_type": "raw"}
    together = pixel(y, operator, 0.01, generator=seeded(5, 6, 7), **more).images
    for i, seed in enumerate((5, 6, 7)):
        alone = pixel(y[i : i + 1], operator, 0.01, generator=seeded(seed), **more).images
        assert torch.allclose(together[i : i + 1], alone, atol=1e-4)


def test_samples_of_a_measurement_follow_one_another(pixel: Any, pictures: Make, seeded: Make) -> None:
    operator = AveragePool(4, (16, 16))
    y = operator.A(pictures(2))
    out = pixel(
        y, operator, num_samples=3, num_inference_steps=3, generator=seeded(0, 1, 2, 3, 4, 5), output_type="raw"
    )
    assert torch.allclose(operator.A(out.images), y.repeat_interleave(3, 0), atol=1e-5)
    assert (out.images[0] - out.images[1]).abs().max() > 0.01
    assert out.settings["seeds"] == [0, 1, 2, 3, 4, 5]
    assert out.settings["samples"] == 6


def test_learned_variances_are_left_aside(make_pixel: Make, pictures: Make, seeded: Make) -> None:
    wide, plain = make_pixel(out=6), make_pixel()
    plain.unet.load_state_dict({k: v[:3] if k.startswith("conv_out") else v for k, v in wide.unet.state_dict().items()})
    operator = Identity()
    found, expected = (
        p(pictures(), operator, 0.2, num_inference_steps=3, generator=seeded(0), output_type="raw").images
        for p in (wide, plain)
    )
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_grey_model_makes_grey_pictures(make_pixel: Make, pictures: Make, seeded: Make) -> None:
    operator = AveragePool(2, (16, 16))
    y = operator.A(pictures(channels=1))
    out = make_pixel(channels=1)(y, operator, num_inference_steps=2, generator=seeded(0))
    assert out.images[0].mode == "L"
    assert out.images[0].size == (16, 16)


def test_a_callback_sees_every_move_and_may_change_the_sample(pixel: Any, pictures: Make, seeded: Make) -> None:
    operator, seen = AveragePool(4, (16, 16)), []
    y = operator.A(pictures())

    def told(pipe: Any, i: int, t: float, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((i, t, given["x0"].shape))
        return {"latents": given["latents"] * 0} if i == 3 else {}

    plan = pixel.plan(operator, method="ddnm", num_inference_steps=4)
    out = pixel(
        y, operator, method="ddnm", num_inference_steps=4, generator=seeded(0), output_type="raw",
        callback_on_step_end=told, callback_on_step_end_tensor_inputs=("latents", "x0"),
    )  # fmt: skip
    assert [i for i, _, _ in seen] == list(range(plan.moves))
    assert [t for _, t, _ in seen] == [750.0, 500.0, 250.0, 0.0]
    assert not out.images.any()


@pytest.mark.parametrize("tile", ["whole", "canvas", "msr", "hir"])
def test_an_interrupt_returns_the_estimate_so_far(pixel: Any, pictures: Make, seeded: Make, tile: str) -> None:
    operator = AveragePool(2, (16, 24))
    y, stop = operator.A(pictures(1, 16, 24)), 5

    def told(pipe: Any, i: int, t: float, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pipe.interrupt = i == stop
        return given

    out = pixel(
        y, operator, method="ddnm", num_inference_steps=4 if tile in ("msr", "hir") else 8, tile=tile,
        generator=seeded(0), callback_on_step_end=told, output_type="raw",
    )  # fmt: skip
    assert out.settings["interrupted"]
    assert out.images.shape == (1, 3, 16, 24)
    assert torch.isfinite(out.images).all()
    assert len(out.trace) == stop + 1
    again = pixel(y, operator, method="ddnm", num_inference_steps=4, generator=seeded(0), output_type="raw")
    assert not again.settings["interrupted"]


def test_an_exception_in_a_callback_ends_the_run_and_leaves_the_network_as_it_was(pixel: Any, pictures: Make) -> None:
    def told(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    pixel.unet.train().requires_grad_(True)
    operator = AveragePool(2, (16, 16))
    with pytest.raises(KeyboardInterrupt):
        pixel(operator.A(pictures()), operator, method="dps", num_inference_steps=3, callback_on_step_end=told)
    assert pixel.unet.training
    assert all(p.requires_grad for p in pixel.unet.parameters())
    assert not pixel.unet.is_gradient_checkpointing


def test_gradients_are_checkpointed_and_the_same(pixel: Any, pictures: Make, seeded: Make) -> None:
    operator, on = AveragePool(2, (16, 16)), []
    y = operator.A(pictures())

    def told(pipe: Any, *_: Any) -> dict[str, Any]:
        on.append(pipe.unet.is_gradient_checkpointing)
        return {}

    more = {"method": "dps", "num_inference_steps": 3, "output_type": "raw"}
    found = pixel(y, operator, generator=seeded(0), callback_on_step_end=told, **more)
    assert all(on)
    assert not pixel.unet.is_gradient_checkpointing
    pixel.unet._supports_gradient_checkpointing = False
    plain = pixel(y, operator, generator=seeded(0), **more)
    assert torch.allclose(found.images, plain.images, atol=1e-5)
    assert (found.forward, found.backward) == (plain.forward, plain.backward) == (3, 3)
    assert all(p.grad is None for p in pixel.unet.parameters())


def test_it_shares_its_networks_and_leaves_the_other_pipeline_alone(make_pixel: Make, pictures: Make) -> None:
    source = DDIMPipeline(make_pixel().unet, DDIMScheduler(thresholding=True))
    config = dict(source.scheduler.config)
    made = restoration_of(source)
    assert isinstance(made, PixelRestorationPipeline)
    assert made.unet is source.unet
    made.set_progress_bar_config(disable=True)
    made(pictures(), Identity(), 0.1, num_inference_steps=2)
    assert made.scheduler is source.scheduler
    assert dict(source.scheduler.config) == config
    assert source.scheduler.num_inference_steps is None


def test_saved_and_loaded_it_makes_the_same_pictures(pixel: Any, pictures: Make, seeded: Make, tmp_path: Path) -> None:
    operator = Grey()
    y, more = operator.A(pictures()), {"num_inference_steps": 3, "output_type": "raw"}
    expected = pixel(y, operator, generator=seeded(0), **more).images
    pixel.save_pretrained(tmp_path / "own")
    DDPMPipeline(pixel.unet, pixel.scheduler).save_pretrained(tmp_path / "plain")
    for made in (
        PixelRestorationPipeline.from_pretrained(tmp_path / "own"),
        PixelRestorationPipeline.from_pretrained(tmp_path / "plain"),
        DiffusionPipeline.from_pretrained(tmp_path / "own"),
        load_restoration(tmp_path / "own", device="cpu"),
        load_restoration(tmp_path / "plain", device="cpu"),
    ):
        assert isinstance(made, PixelRestorationPipeline)
        made.set_progress_bar_config(disable=True)
        assert torch.equal(made(y, operator, generator=seeded(0), **more).images, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_inside_the_network_alone(pixel: Any, pictures: Make, seeded: Make, dtype: Any) -> None:
    operator = Resample((16, 16), 4)
    y = operator.A(pictures())
    more = {"num_inference_steps": 4, "generator": seeded(0), "output_type": "raw", "method": "ddnm"}
    expected = pixel(y, operator, **{**more, "generator": seeded(0)}).images
    pixel.unet.to(dtype)
    try:
        out = pixel(y, operator, **more)
    except ValueError as error:  # a processor that lacks a kernel for it
        if "cannot run this network in" not in str(error):
            raise
        return
    assert out.images.dtype == torch.float32
    assert out.settings["dtype"] == str(dtype).removeprefix("torch.")
    assert (operator.A(out.images) - y).norm() / y.norm() < 1e-4
    assert (out.images - expected).abs().max() < 0.2


def test_a_nonlinear_operator_takes_dps(pixel: Any, pictures: Make, seeded: Make) -> None:
    operator = Jpeg(quality=20)
    out = pixel(operator.A(pictures()), operator, num_inference_steps=3, generator=seeded(0), output_type="np")
    assert out.settings["method"] == "dps"
    assert not out.settings["linear"]
    assert out.images.shape == (1, 16, 16, 3)


@pytest.mark.skipif("photo-prior" not in shipped_models(), reason="the prior is not there")
def test_the_prior_that_ships_restores_photographs_of_any_size(pictures: Make, seeded: Make) -> None:
    pipe, operator = load_restoration(device="cpu"), AveragePool(2, (70, 38))
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe, PixelRestorationPipeline)
    y = operator.A(pictures(1, 70, 38))
    out = pipe(y, operator, method="ddnm", num_inference_steps=2, generator=seeded(0), output_type="raw")
    assert out.images.shape == (1, 3, 70, 38)
    assert out.residual.item() < 1e-4 * y.square().mean().sqrt()
