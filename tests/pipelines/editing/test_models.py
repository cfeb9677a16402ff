"""The adapters compute what the pipelines compute."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from fewstep.pipelines import set_guidance
from fewstep.pipelines.editing.models import PROCESS, edit_model
from fewstep.pipelines.editing.models_flux import is_distilled
from fewstep.samplers import apply_ab_cache, remove_ab_cache
from fewstep.samplers.inversion import Inversion, inverter, regenerate

PROMPT = "a red boot"


def euler(pipe: Any, start: torch.Tensor, guidance: float, steps: int = 3) -> torch.Tensor:
    """Sample with our adapter and Euler steps."""
    model = edit_model(pipe)
    condition = model.condition([PROMPT], guidance)

    def denoiser(x: torch.Tensor, timestep: float) -> torch.Tensor:
        velocity = model.velocity(x, timestep / 1000, condition.cond, (32, 32), guidance)
        if condition.uncond is None:
            return velocity
        untold = model.velocity(x, timestep / 1000, condition.uncond, (32, 32), guidance)
        return untold + guidance * (velocity - untold)

    grid = model.grid(steps, start)
    return regenerate(denoiser, inverter("euler"), PROCESS, grid, Inversion(start, start)).sample


def noise(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_flux_sampling_is_that_of_the_pipeline(flux: Any, guidance: float) -> None:
    start = edit_model(flux).pack(noise(flux))
    theirs = flux(
        PROMPT,
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=start,
        width=32,
        height=32,
        output_type="latent",
        max_sequence_length=16,
    ).images
    assert torch.allclose(euler(flux, start, guidance), theirs, atol=1e-5)


def test_flux_without_an_input_for_guidance_uses_two_calls(flux: Any) -> None:
    config = {**dict(flux.transformer.config), "guidance_embeds": False}
    torch.manual_seed(0)
    pipe = diffusers.FluxPipeline(
        **{**flux.components, "transformer": diffusers.FluxTransformer2DModel.from_config(config).eval()}
    )
    pipe.set_progress_bar_config(disable=True)
    start = edit_model(pipe).pack(noise(pipe))
    theirs = pipe(
        PROMPT,
        negative_prompt="",
        true_cfg_scale=3.0,
        num_inference_steps=3,
        latents=start,
        width=32,
        height=32,
        output_type="latent",
        max_sequence_length=16,
    ).images
    assert torch.allclose(euler(pipe, start, 3.0), theirs, atol=1e-5)
    assert edit_model(pipe).edit_guidance == 2.0


#: (guidance_embeds, joint_attention_dim; shift, use_dynamic_shifting) as the models' folders have them.
CONFIGS = {
    "FLUX.1-dev": (True, 4096, 3.0, True, False),
    "FLUX.1-schnell": (False, 4096, 1.0, False, True),
    "guidance taken out of FLUX.1-dev": (False, 4096, 3.0, True, False),
    "garments-flow": (False, 128, 1.0, False, False),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_distilled_models_are_known_by_their_configuration(name: str) -> None:
    embeds, width, shift, dynamic, distilled = CONFIGS[name]
    network = {"guidance_embeds": embeds, "joint_attention_dim": width}
    assert is_distilled(network, {"shift": shift, "use_dynamic_shifting": dynamic}) is distilled


def test_a_distilled_model_is_warned_of_and_takes_no_guidance(flux: Any) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.FluxPipeline(**{**flux.components, "scheduler": scheduler})
    before = dict(pipe.transformer.config)
    try:
        pipe.transformer.register_to_config(guidance_embeds=False, joint_attention_dim=4096)
        assert edit_model(pipe).edit_guidance == 1.0
        pipe.transformer.register_to_config(guidance_embeds=True)
        assert edit_model(pipe).edit_guidance == 2.0
    finally:
        pipe.transformer.register_to_config(
            guidance_embeds=before["guidance_embeds"], joint_attention_dim=before["joint_attention_dim"]
        )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sd3_sampling_is_that_of_the_pipeline(sd3: Any, guidance: float) -> None:
    theirs = sd3(
        PROMPT,
        num_inference_steps=3,
        sigmas=np.linspace(1, 1 / 3, 3).tolist(),
        guidance_scale=guidance,
        latents=noise(sd3),
        width=32,
        height=32,
        output_type="latent",
    ).images
    assert torch.allclose(euler(sd3, noise(sd3), guidance), theirs, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_euler_step_of_a_u_net_is_a_ddim_step(sd: Any, guidance: float, prediction: str) -> None:
    before = sd.scheduler
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "prediction_type": prediction}
    sd.scheduler = diffusers.DDIMScheduler.from_config(before.config, **options)
    try:
        theirs = sd(
            PROMPT,
            num_inference_steps=4,
            guidance_scale=guidance,
            latents=noise(sd),
            width=32,
            height=32,
            output_type="latent",
        ).images
        node = edit_model(sd).process.at(999)  # type: ignore[attr-defined]
        start = noise(sd) / (node.alpha + node.sigma)
        assert torch.allclose(euler(sd, start, guidance, 4), theirs, atol=2e-4, rtol=1e-3)
    finally:
        sd.scheduler = before


def test_pictures_are_decoded_as_the_pipelines_do(pipe: Any) -> None:
    before = pipe.vae.config.shift_factor
    pipe.vae.register_to_config(shift_factor=0.1)
    try:
        model = edit_model(pipe)
        pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        latents = model.encode(pixels)
        with torch.no_grad():
            planes = (pipe.vae.encode(2 * pixels - 1).latent_dist.mode() - 0.1) * pipe.vae.config.scaling_factor
            assert torch.allclose(model.unpack(latents, (32, 32)), planes, atol=1e-6)
            raw = pipe.vae.decode(planes / pipe.vae.config.scaling_factor + 0.1).sample
        theirs = pipe.image_processor.postprocess(raw, output_type="pt")
        assert torch.allclose(model.decode(latents, (32, 32)), theirs, atol=1e-6)
    finally:
        pipe.vae.register_to_config(shift_factor=before)


def test_the_grid_of_flux_is_that_of_the_method(flux: Any) -> None:
    """Section 3: mu is linear in the number of tokens, 0.63 at 1024 of them, 1.15 at 4096."""
    model = edit_model(flux)
    for tokens, expected in (
        (4096, [1, 0.9567, 0.9045, 0.8403, 0.7595, 0.6546, 0.5128, 0.3109, 0]),
        (1024, [1, 0.9293, 0.8492, 0.7578, 0.6525, 0.5298, 0.3849, 0.2115, 0]),
    ):
        levels = [node.sigma for node in model.grid(8, torch.zeros(1, tokens, 16)).nodes]
        assert np.allclose(levels, expected, atol=6e-5)
    assert [node.sigma for node in model.grid(1, torch.zeros(1, 16, 16)).nodes] == [1.0, 0.0]


def test_a_tiny_autoencoder_gives_its_latents(sd3: Any) -> None:
    torch.manual_seed(0)
    channels = sd3.vae.config.latent_channels
    vae = diffusers.AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).eval()
    model = edit_model(type(sd3)(**{**sd3.components, "vae": vae}))
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vae.encode(2 * pixels - 1, return_dict=False)[0]
        raw = vae.decode(expected, return_dict=False)[0]
    latents = model.encode(pixels)
    assert torch.allclose(latents, expected, atol=1e-6)
    assert torch.allclose(model.decode(latents, (32, 32)), (raw / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_the_denoiser_says_how_large_pictures_are(flux: Any, sd3: Any, sd: Any) -> None:
    """An autoencoder that was trained on small pictures codes large ones; it is asked where nobody else knows."""
    for pipe in (sd3, sd):
        before = pipe.vae.config.sample_size
        pipe.vae.register_to_config(sample_size=8)
        try:
            model = edit_model(pipe)
            assert model.area == (model.denoiser.config.sample_size * pipe.vae_scale_factor) ** 2 > 64
        finally:
            pipe.vae.register_to_config(sample_size=before)
    before = flux.vae.config.sample_size
    flux.vae.register_to_config(sample_size=24)
    try:
        assert edit_model(flux).area == 24**2
    finally:
        flux.vae.register_to_config(sample_size=before)


def test_a_u_net_that_predicts_the_sample_is_refused(sd: Any) -> None:
    before = sd.scheduler
    sd.scheduler = diffusers.DDIMScheduler.from_config(before.config, prediction_type="sample")
    try:
        with pytest.raises(ValueError, match="allowed are epsilon and v_prediction"):
            edit_model(sd)
    finally:
        sd.scheduler = before


def test_a_fingerprint_tells_models_apart(pipe: Any) -> None:
    model = edit_model(pipe)
    before = model.fingerprint()
    assert edit_model(pipe).is_that_of(before)
    weight = next(model.denoiser.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
        assert not model.is_that_of(before)
        weight.view(-1)[0] -= 1


def test_conditioning_is_recognised_through_half_precision(pipe: Any) -> None:
    model = edit_model(pipe)
    told, other = model.condition([PROMPT], 1.0), model.condition(["a grey bag"], 1.0)
    print_of = told.fingerprint()
    rounded = type(told)({name: value.bfloat16() for name, value in told.cond.items()}, None, 1.0)
    assert told.agrees(print_of)
    assert rounded.agrees(print_of)
    assert not other.agrees(print_of)


def test_pipelines_that_cannot_be_edited_with_are_refused(flux: Any, sd: Any, tmp_path: Any) -> None:
    import tiny_models

    with pytest.raises(ValueError, match="PixArtAlphaPipeline cannot be edited with"):
        edit_model(tiny_models.pixart(tmp_path))
    with pytest.raises(ValueError, match="as SDXL"):
        edit_model(tiny_models.stable_diffusion_xl(tmp_path / "xl"))
    with pytest.raises(TypeError, match="needs a pipeline"):
        edit_model(flux.transformer)
    apply_ab_cache(flux)
    try:
        with pytest.raises(ValueError, match="AB-Cache"):
            edit_model(flux)
    finally:
        remove_ab_cache(flux)
    set_guidance(sd, "cfg-zero")
    try:
        with pytest.raises(ValueError, match="guidance of its own"):
            edit_model(sd)
    finally:
        set_guidance(sd, "cfg")
    edit_model(sd)
    edit_model(flux)
