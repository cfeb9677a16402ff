"""Bad input is refused with a sentence that says what is allowed, before the network is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

from fewstep.pipelines import (
    PixelRestorationPipeline,
    StableDiffusionRestorationPipeline,
    load_restoration,
    restoration_of,
)
from fewstep.samplers.posterior import posterior_method
from fewstep.samplers.posterior.operators import AveragePool, Grey, Identity, Jpeg, Mask, Resample

Make = Callable[..., Any]


@pytest.fixture
def refused(pixel: Any, pictures: Make) -> Callable[..., None]:
    """Call the pixel pipeline with a good problem but for what is given, and match the sentence."""

    def never(*_: Any) -> None:
        raise AssertionError("the network was called")

    pixel.unet.register_forward_pre_hook(never)

    def check(words: str, error: type[Exception] = ValueError, **changed: Any) -> None:
        operator = changed.pop("operator", AveragePool(4, (16, 16)))
        y = changed.pop("measurement", AveragePool(4, (16, 16)).A(pictures()))
        with pytest.raises(error, match=words):
            pixel(y, operator, **{"num_inference_steps": 2, **changed})

    return check


def test_measurements_that_are_none(refused: Callable[..., None], pictures: Make) -> None:
    good = AveragePool(4, (16, 16)).A(pictures())
    nan = good.clone()
    nan[0, 0, 0, 0] = float("nan")
    refused("a tensor .* got str", TypeError, measurement="old.png")
    refused("floating-point numbers", measurement=(good * 255).byte())
    refused("not finite numbers", measurement=nan)
    refused("a batch of at least one", measurement=good[:0])
    refused("and this one has", measurement=good[..., :3])
    refused(r"makes measurements of \(3, 4, 4\) .* and this one has \(1, 4, 4\)", measurement=good[:, :1])
    refused("and this one has", measurement=torch.zeros(1, 3, 16, 16))


def test_operators_that_do_not_fit(refused: Callable[..., None], pictures: Make) -> None:
    refused("needs a method A", TypeError, operator=3)
    refused("does not take|makes measurements of", operator=Mask(torch.ones(8, 8)), measurement=pictures())
    refused("pictures of 1 channels, and the model draws 3", operator=Identity(), measurement=pictures(channels=1))
    refused(
        "about pictures of 2 channels, and the model draws 3",
        operator=Grey([0.5, 0.5]),
        measurement=pictures(channels=1),
    )
    refused("made for pictures of 16 x 16, not of 8 x 8", size=(8, 8))
    refused("the pair", size=16)
    refused("does not take 3 pictures", operator=Mask(torch.ones(2, 1, 16, 16)), measurement=pictures(3))


def test_numbers_out_of_range(refused: Callable[..., None]) -> None:
    refused("noise_sigma must be a finite number of at least 0", noise_sigma=-0.1)
    refused("noise_sigma must be a finite number", noise_sigma=float("nan"))
    refused("noise_sigma is a number", noise_sigma="loud")
    refused("whole number from 1 to 1000", num_inference_steps=-1)
    refused("num_samples must be a whole number of at least 1", num_samples=0)
    refused("give one of them", method="ddnm", eta=0.5, renoise=0.5)
    refused("given twice", method="ddnm", eta=0.5, method_options={"eta": 1.0})
    refused("renoise", method="ddnm", renoise=2.0)
    refused(r"pair \(length, repeats\)", method="ddnm", time_travel=10)
    refused("at least 1, got 0|travel_length", method="ddnm", time_travel=(0, 3))


def test_methods_that_are_unknown_or_for_other_models(
    refused: Callable[..., None], latent: Any, pictures: Make
) -> None:
    refused("did you mean 'ddnm'", method="dnm")
    refused("ddnm has no field 'reniose', did you mean 'renoise'", method="ddnm", method_options={"reniose": 0})
    refused("dps has no field 'renoise'", method="dps", renoise=0.5)
    refused("'bank' .* did you mean|has no field", method=posterior_method("dps"), method_options={"bank": 1})
    refused("stsl works on latents and this model on pictures, did you mean 'moment-matching'", method="stsl")
    refused("dictionary of fields", method="ddnm", method_options=["eta"])
    refused("needs a linear operator", TypeError, operator=Jpeg(20), measurement=pictures(), method="ddnm")
    operator = AveragePool(4, (32, 32))
    with pytest.raises(ValueError, match="diffpir works on pictures and this model on latents, did you mean 'ddnm-l"):
        latent(operator.A(pictures(1, 32, 32)), operator, method="diffpir")


def test_windows_that_cannot_be(refused: Callable[..., None], latent: Any, pictures: Make) -> None:
    wide = AveragePool(2, (16, 40))
    y = wide.A(pictures(1, 16, 40))
    refused("unknown tile 'canvass', did you mean 'canvas'", tile="canvass")
    refused("divisible by 2 pixels", tile="canvas", window=15)
    refused("the overlap is smaller", operator=wide, measurement=y, tile="canvas", window=16, overlap=16)
    refused("a pair of them", tile="canvas", window="big")
    refused("at least 1 pixels", tile="canvas", window=0)
    refused("take the canvas mode", operator=Jpeg(20), measurement=pictures(1, 16, 40), tile="msr", method="dps")
    refused("take larger windows, or the canvas mode", operator=Resample((16, 80), 8), tile="msr", method="ddnm",
            measurement=Resample((16, 80), 8).A(pictures(1, 16, 80)))  # fmt: skip
    operator = AveragePool(4, (32, 32))
    small = operator.A(pictures(1, 32, 32))
    for tile in ("msr", "hir"):
        with pytest.raises(ValueError, match="works on pixels, and this model on latents; take tile='canvas'"):
            latent(small, operator, tile=tile)
    with pytest.raises(ValueError, match="divisible by 4 pixels, the side of a latent"):
        latent(small, operator, tile="canvas", window=30)


def test_generators_starts_and_outputs(refused: Callable[..., None], seeded: Make) -> None:
    refused("2 generators were given for 1 samples", generator=seeded(0, 1))
    refused("manual_seed", TypeError, generator=7)
    refused("unknown output_type 'plt'", output_type="plt")
    refused("start is a batch of 1 samples", start=torch.zeros(2, 3, 16, 16))
    refused("start must have the shape", start=torch.zeros(1, 3, 8, 8))
    refused("'latent', did you mean 'latents'", callback_on_step_end_tensor_inputs=["latent"])


def test_a_callback_that_returns_another_shape(pixel: Any, pictures: Make) -> None:
    operator = AveragePool(4, (16, 16))
    with pytest.raises(ValueError, match="the callback returned latents of"):
        pixel(
            operator.A(pictures()), operator, num_inference_steps=2,
            callback_on_step_end=lambda *_: {"latents": torch.zeros(1)},
        )  # fmt: skip


def test_a_run_that_diverges_says_so(pixel: Any, pictures: Make) -> None:
    operator = AveragePool(4, (16, 16))
    with pytest.raises(ValueError, match="the run diverged"):
        pixel(
            operator.A(pictures()), operator, method="ddnm", num_inference_steps=2,
            callback_on_step_end=lambda pipe, i, t, given: {"latents": given["latents"] * float("inf")},
        )  # fmt: skip


def test_gradients_are_not_taken_in_inference_mode(pixel: Any, pictures: Make) -> None:
    operator = AveragePool(4, (16, 16))
    y = operator.A(pictures())
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        pixel(y, operator, method="dps", num_inference_steps=2)


def test_prompts_and_guidance_that_cannot_be(latent: Any, pictures: Make) -> None:
    operator = AveragePool(4, (32, 32))
    y = operator.A(pictures(2, 32, 32))
    with pytest.raises(ValueError, match="3 prompts were given for 2 measurements"):
        latent(y, operator, prompt=["a", "b", "c"])
    with pytest.raises(ValueError, match="guidance_scale must be"):
        latent(y, operator, prompt="a hat", guidance_scale=-1)


def test_models_of_another_kind(tmp_path: Path, latent: Any, pixel: Any) -> None:
    import tiny_models

    labelled = UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                           up_block_types=("UpBlock2D",), norm_num_groups=4, num_class_embeds=3)  # fmt: skip
    with pytest.raises(ValueError, match="class labels"):
        PixelRestorationPipeline(labelled, DDIMScheduler())
    with pytest.raises(ValueError, match="reads a prompt"):
        PixelRestorationPipeline(latent.unet, DDIMScheduler())
    with pytest.raises(ValueError, match="has no text_encoder, tokenizer, vae"):
        StableDiffusionRestorationPipeline.from_pipe(DDIMPipeline(pixel.unet, DDIMScheduler()))
    with pytest.raises(ValueError, match="no part 'vea'"):
        StableDiffusionRestorationPipeline.from_pipe(latent, vea=1)
    with pytest.raises(ValueError, match="told more than a prompt"):
        restoration_of(tiny_models.stable_diffusion_xl(tmp_path))
    with pytest.raises(ValueError, match=r"SD3Pipeline|StableDiffusion3Pipeline cannot restore"):
        restoration_of(tiny_models.stable_diffusion_3(tmp_path))
    wide = tiny_models.unet(in_channels=9)
    with pytest.raises(ValueError, match="inpainting model"):
        StableDiffusionRestorationPipeline(latent.vae, wide, latent.text_encoder, latent.tokenizer, latent.scheduler)


def test_names_and_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model 'photo-priro'"):
        load_restoration("photo-priro")
    with pytest.raises(ValueError, match=r"holds no model_index.json"):
        load_restoration(tmp_path)
    with pytest.raises(ValueError, match="safetensors alone"):
        PixelRestorationPipeline.from_pretrained(tmp_path, use_safetensors=False)
