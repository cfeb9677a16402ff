"""`PixelRestorationPipeline`: restoration with a pixel U-Net, such as that of a `DDPMPipeline`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import diffusers
import torch

from fewstep.samplers.posterior import PosteriorMethod

from .base import RestorationPipeline
from .job import RestorationPlan
from .network import CountedNetwork
from .schedule import process_of
from .tiling import USUAL_WINDOW, Frame


class PixelRestorationPipeline(RestorationPipeline):
    """Pictures that explain a measurement, drawn by a pixel diffusion model: y = A x + noise.

    Made from a loaded pipeline without copying weights, ``PixelRestorationPipeline.from_pipe(pipe)``, from a folder
    (``from_pretrained``), or by name (`load_restoration`). The run's own numbers are float32, whatever the network is
    in. Any scheduler with ``alphas_cumprod`` says the noise levels; every run ends at clean data.

    Args:
        unet: `UNet2DModel` for pictures in [-1, 1]; with twice as many output channels (a learned variance) the second
            half is left aside.
        scheduler: of a variance-preserving model.
    """

    model_cpu_offload_seq: Any = "unet"
    space: ClassVar[str] = "pixel"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        config = unet.config
        if config.get("cross_attention_dim") is not None:
            raise ValueError(
                f"{type(unet).__name__} reads a prompt, so it is no pixel model of this kind; a Stable Diffusion model "
                "goes into StableDiffusionRestorationPipeline"
            )
        if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
            raise ValueError(f"this {type(unet).__name__} wants class labels, and restoration has none to give")
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise ValueError(
                f"this {type(unet).__name__} makes {config.out_channels} channels of {config.in_channels}; allowed are "
                "as many, or twice as many (a learned variance)"
            )
        process_of(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def channels(self) -> int:
        return int(self.unet.config.in_channels)

    @property
    def frame(self) -> Frame:
        config = self.unet.config
        trained = config.get("sample_size") or USUAL_WINDOW
        window = (trained, trained) if isinstance(trained, int) else (int(trained[0]), int(trained[1]))
        divisor = 2 ** (len(config.block_out_channels) - 1)
        kinds = [*config.down_block_types, *config.up_block_types]
        middle = getattr(self.unet.mid_block, "attentions", None) or []
        local = not any("Attn" in kind for kind in kinds) and not any(layer is not None for layer in middle)
        return Frame(window, divisor, local, pads=True)

    def _modules(self) -> list[Any]:
        return [self.unet]

    def plan(
        self, operator: Any, size: Sequence[int] | None = None, *, num_samples: int = 1, **options: Any
    ) -> RestorationPlan:
        """Network calls and windows of a run, without one; options as for a call.

        Args:
            operator: A.
            size: (H, W) of the picture, where the operator does not say it.
            num_samples: pictures that are drawn together.
        """
        return self._planned(operator, size, num_samples, options)

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
        num_samples: int = 1,
        tile: str | None = None,
        window: int | Sequence[int] | None = None,
        overlap: int | Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        clip: bool = True,
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
            method: name of a posterior method, or one; None is the default for this operator and noise.
            method_options: fields of the method.
            num_inference_steps: noise levels; by default what the method wants.
            eta, renoise: fresh noise of a step, in DDIM's or in DDRM's convention; fields of most methods.
            time_travel: (length, repeats): go back up so many levels now and then, see `travel`.
            num_samples: pictures of each measurement, which follow one another in the output.
            tile: ``whole``, ``canvas`` (all windows at once, the data of the whole picture), ``msr`` (window by window)
                or ``hir`` (a small version first); None: whole where that is possible, else canvas.
            window, overlap: of the windows, in pixels.
            size: (H, W) of the picture, where it does not follow from operator and measurement.
            clip: clamp the network's clean estimate to [-1, 1] before the data come in.
            generator: one, or a list with one a sample: then a picture does not depend on its batch mates.
            start: samples at the first noise level instead of noise, (B * num_samples, C, H, W), on the canvas.
            output_type: ``pil``, ``pt`` or ``np`` in [0, 1], or ``raw`` in [-1, 1], not clamped.
            return_dict: return a `RestorationOutput`, else a tuple of the pictures alone.
            callback_on_step_end: ``callback(pipe, i, t, {"latents": x, ...}) -> dict`` after every move; what it
                returns as ``latents`` takes the place of the sample, and ``pipe.interrupt = True`` ends the run.
            callback_on_step_end_tensor_inputs: what it is given, of ``latents`` and ``x0``.

        Raises:
            ValueError, TypeError: something that cannot be; the sentence says what is allowed.
        """
        y = self._measured(measurement, num_samples)
        job = self._job(
            operator, y, len(y), noise_sigma=noise_sigma, method=method, method_options=method_options,
            num_inference_steps=num_inference_steps, eta=eta, renoise=renoise, time_travel=time_travel, tile=tile,
            window=window, overlap=overlap, size=size, several=num_samples > 1,
        )  # fmt: skip
        return self._restore(
            job, y, CountedNetwork(self.unet, len(y)), generator=generator, start=start, output_type=output_type,
            return_dict=return_dict, callback=callback_on_step_end, names=callback_on_step_end_tensor_inputs,
            clip=bool(clip),
        )  # fmt: skip


setattr(
    diffusers, PixelRestorationPipeline.__name__, PixelRestorationPipeline
)  # so that diffusers finds it in an index
