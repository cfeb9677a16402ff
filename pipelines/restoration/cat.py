"""STSL-CAT: edit a picture that is known by a corrupted measurement alone, without restoring it by hand first."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from fewstep.samplers.posterior import STSL, Draws, Prior, Problem, run_posterior
from fewstep.samplers.posterior.operators import Mask, Operator, compose

from .attention_control import AttentionControl
from .coder import Coder, prompt_embeds
from .contrast import Features, patch_contrast
from .job import make_job
from .latent import StableDiffusionRestorationPipeline, prompts_of
from .modules import ready
from .network import CountedNetwork
from .output import check_output_type, handed_out
from .problem import check_generators, check_measurement

#: Share of the steps that are tuned by the measurement: 30 of 50, as published.
MEASUREMENT_SHARE = 0.6


@dataclass
class CATOutput:
    """Edited pictures, the restored ones that they were made of, and what they cost.

    Attributes:
        images: edited pictures, in the form that was asked for.
        restored: before the edit, in the same form.
        residual, residual_restored: root mean square of y - A x over the measured numbers, (B,), of both; where an
            edit mask was given, of the measurements that it leaves alone.
        trace: the same for the clean estimates of the edit, where it was tuned by the measurement, (M, B).
        forward, backward: network evaluations and vector-Jacobian products a picture, of restoration, inversion and
            edit.
        seconds: wall-clock time.
        settings: how it was made.
    """

    images: Any
    restored: Any
    residual: torch.Tensor
    residual_restored: torch.Tensor
    trace: torch.Tensor
    forward: int
    backward: int
    seconds: float
    settings: dict[str, Any]


def outside(operator: Operator, y: torch.Tensor, shape: tuple[int, int, int], mask: torch.Tensor) -> torch.Tensor:
    """Measurements that nothing within a mask has a part in: 1, others 0, in the shape of one y (1, ...).

    Args:
        operator: linear.
        y: measurement, (B, ...).
        shape: (C, H, W) of the picture.
        mask: (H, W), 1 where the picture may change.

    Raises:
        ValueError: a mask of another size, or one that leaves no measurement.
    """
    inside = torch.as_tensor(mask, dtype=y.dtype, device=y.device)
    if tuple(inside.shape) != tuple(shape[1:]):
        raise ValueError(f"the edit mask must have {shape[1]} x {shape[2]} pixels, got {tuple(inside.shape)}")
    whole = inside.new_ones(1, *shape)
    part = operator.A(whole * (inside > 0)).abs()
    kept = (part <= 1e-3 * operator.A(whole).abs().max()).to(y.dtype)
    if not kept.any():
        raise ValueError("the edit mask leaves no measurement to hold the picture to; make it smaller")
    return kept


@torch.no_grad()
def edit_corrupted(
    pipe: StableDiffusionRestorationPipeline,
    measurement: torch.Tensor,
    operator: Any,
    source_prompt: str | Sequence[str],
    target_prompt: str | Sequence[str],
    noise_sigma: float = 0.0,
    *,
    method: STSL | None = None,
    num_inference_steps: int = 50,
    guidance_scale: float = 3.0,
    measurement_steps: int | None = None,
    tuning: STSL | None = None,
    cross_share: float = 0.8,
    self_share: float = 0.4,
    edit_mask: torch.Tensor | None = None,
    features: Features | None = None,
    contrastive_weight: float = 2.0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    output_type: str = "pil",
    callback_on_step_end: Callable[[Any, int, float, dict[str, torch.Tensor]], dict[str, Any] | None] | None = None,
) -> CATOutput:
    """Restore pictures from a measurement and edit them, the edit being held to the measurement as long as it helps.

    1. Restoration by STSL with the source prompt.
    2. The restored latents are taken up the noise levels by DDIM; the states on the way are the source branch.
    3. Down again, source and target side by side. At every noise level the target latents take one step of gradient
       descent on the surrogate loss of STSL (the first `measurement_steps`), and on
       (contrastive_weight / d) InfoNCE of patches of the decoded estimate against the restored picture after that, if
       there are `features`; then a DDIM step with the attention maps of the source in the target's network
       (prompt-to-prompt).

    The gradient comes before the step, so that the last step is DDIM's. The published one comes after it.

    Args:
        pipe: of latents.
        measurement, operator, noise_sigma: as for the pipeline; the operator must be linear.
        source_prompt, target_prompt: what the picture shows, and what it shall show; one for all, or one each. Words
            should stand at the same places in both.
        method: of the restoration; None is `STSL()`.
        num_inference_steps: noise levels of the restoration and of the edit.
        guidance_scale: of the target prompt; 1 is none.
        measurement_steps: noise levels at which the measurement tunes the target; None is 3 of 5, as published. More
            pull what is edited back to the source.
        tuning: weights and loss of those steps, of which one is taken at every level; None is those of `method`.
        cross_share, self_share: shares of the steps in which the cross-attention maps, and the maps of
            self-attention, are those of the source.
        edit_mask: (H, W), 1 where the picture may change: measurements that depend on it count no more in the edit.
        features: patches of a picture, ``features(pictures (B, C, H, W)) -> (B, N, D)``, such as the tokens of a
            vision transformer; None leaves the contrastive steps out.
        contrastive_weight: of those steps; published: 2.
        generator: one, or a list with one a picture.
        output_type: ``pil``, ``pt``, ``np`` or ``raw``.
        callback_on_step_end: ``callback(pipe, i, t, {"latents": z}) -> dict`` after every step of the edit.

    Raises:
        ValueError, TypeError: something that cannot be; the sentence says what is allowed.

    Reference: Rout et al. 2024 (arXiv 2312.00852); Hertz et al. 2022, Prompt-to-Prompt (arXiv 2208.01626).
    """
    if not isinstance(pipe, StableDiffusionRestorationPipeline):
        raise TypeError(f"editing needs a StableDiffusionRestorationPipeline, got {type(pipe).__name__}")
    check_output_type(output_type, pipe.channels)
    for name, share in (("cross_share", cross_share), ("self_share", self_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is a share of the steps, 0 to 1, got {share!r}")
    restoring = STSL() if method is None else method
    tuned = dataclasses.replace(restoring if tuning is None else tuning, init="noise", gluing_weight=0.0)
    y = check_measurement(measurement).to(pipe._execution_device).float()
    job = make_job(
        pipe.scheduler, pipe.frame, pipe.channels, "latent", False, operator, y, len(y), method=restoring,
        num_inference_steps=num_inference_steps, noise_sigma=noise_sigma, tile="whole",
    )  # fmt: skip
    count = round(MEASUREMENT_SHARE * job.grid.calls) if measurement_steps is None else int(measurement_steps)
    if not 0 <= count <= job.grid.calls:
        raise ValueError(f"measurement_steps must be 0 to the {job.grid.calls} steps, got {measurement_steps!r}")
    coder, generator = Coder(pipe.vae), check_generators(generator, len(y))
    units = tuple(-(-side // coder.factor) for side in job.shape[1:])
    if any(cell * coder.factor != side for cell, side in zip(units, job.shape[1:], strict=True)):
        raise ValueError(f"the sides of the picture must be divisible by {coder.factor} for this model")
    began = time.perf_counter()

    def told(prompt: str | Sequence[str]) -> CountedNetwork:
        prompts = prompts_of(prompt, len(y), 1)
        return CountedNetwork(
            pipe.unet, len(y), prompt_embeds(pipe.tokenizer, pipe.text_encoder, prompts, pipe._execution_device)
        )

    with ready(pipe._modules(), False), ExitStack() as stack:
        source, target, untold = told(source_prompt), told(target_prompt), told("")
        found = run_posterior(
            source, restoring, job.process, job.grid, job.operator, y, sigma_y=job.noise_sigma, generator=generator,
            shape=(int(pipe.unet.config.in_channels), *units), decode=coder.decode, encode=coder.encode,
        )  # fmt: skip
        restored = coder.decode(found.sample)
        plain = Prior(source, job.process)
        path = [found.sample]  # from clean to noise
        for low, high in zip(job.grid.nodes[::-1], job.grid.nodes[-2::-1], strict=False):
            eps = plain(path[-1], high).eps
            path.append(high.alpha * (path[-1] - low.sigma * eps) / low.alpha + high.sigma * eps)
        control = stack.enter_context(
            AttentionControl(pipe.unet, round(cross_share * job.grid.calls), round(self_share * job.grid.calls))
        )

        def guided(z: torch.Tensor, timestep: float) -> torch.Tensor:
            control.inject()
            said = target(z, timestep)
            control.rest()
            if guidance_scale == 1:
                return said
            plainly = untold(z, timestep)
            return plainly + guidance_scale * (said - plainly)

        whole, problem = Problem(job.operator, y), Problem(job.operator, y, job.noise_sigma, coder.decode)
        if edit_mask is not None:
            kept = Mask(outside(job.operator, y, job.shape, edit_mask))
            whole = Problem(compose(job.operator, kept), kept.A(y))
            problem = dataclasses.replace(whole, decode=coder.decode)
        prior, draws, z = Prior(guided, job.process), Draws(generator), path[-1]
        like = None if features is None else features(restored)
        trace = []
        with pipe.progress_bar(total=job.grid.calls) as bar:
            for i, (node, to) in enumerate(zip(job.grid.nodes[:-1], job.grid.nodes[1:], strict=True)):
                control.record(i)
                source(path[-1 - i], node.timestep)
                if i < count:
                    z, residual = tuned.inner_step(node, z, prior, problem, draws)
                    trace.append(problem.size_of(residual))
                elif features is not None and like is not None and contrastive_weight > 0:
                    said = prior.trace(z, node)
                    with torch.enable_grad():
                        loss = patch_contrast(features(coder.decode(said.x0)), like)
                    z = z - contrastive_weight / z[0].numel() * said.gradient(loss)
                final = prior(z, node)
                z = to.alpha * final.x0 + to.sigma * final.eps
                bar.update()
                if callback_on_step_end is not None:
                    z = (callback_on_step_end(pipe, i, node.timestep, {"latents": z}) or {}).get("latents", z)
        images = coder.decode(z)
        if not torch.isfinite(images).all():
            raise ValueError("the edit diverged: take more steps, or a smaller data_weight in tuning")
        sizes = [whole.size_of(whole.residual(picture)) for picture in (images, restored)]
    pipe.maybe_free_model_hooks()
    networks = (source, target, untold)
    return CATOutput(
        handed_out(images, output_type), handed_out(restored, output_type), sizes[0], sizes[1],
        torch.stack(trace) if trace else y.new_zeros(0, len(y)),
        sum(network.forward for network in networks), sum(network.backward for network in networks),
        time.perf_counter() - began,
        {
            **job.settings(pipe.frame.unit), "source_prompt": source_prompt, "target_prompt": target_prompt,
            "guidance_scale": guidance_scale, "measurement_steps": count, "cross_share": cross_share,
            "self_share": self_share, "edit_mask": edit_mask is not None, "tuning_weight": tuned.data_weight,
            "contrastive_weight": contrastive_weight if features is not None else 0.0,
        },
    )  # fmt: skip
