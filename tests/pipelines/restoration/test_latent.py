"""The latent pipeline: coders, guidance, the final projection, counts, files, and pictures larger than a window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from fewstep.pipelines import StableDiffusionRestorationPipeline, load_restoration, restoration_of
from fewstep.pipelines.restoration.coder import Coder
from fewstep.pipelines.restoration.modules import ready
from fewstep.samplers.posterior.operators import AveragePool, Jpeg, Mask, Resample

Make = Callable[..., Any]
LATENT = ["stsl", "psld", "latent-dps", "p2l", "ddnm-latent", "dps"]


def evaluations(pipe: Any) -> list[int]:
    """A list whose entry is how many rows the U-Net has seen."""
    rows = [0]

    def count(module: Any, given: Any) -> None:
        rows[0] += len(given[0])

    pipe.unet.register_forward_pre_hook(count)
    return rows


@pytest.mark.parametrize("name", LATENT)
def test_every_latent_method_runs_and_counts_as_planned(latent: Any, pictures: Make, seeded: Make, name: str) -> None:
    operator, rows = Resample((32, 32), 4), evaluations(latent)
    y = operator.A(pictures(1, 32, 32))
    out = latent(y, operator, 0.05, method=name, num_inference_steps=2, generator=seeded(0), output_type="raw")
    plan = latent.plan(operator, method=name, num_inference_steps=2)
    assert (out.forward, out.backward) == (plan.forward, plan.backward)
    assert rows[0] == out.forward
    assert out.images.shape == (1, 3, 32, 32)
    assert torch.isfinite(out.images).all()
    assert not out.settings["final_projection"]
    assert out.residual.tolist() == pytest.approx(out.settings["residual_decoded"], abs=1e-5)


def test_without_noise_the_data_are_put_into_the_picture(latent: Any, pictures: Make, seeded: Make) -> None:
    known = torch.rand(32, 32, generator=torch.Generator().manual_seed(1)) < 0.5
    operator, clean = Mask(known), pictures(1, 32, 32)
    more = {"method": "ddnm-latent", "num_inference_steps": 2, "output_type": "raw"}
    out = latent(operator.A(clean), operator, generator=seeded(0), **more)
    assert torch.equal(out.images[..., known], clean[..., known])
    assert out.settings["final_projection"]
    assert out.residual.item() < 1e-6 < out.settings["residual_decoded"][0]
    plain = latent(operator.A(clean), operator, generator=seeded(0), final_projection=False, **more)
    assert plain.residual.item() == pytest.approx(out.settings["residual_decoded"][0], abs=1e-5)


def test_an_empty_prompt_costs_no_second_evaluation(latent: Any, pictures: Make, seeded: Make) -> None:
    operator = AveragePool(4, (32, 32))
    y, more = operator.A(pictures(1, 32, 32)), {"method": "ddnm-latent", "num_inference_steps": 2, "output_type": "raw"}
    found = {}
    for prompt, scale in (("", None), ("", 7.5), ("a hat", None), ("a hat", 1.0), ("a hat", 3.0)):
        out = latent(y, operator, prompt=prompt, guidance_scale=scale, generator=seeded(0), **more)
        plan = latent.plan(operator, prompt=prompt, guidance_scale=scale, method="ddnm-latent", num_inference_steps=2)
        assert out.forward == plan.forward == (4 if scale == 3 else 2)
        found[prompt, scale] = out.images
    assert torch.equal(found["", None], found["", 7.5])
    assert torch.equal(found["a hat", None], found["a hat", 1.0])
    assert not torch.equal(found["a hat", 1.0], found["a hat", 3.0])


def test_the_prompt_is_read_as_stable_diffusion_reads_it(latent: Any, pipe: Any) -> None:
    from fewstep.pipelines.restoration.coder import prompt_embeds

    cpu = torch.device("cpu")
    expected, _ = pipe.encode_prompt(["a red hat", ""], cpu, 1, False)
    found = prompt_embeds(latent.tokenizer, latent.text_encoder, ["a red hat", ""], cpu)
    assert torch.equal(found, expected)


def test_the_coder_scales_and_shifts_as_diffusers_does(latent: Any, pictures: Make) -> None:
    coder, x = Coder(latent.vae), pictures(1, 32, 32)
    expected = latent.vae.encode(x).latent_dist.mean * latent.vae.config.scaling_factor
    assert torch.allclose(coder.encode(x), expected, atol=1e-6)
    assert torch.allclose(coder.decode(expected), latent.vae.decode(expected / coder.scale).sample, atol=1e-5)
    coder.shift = 0.25
    assert torch.allclose(coder.encode(x), expected - 0.25 * coder.scale, atol=1e-5)
    z = coder.encode(x)
    assert torch.allclose(coder.decode(z), latent.vae.decode(z / coder.scale + 0.25).sample, atol=1e-5)


@pytest.mark.parametrize("tiled", [False, True])
def test_the_coder_can_be_differentiated(latent: Any, pictures: Make, tiled: bool) -> None:
    """Directional derivatives of D and E in float64 against central differences, of the whole and in tiles."""
    latent.vae.double()
    latent.vae.use_tiling = tiled
    coder, x = Coder(latent.vae), pictures(1, 32, 48).double()
    for function, at in ((coder.encode, x), (coder.decode, coder.encode(x).detach())):
        along = torch.randn(at.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        at = at.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(function(at).square().sum(), at)
        with torch.no_grad():
            up, down = (function(at + step * along).square().sum() for step in (1e-5, -1e-5))
        assert float((gradient * along).sum()) == pytest.approx(float((up - down) / 2e-5), rel=1e-5)


def test_the_ceiling_is_the_psnr_of_the_round_trip(latent: Any, pictures: Make) -> None:
    x = pictures(2, 32, 32)
    with torch.no_grad():
        back = latent.vae(x).sample.clamp(-1, 1)
    expected = [10 * torch.log10(1 / ((b - a) / 2).square().mean()) for a, b in zip(x, back, strict=True)]
    assert latent.vae_ceiling(x).tolist() == pytest.approx([float(e) for e in expected], abs=1e-3)


def test_pictures_of_any_size_come_back_in_that_size(latent: Any, pictures: Make, seeded: Make) -> None:
    for height, width, windows in ((30, 27, 1), (32, 50, 3)):
        operator = Mask(torch.ones(height, width).tril())
        y = operator.A(pictures(1, height, width))
        out = latent(y, operator, method="ddnm-latent", num_inference_steps=2, generator=seeded(0), output_type="raw")
        assert out.images.shape[-2:] == (height, width)
        assert out.residual.item() < 1e-6
        assert out.settings["windows"] == windows == out.forward / 2
        assert out.settings["window"] == [32, 32] or windows == 1


@pytest.mark.parametrize("name", ["stsl", "ddnm-latent"])
def test_the_autoencoder_is_tiled_on_a_canvas_and_put_back(latent: Any, pictures: Make, name: str) -> None:
    operator, sizes, tiled = AveragePool(4, (32, 96)), [], []

    def told(pipe: Any, *_: Any) -> dict[str, Any]:
        tiled.append(pipe.vae.use_tiling)
        return {}

    latent.vae.decoder.register_forward_pre_hook(lambda module, given: sizes.append(tuple(given[0].shape[-2:])))
    y = operator.A(pictures(1, 32, 96))
    latent(y, operator, method=name, num_inference_steps=2, tile="canvas", callback_on_step_end=told)
    assert all(tiled)
    assert not latent.vae.use_tiling
    assert max(max(size) for size in sizes) <= 8
    assert not latent.vae.is_gradient_checkpointing


def test_a_nonlinear_operator_starts_from_noise(latent: Any, pictures: Make, seeded: Make) -> None:
    operator = Jpeg(quality=20)
    out = latent(operator.A(pictures(1, 32, 32)), operator, num_inference_steps=2, generator=seeded(0))
    assert out.settings["method"] == "stsl"
    assert out.settings["method_options"]["init"] == "noise"
    assert not out.settings["final_projection"]


def test_an_upcast_autoencoder_is_half_again_after_the_run(latent: Any, pictures: Make, seeded: Make) -> None:
    operator = AveragePool(4, (32, 32))
    y, more = operator.A(pictures(1, 32, 32)), {"method": "latent-dps", "num_inference_steps": 2, "output_type": "raw"}
    latent.vae.half()
    before = [p.clone() for p in latent.vae.parameters()]
    latent.vae.register_to_config(force_upcast=True)
    out = latent(y, operator, generator=seeded(0), **more)
    assert latent.vae.dtype == torch.float16
    assert torch.isfinite(out.images).all()
    assert all(torch.equal(a, b) for a, b in zip(before, latent.vae.parameters(), strict=True))
    with ready([latent.text_encoder.half(), latent.vae], gradient=True):
        assert latent.vae.dtype == torch.float32
        assert latent.text_encoder.dtype == torch.float16


def test_saved_and_loaded_it_makes_the_same_pictures(latent: Any, pictures: Make, seeded: Make, tmp_path: Path) -> None:
    operator = AveragePool(4, (32, 32))
    y, more = operator.A(pictures(1, 32, 32)), {"method": "ddnm-latent", "num_inference_steps": 2, "output_type": "raw"}
    expected = latent(y, operator, generator=seeded(0), **more).images
    latent.save_pretrained(tmp_path)
    for made in (
        StableDiffusionRestorationPipeline.from_pretrained(tmp_path),
        load_restoration(tmp_path, device="cpu"),
    ):
        assert isinstance(made, StableDiffusionRestorationPipeline)
        made.set_progress_bar_config(disable=True)
        assert torch.equal(made(y, operator, generator=seeded(0), **more).images, expected)


def test_a_stable_diffusion_folder_is_loaded_and_shared(tiny_folder: Path, pipe: Any) -> None:
    made = load_restoration(tiny_folder, device="cpu")
    assert isinstance(made, StableDiffusionRestorationPipeline)
    assert isinstance(
        StableDiffusionRestorationPipeline.from_pretrained(tiny_folder), StableDiffusionRestorationPipeline
    )
    assert isinstance(pipe, StableDiffusionPipeline)
    assert restoration_of(pipe).unet is pipe.unet
