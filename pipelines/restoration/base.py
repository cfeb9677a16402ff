"""What both restoration pipelines share: a request checked and laid out, the run, and what comes back."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from fewstep.samplers.posterior import Operator, Problem

from .job import Job, make_job
from .modules import ready
from .network import CountedNetwork
from .output import RestorationOutput, check_output_type, handed_out
from .problem import check_count, check_generators, check_measurement
from .steps import Interrupted, StepEnd
from .tiling import Frame, run_tiled

#: Arguments of a call that change nothing of what it costs.
_WITHOUT_COST = frozenset(
    ("clip", "final_projection", "generator", "start", "output_type", "return_dict", "callback_on_step_end")
) | {"callback_on_step_end_tensor_inputs"}


class RestorationPipeline(DiffusionPipeline):
    """Base of the restoration pipelines; see `PixelRestorationPipeline` and `StableDiffusionRestorationPipeline`."""

    space: ClassVar[str]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "x0"]
    config: Any
    unet: Any
    scheduler: Any
    _interrupt = False

    # -- what a subclass says --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def frame(self) -> Frame:
        """Sizes of the network."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a picture."""

    @abstractmethod
    def _modules(self) -> list[Any]:
        """Networks that a run needs."""

    # -- diffusers' conventions ------------------------------------------------------------------------------------

    @classmethod
    def from_pipe(cls, pipeline: Any, **parts: Any) -> Any:
        """A restoration pipeline of the parts of a loaded pipeline.

        No weights are copied or moved: both pipelines hold the same modules, and the other one stays as it is.

        Args:
            pipeline: any pipeline of diffusers with the parts that this class needs.
            **parts: parts to take instead, such as ``scheduler=...``.

        Raises:
            ValueError: a part is missing or of another kind of model; parts that this class has none of.
        """
        names = [name for name in cls._get_signature_keys(cls)[0] if name != "self"]
        for name in parts:
            if name not in names:
                raise ValueError(f"{cls.__name__} has no part {name!r}; its parts are {', '.join(sorted(names))}")
        found = {name: parts.get(name, getattr(pipeline, name, None)) for name in names}
        missing = sorted(name for name, part in found.items() if part is None)
        if missing:
            raise ValueError(
                f"{type(pipeline).__name__} has no {', '.join(missing)}, which {cls.__name__} needs; a pixel model "
                "(DDPMPipeline, DDIMPipeline) goes into PixelRestorationPipeline, a StableDiffusionPipeline into "
                "StableDiffusionRestorationPipeline"
            )
        made = cls(**found)
        source = str(getattr(pipeline, "name_or_path", "") or "")
        if source:
            made.register_to_config(_name_or_path=source)
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """A saved pipeline of this class, or one of diffusers with the parts that it needs; safetensors alone."""
        if kwargs.pop("use_safetensors", True) is False or kwargs.pop("trust_remote_code", False):
            raise ValueError("weights are read from safetensors alone, and no code of a model is run")
        import fewstep.samplers as samplers

        samplers.FewstepScheduler  # noqa: B018 - diffusers finds our schedulers in saved pipelines once this is loaded
        return super().from_pretrained(pretrained_model_name_or_path, use_safetensors=True, **kwargs)

    @property
    def interrupt(self) -> bool:
        """Set it to True from a callback to end the run after the step; the clean estimate so far is returned."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = bool(value)

    @property
    def num_timesteps(self) -> int:
        """Moves of the run that is going on, or of the last one."""
        return self._num_timesteps

    # -- requests --------------------------------------------------------------------------------------------------

    def _job(self, operator: Any, y: torch.Tensor | None, samples: int, **options: Any) -> Job:
        """A request, checked and laid out; see `make_job`."""
        accelerated = self._execution_device.type != "cpu"
        return make_job(
            self.scheduler, self.frame, self.channels, self.space, accelerated, operator, y, samples, **options
        )

    def _planned(self, operator: Any, size: Any, num_samples: int, options: Mapping[str, Any], calls: int = 1) -> Any:
        """Counts of a run; options of a call that say nothing of them are left aside."""
        known = {name: value for name, value in options.items() if name not in _WITHOUT_COST}
        count = check_count("num_samples", num_samples)
        return self._job(operator, None, count, size=size, calls=calls, several=count > 1, **known).plan()

    def _measured(self, measurement: Any, num_samples: int) -> torch.Tensor:
        y = check_measurement(measurement).to(self._execution_device)
        return y.repeat_interleave(check_count("num_samples", num_samples), 0)

    # -- the run ---------------------------------------------------------------------------------------------------

    def _restore(
        self,
        job: Job,
        y: torch.Tensor,
        network: CountedNetwork,
        *,
        generator: Any,
        start: torch.Tensor | None,
        output_type: str,
        return_dict: bool,
        callback: Any,
        names: Any,
        clip: bool = False,
        decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
        sample_shape: tuple[int, int, int] | None = None,
        operator: Operator | None = None,
        finish: Callable[[torch.Tensor], tuple[torch.Tensor, dict[str, Any]]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Any:
        """The run of a job.

        Args:
            decode, encode, sample_shape, operator: of latents: coders, the shape of one sample, and A for the canvas
                that is decoded; by default pictures are drawn as they are.
            finish: from the sample to the picture of the measurement's size, and what there is to say of it.
        """
        check_output_type(output_type, self.channels)
        if job.method.gradient and torch.is_inference_mode_enabled():
            raise ValueError(f"{job.method.name} differentiates through the network, which inference_mode forbids")
        generator = check_generators(generator, len(y))
        given = generator if isinstance(generator, list) else [] if generator is None else [generator]
        seeds = [g.initial_seed() for g in given]
        began, self._interrupt = time.perf_counter(), False
        plan = job.posterior_plan()
        total = len(plan.moves) * job.layout.passes
        self._num_timesteps = total
        more = {} if start is None else {"start": self._started(start, len(y))}
        stopped = False
        coders = {} if decode is None else {"decode": decode, "encode": encode}
        tiled = self.space == "latent" and job.layout.mode == "canvas" and len(job.layout.windows) > 1
        with ready(self._modules(), job.method.gradient, tiled), self.progress_bar(total=total) as bar:
            steps = StepEnd(self, plan, job.layout, bar, callback, names)
            try:
                result = run_tiled(
                    job.layout, network, job.method, job.process, job.grid, operator or job.operator, y,
                    shape=sample_shape or job.shape, sigma_y=job.noise_sigma, generator=generator, clip=clip,
                    callback=steps, on_window=steps.on_window, **coders, **more,
                )  # fmt: skip
                sample, trace = result.sample, result.trace
            except Interrupted as interrupted:
                stopped, trace = True, torch.stack([*steps.residuals]) if steps.residuals else torch.zeros(0, len(y))
                canvas, size = steps.estimate(interrupted), (sample_shape or job.shape)[1:]
                sample = canvas[..., : size[0], : size[1]]
            with torch.no_grad():
                picture, said = (sample, {}) if finish is None else finish(sample)
                problem = Problem(job.operator, y.to(picture.dtype), job.noise_sigma)
                residual = problem.size_of(problem.residual(picture))
        self.maybe_free_model_hooks()
        images = handed_out(picture, output_type)
        if not return_dict:
            return (images,)
        return RestorationOutput(
            images=images, residual=residual, trace=trace, forward=network.forward, backward=network.backward,
            seconds=time.perf_counter() - began,
            settings={
                **job.settings(self.frame.unit), **self._settings(), **(settings or {}), **said,
                "clip": clip, "seeds": seeds, "interrupted": stopped,
            },
        )  # fmt: skip

    def _started(self, start: Any, count: int) -> torch.Tensor:
        if not isinstance(start, torch.Tensor) or start.ndim != 4 or len(start) != count:
            shape = tuple(start.shape) if isinstance(start, torch.Tensor) else type(start).__name__
            raise ValueError(
                f"start is a batch of {count} samples (B, C, H, W) at the first noise level, one a sample; got {shape}"
            )
        return start.to(self._execution_device)

    def _settings(self) -> dict[str, Any]:
        return {
            "scheduler": type(self.scheduler).__name__,
            "dtype": str(self.unet.dtype).removeprefix("torch."),
            "device": str(self._execution_device),
        }
