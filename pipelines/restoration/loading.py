"""A restoration pipeline from the name of a model, a folder, or a pipeline that is loaded already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loading import load_model

if TYPE_CHECKING:
    import torch

    from .base import RestorationPipeline

#: Model of `load_restoration` when none is named.
DEFAULT_PRIOR = "photo-prior"


def restoration_of(pipe: Any) -> RestorationPipeline:
    """The restoration pipeline of a loaded pipeline; the weights are shared.

    Raises:
        ValueError: a pipeline of another kind of model.
    """
    from .base import RestorationPipeline
    from .latent import StableDiffusionRestorationPipeline
    from .pixel import PixelRestorationPipeline

    if isinstance(pipe, RestorationPipeline):
        return pipe
    unet = getattr(pipe, "unet", None)
    if unet is not None and getattr(pipe, "vae", None) is None and getattr(pipe, "vqvae", None) is None:
        return PixelRestorationPipeline.from_pipe(pipe)
    if unet is not None and getattr(pipe, "text_encoder", None) is not None:
        return StableDiffusionRestorationPipeline.from_pipe(pipe)
    raise ValueError(
        f"{type(pipe).__name__} cannot restore pictures; allowed are pixel models with a U-Net (DDPMPipeline, "
        "DDIMPipeline) and Stable Diffusion 1 and 2 (StableDiffusionPipeline)"
    )


def load_restoration(
    model: str | Path | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> RestorationPipeline:
    """A restoration pipeline by name.

    Args:
        model: name of a model that ships, a folder, or a name on the hub: of a pixel pipeline or a Stable Diffusion
            pipeline. None is the prior that ships, `DEFAULT_PRIOR`.
        dtype: ``float32``, ``float16`` or ``bfloat16`` of the networks; by default float32 on the processor and for
            shipped models, else bfloat16 where the accelerator has it, or float16. The run's own numbers are float32.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; by default the accelerator if there is one.

    Raises:
        FileNotFoundError: no such model; the nearest shipped name is given.
        ValueError: a folder without a (readable) pipeline, a pipeline of another kind, an unknown dtype or device.
    """
    from . import latent, pixel  # noqa: F401 - diffusers finds these classes in an index once they are loaded

    pipe = restoration_of(load_model(DEFAULT_PRIOR if model is None else model, dtype=dtype, device=device))
    if pipe.frame.convolutional and pipe.unet.dtype.itemsize == 2:
        import torch

        pipe.unet.to(memory_format=torch.channels_last)  # a third faster on a processor
    return pipe
