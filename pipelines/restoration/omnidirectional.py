"""`OmnidirectionalWrapper`: panoramas of the whole sphere with a restoration pipeline that knows flat pictures."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fewstep.samplers.posterior import PosteriorMethod, Problem, TangentPlanes, WindowedDenoiser, run_omnidirectional

from .base import RestorationPipeline
from .coder import Coder, prompt_embeds
from .job import Job, RestorationPlan
from .latent import guided, prompts_of
from .modules import ready
from .network import CountedNetwork
from .output import RestorationOutput, check_output_type, handed_out
from .problem import check_count, check_generators, check_measurement
from .spherical import side_of, spherical_job
from .steps import Interrupted, StepEnd


class OmnidirectionalWrapper:
    """OmniSSR around a restoration pipeline: 18 tangent planes, told of one another and of the data at every step.

    A panorama is equirectangular: H rows of latitude from the north pole, W columns of longitude on [-pi, pi), where
    the left edge meets the right. The network sees tangent planes, which have no poles and no edge; the formulas are in
    `fewstep.samplers.posterior.run_omnidirectional`. The operator acts on the panorama as it is.

    Args:
        pipe: a `PixelRestorationPipeline` or a `StableDiffusionRestorationPipeline`; left as it is.
        fov: field of view of a plane in degrees, 70 to 120; 18 planes of less leave gaps.
        side: pixels of a plane's side; None is `side_of`. What the network is too small for goes through in windows.
        gamma_latent: how much the planes take from the panorama at every step, 0 to 1; 0 leaves them independent.
        gamma_erp: weight of the data at every step, 0 to 1; 0 is blending alone.
        gamma_post: the same at the end.
        batch: most planes in the network, the decoder and the encoder at a time.

    Raises:
        TypeError: no restoration pipeline.
        ValueError: a number out of range.

    Reference: Li, Sheng, Li, Zhang 2024 (arXiv 2404.10312).
    """

    def __init__(
        self,
        pipe: Any,
        *,
        fov: float = 75.0,
        side: int | None = None,
        gamma_latent: float = 0.5,
        gamma_erp: float = 1.0,
        gamma_post: float = 1.0,
        batch: int = 6,
    ) -> None:
        if not isinstance(pipe, RestorationPipeline):
            raise TypeError(
                "panoramas are restored by a PixelRestorationPipeline or a StableDiffusionRestorationPipeline, got "
                f"{type(pipe).__name__}; load_restoration and restoration_of make them"
            )
        if not 70 <= fov <= 120:
            raise ValueError(f"fov must be 70 to 120 degrees, got {fov!r}; 18 planes of less leave gaps")
        self.weights = {"gamma_latent": gamma_latent, "gamma_erp": gamma_erp, "gamma_post": gamma_post}
        for name, weight in self.weights.items():
            if not 0 <= weight <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {weight!r}")
        side_of(pipe.frame, 8, fov, side)  # refuses what does not fit
        self.pipe, self.fov, self.side, self.batch = pipe, float(fov), side, check_count("batch", batch)
        self.interrupt = False

    def _planes(self, job: Job) -> TangentPlanes:
        return TangentPlanes(job.shape[1:], side_of(self.pipe.frame, job.shape[2], self.fov, self.side), self.fov)

    def _guided(self, prompt: str | Sequence[str], guidance_scale: float | None) -> float | None:
        return guided(prompt, guidance_scale) if self.pipe.space == "latent" else None

    def plan(
        self,
        operator: Any,
        size: Sequence[int] | None = None,
        *,
        num_samples: int = 1,
        prompt: str | Sequence[str] = "",
        guidance_scale: float | None = None,
        **options: Any,
    ) -> RestorationPlan:
        """What a run will do, without one; `forward` and `windows` count windows of the planes of one panorama.

        Args:
            operator: A, of the panorama.
            size: (H, W) of the panorama, where the operator does not say it.
            num_samples: panoramas that are drawn, one after the other.
            prompt, guidance_scale: say whether every evaluation is two.
            options: as for a call.
        """
        calls = 2 if self._guided(prompt, guidance_scale) else 1
        job = spherical_job(
            self.pipe, self.fov, self.side, operator, None, num_samples, size=size, calls=calls, **options
        )
        found, count = job.plan(), len(self._planes(job))
        return dataclasses.replace(
            found, forward=found.forward * count, windows=found.windows * count, moves=found.moves * num_samples
        )

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
        size: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        start: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Restore panoramas, one after the other.

        Args:
            measurement: y, (B, ...), of panoramas in the scale of [-1, 1], as ``operator.A`` makes it.
            operator: A, linear, of the whole panorama.
            noise_sigma: standard deviation of the noise in y, in the scale of [-1, 1].
            method: how the planes walk down the noise levels, without data of their own: ``ddnm`` with fields; None is
                ancestral steps, as published. ``ddnm-2m`` is for few.
            method_options, num_inference_steps, eta, renoise, time_travel, size: as for the pipelines; published are
                200 steps.
            prompt, guidance_scale: of a latent pipeline, one for all or one a measurement.
            num_samples: panoramas of each measurement, which follow one another in the output.
            generator: one, or a list with one a panorama.
            start: planes at the first noise level, (18 * B * num_samples, c, s, s).
            output_type, return_dict: as for the pipelines.
            callback_on_step_end: ``callback(wrapper, i, t, {"latents": planes, ...}) -> dict`` after every move;
                ``wrapper.interrupt = True`` ends the run, and the panoramas that were begun are returned as they are.

        Returns:
            A `RestorationOutput`; `forward` counts windows of the planes of one panorama, `trace` is the misfit of the
            blended estimates before the data.

        Raises:
            ValueError, TypeError: something that cannot be; the sentence says what is allowed.
        """
        pipe = self.pipe
        y = check_measurement(measurement).to(pipe._execution_device).float()
        y = y.repeat_interleave(check_count("num_samples", num_samples), 0)
        check_output_type(output_type, pipe.channels)
        scale, prompts = self._guided(prompt, guidance_scale), prompts_of(prompt, len(y), num_samples)
        job = spherical_job(
            pipe, self.fov, self.side, operator, y, len(y), method, method_options=method_options, eta=eta,
            renoise=renoise, time_travel=time_travel, num_inference_steps=num_inference_steps, size=size,
            noise_sigma=noise_sigma, calls=2 if scale else 1,
        )  # fmt: skip
        sources: Any = check_generators(generator, len(y))
        planes, plan = self._planes(job), job.posterior_plan()
        firsts: Sequence[torch.Tensor | None] = [None] * len(y) if start is None else start.to(y).split(len(planes))
        if len(firsts) != len(y) or (start is not None and len(start) != len(planes) * len(y)):
            got = 0 if start is None else len(start)
            raise ValueError(f"start is of {len(planes)} planes a panorama, {len(planes) * len(y)}, got {got}")
        began, self.interrupt, forward = time.perf_counter(), False, 0
        made: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        with ready(pipe._modules(), False), pipe.progress_bar(total=len(plan.moves) * len(y)) as bar:
            steps = StepEnd(self, plan, job.layout, bar, callback_on_step_end, callback_on_step_end_tensor_inputs)
            for b in range(len(y)):
                network, coders = self._network(prompts[b], scale)
                source = sources[b] if isinstance(sources, list) else sources
                made.append(self._one(job, y[b : b + 1], planes, network, coders, source, firsts[b], steps))
                forward = max(forward, network.forward)
                if self.interrupt:
                    break
        pipe.maybe_free_model_hooks()
        images = handed_out(torch.cat([one[0] for one in made]), output_type)
        if not return_dict:
            return (images,)
        trace = torch.nn.utils.rnn.pad_sequence([one[2] for one in made], padding_value=math.nan)
        given = sources if isinstance(sources, list) else [] if sources is None else [sources]
        return RestorationOutput(
            images=images, residual=torch.cat([one[1] for one in made]), trace=trace, forward=forward, backward=0,
            seconds=time.perf_counter() - began,
            settings={
                **job.settings(pipe.frame.unit), **pipe._settings(), **self.weights, "fov": self.fov,
                "planes": len(planes), "side": planes.side, "guidance_scale": scale or 1.0,
                "prompt": prompt if isinstance(prompt, str) else list(prompt),
                "seeds": [g.initial_seed() for g in given], "interrupted": self.interrupt,
            },
        )  # fmt: skip

    def _network(self, prompt: str, scale: float | None) -> tuple[CountedNetwork, dict[str, Callable[..., Any]]]:
        """The network, counting rows, with a prompt if it takes one, and the coders of latents."""
        pipe = self.pipe
        if pipe.space != "latent":
            return CountedNetwork(pipe.unet, 1), {}
        told, untold = (
            prompt_embeds(pipe.tokenizer, pipe.text_encoder, [text], pipe._execution_device) for text in (prompt, "")
        )
        coder = Coder(pipe.vae)
        network = CountedNetwork(pipe.unet, 1, told, untold if scale else None, scale or 1.0)
        return network, {"decode": coder.decode, "encode": coder.encode}

    def _one(
        self,
        job: Job,
        y: torch.Tensor,
        planes: TangentPlanes,
        network: CountedNetwork,
        coders: dict[str, Callable[..., Any]],
        generator: torch.Generator | None,
        start: torch.Tensor | None,
        steps: StepEnd,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Panorama (1, C, H, W), residual (1,) and trace (M,) of one measurement (1, ...)."""
        layout = job.layout
        more: Any = {**coders, **self.weights}
        denoiser = network if len(layout.windows) == 1 else WindowedDenoiser(network, layout.windows, layout.batch)
        try:
            found = run_omnidirectional(
                denoiser, job.process, job.grid, job.operator, y, size=planes.size, side=planes.side, fov=self.fov,
                sigma_y=job.noise_sigma, method=job.method, batch=self.batch, start=start, generator=generator,
                callback=steps, **more,
            )  # fmt: skip
            return found.sample, found.residual, found.trace[:, 0]
        except Interrupted as stopped:
            x0, decode = stopped.estimate, coders.get("decode")
            parts = x0.split(self.batch)
            seen = x0 if decode is None else torch.cat([decode(part) for part in parts])
            picture, problem = planes.panorama(seen.to(y).clamp(-1, 1)), Problem(job.operator, y, job.noise_sigma)
            return picture, problem.size_of(problem.residual(picture)), y.new_zeros(0)
