"""`StableDiffusionRestorationPipeline`: restoration with the latent model of a `StableDiffusionPipeline`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import diffusers
import torch

from fewstep.samplers.posterior import LinearOperator, PosteriorMethod
from fewstep.samplers.posterior.inset import inset

from .base import RestorationPipeline
from .coder import Coder, prompt_embeds
from .job import Job, RestorationPlan
from .network import CountedNetwork
from .problem import check_measurement
from .schedule import process_of
from .tiling import USUAL_WINDOW, Frame


class StableDiffusionRestorationPipeline(RestorationPipeline):
    """Pictures that explain a measurement, drawn by a latent diffusion model: y = A D(z) + noise.

    Made from a loaded `StableDiffusionPipeline` without copying weights, ``from_pipe(pipe)``, from a folder
    (``from_pretrained``), or by name (`load_restoration`). A VAE cannot draw every picture, so the residual of the
    latents does not reach zero; without noise a linear operator's data are put into the decoded picture at the end
    (`final_projection`), and `vae_ceiling` says what its round trip costs.

    Args:
        vae, unet, text_encoder, tokenizer, scheduler: of Stable Diffusion 1 or 2, or of a model of the same classes.
    """

    model_cpu_offload_seq: Any = "text_encoder->unet->vae"
    space: ClassVar[str] = "latent"
    vae: Any
    text_encoder: Any
    tokenizer: Any

    def __init__(self, vae: Any, unet: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> None:
        super().__init__()
        config, latents = unet.config, vae.config.latent_channels
        if config.in_channels != latents:
            raise ValueError(
                f"this {type(unet).__name__} takes {config.in_channels} channels and the VAE makes {latents}: it is "
                "told more than the latents of a picture (an inpainting model, for example); use a plain Stable "
                "Diffusion"
            )
        if config.get("addition_embed_type") is not None or config.get("time_cond_proj_dim") is not None:
            raise ValueError(
                f"this {type(unet).__name__} is told more than a prompt (as SDXL and distilled models are), which "
                "restoration does not know; allowed are Stable Diffusion 1 and 2 and models of the same classes"
            )
        process_of(scheduler)
        self.register_modules(vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)

    @property
    def channels(self) -> int:
        return int(self.vae.config.out_channels)

    @property
    def frame(self) -> Frame:
        trained = self.unet.config.get("sample_size") or USUAL_WINDOW
        window = (trained, trained) if isinstance(trained, int) else (int(trained[0]), int(trained[1]))
        return Frame(window, 1, convolutional=False, pads=False, unit=Coder(self.vae).factor)

    def _modules(self) -> list[Any]:
        return [self.unet, self.vae, self.text_encoder]

    def plan(
        self,
        operator: Any,
        size: Sequence[int] | None = None,
        *,
        num_samples: int = 1,
        prompt: str = "",
        guidance_scale: float | None = None,
        **options: Any,
    ) -> RestorationPlan:
        """Network calls and windows of a run, without one; options as for a call.

        Args:
            operator: A.
            size: (H, W) of the picture, where the operator does not say it.
            num_samples: pictures that are drawn together.
            prompt, guidance_scale: say whether every evaluation is two.
        """
        calls = 2 if guided(prompt, guidance_scale) else 1
        return self._planned(operator, size, num_samples, options, calls)

    @torch.no_grad()
    def vae_ceiling(self, picture: torch.Tensor) -> torch.Tensor:
        """PSNR of D(E(x)) in dB, (B,): what a latent method could reach at best without the final projection.

        Args:
            picture: x, (B, C, H, W) in [-1, 1]; sides divisible by those of a latent.
        """
        x = check_measurement(picture).to(self._execution_device)
        coder = Coder(self.vae)
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % coder.factor or x.shape[3] % coder.factor:
            raise ValueError(
                f"pictures are (B, {self.channels}, H, W) with sides divisible by {coder.factor}, got {tuple(x.shape)}"
            )
        off = (coder.decode(coder.encode(x)).clamp(-1, 1) - x).square().flatten(1).mean(1)
        return 10 * torch.log10(4 / off)

    @torch.no_grad()
    def __call__(
        self,
        measurement: torch.Tensor,
        operator: Any,
        noise_sigma: float = 0.0,
        *,
        method: str | PosteriorMethod | None = None,
        method_options: Mapping[str, Any] | None = None,
        num_inference_steps: int | None = None,
        eta: float | None = None,
        renoise: float | None = None,
        time_travel: tuple[int, int] | None = None,
        prompt: str | Sequence[str] = "",
        guidance_scale: float | None = None,
        num_samples: int = 1,
        tile: str | None = None,
        window: int | Sequence[int] | None = None,
        overlap: int | Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        final_projection: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        start: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Restore pictures.

        Args:
            measurement: y, (B, ...) in the scale of pictures in [-1, 1], as ``operator.A`` makes it.
            operator: A, of `fewstep.samplers.posterior.operators`, or any object with ``A``; a deepinv physics, too.
            noise_sigma: standard deviation of the noise in y, in the scale of [-1, 1] (twice that of [0, 1]).
            method: name of a posterior method of latents (or dps), or one; None is the default for this operator.
            method_options: fields of the method.
            num_inference_steps: noise levels; by default what the method wants.
            eta, renoise: fresh noise of a step, in DDIM's or in DDRM's convention; fields of most methods.
            time_travel: (length, repeats): go back up so many levels now and then.
            prompt: what the picture shows, one for all or one a measurement.
            guidance_scale: of the prompt; 1 (the default) is no guidance. Other values make two evaluations of each,
                but for an empty prompt, which has nothing to be guided by.
            num_samples: pictures of each measurement, which follow one another in the output.
            tile: ``whole`` or ``canvas`` (all windows at once); None: whole where the picture fits a window.
            window, overlap: of the windows, in pixels.
            size: (H, W) of the picture, where it does not follow from operator and measurement.
            final_projection: without noise, put the data of a linear operator into the decoded picture.
            generator: one, or a list with one a sample: then a picture does not depend on its batch mates.
            start: latents at the first noise level instead of the method's own, (B * num_samples, C, h, w).
            output_type: ``pil``, ``pt`` or ``np`` in [0, 1], or ``raw`` in [-1, 1], not clamped.
            return_dict: return a `RestorationOutput`, else a tuple of the pictures alone.
            callback_on_step_end: ``callback(pipe, i, t, {"latents": z, ...}) -> dict`` after every move; what it
                returns as ``latents`` takes the place of the sample, and ``pipe.interrupt = True`` ends the run.
            callback_on_step_end_tensor_inputs: what it is given, of ``latents`` and ``x0``.

        Raises:
            ValueError, TypeError: something that cannot be; the sentence says what is allowed.
        """
        y = self._measured(measurement, num_samples)
        prompts = prompts_of(prompt, len(y), num_samples)
        scale = guided(prompt, guidance_scale)
        job = self._job(
            operator, y, len(y), noise_sigma=noise_sigma, method=method, method_options=method_options,
            num_inference_steps=num_inference_steps, eta=eta, renoise=renoise, time_travel=time_travel, tile=tile,
            window=window, overlap=overlap, size=size, calls=2 if scale else 1,
        )  # fmt: skip
        where, coder = self._execution_device, Coder(self.vae)
        embeds = prompt_embeds(self.tokenizer, self.text_encoder, prompts, where)
        plain = prompt_embeds(self.tokenizer, self.text_encoder, [""] * len(y), where) if scale else None
        units = job.layout.windows.size
        canvas = (units[0] * coder.factor, units[1] * coder.factor)

        def finish(latents: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            return self._decoded(latents, job, y, coder, bool(final_projection))

        return self._restore(
            job, y, CountedNetwork(self.unet, len(y), embeds, plain, scale or 1.0),
            generator=generator, start=start, output_type=output_type, return_dict=return_dict,
            callback=callback_on_step_end, names=callback_on_step_end_tensor_inputs,
            decode=coder.decode, encode=coder.encode,
            sample_shape=(int(self.unet.config.in_channels), *units),
            operator=inset(job.operator, job.shape[1:], canvas), finish=finish,
            settings={"prompt": prompt if isinstance(prompt, str) else list(prompt), "guidance_scale": scale or 1.0},
        )  # fmt: skip

    def _decoded(
        self, latents: torch.Tensor, job: Job, y: torch.Tensor, coder: Coder, project: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The picture of latents, with the data in it where there is no noise."""
        picture = coder.decode(latents)[..., : job.shape[1], : job.shape[2]]
        operator = job.operator
        count = operator.count(y)
        off = (y - operator.A(picture)).flatten(1).float().square().sum(1).div(count).sqrt()
        said: dict[str, Any] = {"residual_decoded": [round(float(v), 6) for v in off], "final_projection": False}
        if project and job.noise_sigma == 0 and isinstance(operator, LinearOperator):
            picture = operator.project(picture.clamp(-1, 1), y.to(picture.dtype), 0.03)
            said["final_projection"] = True
        return picture, said


def guided(prompt: str | Sequence[str], guidance_scale: float | None) -> float | None:
    """The guidance scale of a run; None where there is no guidance: at 1, and for empty prompts.

    Raises:
        ValueError: a scale that is no finite number of at least 0.
    """
    if guidance_scale is None:
        return None
    scale = float(guidance_scale)
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"guidance_scale must be a finite number of at least 0, got {guidance_scale!r}")
    empty = not prompt if isinstance(prompt, str) else not any(prompt)
    return None if empty or scale == 1 else scale


def prompts_of(prompt: str | Sequence[str], count: int, num_samples: int) -> list[str]:
    """One prompt a sample.

    Raises:
        ValueError: another number of prompts than measurements.
    """
    if isinstance(prompt, str):
        return [prompt] * count
    if len(prompt) != count // num_samples:
        raise ValueError(
            f"{len(prompt)} prompts were given for {count // num_samples} measurements; give one, or as many"
        )
    return [text for text in prompt for _ in range(num_samples)]


setattr(diffusers, StableDiffusionRestorationPipeline.__name__, StableDiffusionRestorationPipeline)
