"""One picture restored: what the pipeline is given, how it is followed, and what is made of its draws."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.pipelines.restoration.tasks import task_defaults

from .restore_checks import RestoreRequest

if TYPE_CHECKING:
    from fewstep.pipelines.restoration.measured import Measured

#: Pixels a side that SSIM needs.
_SSIM_SIDE = 11


@dataclass(frozen=True, eq=False)
class Restored:
    """What became of one picture.

    Attributes:
        draws: every sample, (H, W, 3) in [0, 1].
        rgb: their mean; the draw itself if there is one.
        deviation: (H, W), standard deviation of the draws, root mean square over the channels; None for one draw.
        residual: root mean square of y - A x of `rgb`, in the scale of 0 to 255.
        residuals: the same of every draw.
        forward, backward: network evaluations of all draws.
        scores: ``psnr`` and ``ssim`` of `rgb` against the clean picture, if it is known, and of the measurement
            (``psnr_before``), bicubically enlarged where it is smaller; None for equal pictures.
    """

    measured: Measured
    draws: list[np.ndarray]
    rgb: np.ndarray
    deviation: np.ndarray | None
    residual: float
    residuals: list[float]
    forward: int
    backward: int
    seconds: float
    scores: dict[str, float | None] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def load_pipeline(request: RestoreRequest) -> Any:
    """The restoration pipeline, without a bar of its own."""
    from transformers.utils import logging

    from fewstep.pipelines import load_restoration

    logging.set_verbosity_error()
    pipe = load_restoration(request.model, dtype=request.dtype, device=request.device)
    pipe.set_progress_bar_config(disable=True)
    if pipe.space != "latent" and (request.prompt is not None or request.guidance is not None):
        raise ValueError(f"{request.model} reads no prompt; --prompt and --guidance are for Stable Diffusion models")
    return pipe


def read_measured(request: RestoreRequest, source: Path, channels: int = 3) -> Measured:
    """The measurement in a file.

    Raises:
        ValueError, FileNotFoundError: no picture, no mask that fits, a result that is too large.
    """
    from fewstep.pipelines.editing.masks import read_mask
    from fewstep.pipelines.editing.pictures import read_picture
    from fewstep.pipelines.restoration.measured import measured

    picture, options = read_picture(source), dict(request.options)
    if request.panorama and picture.size[0] != 2 * picture.size[1]:
        raise ValueError(
            f"a panorama of the whole sphere is twice as wide as high, and {source.name!r} has "
            f"{picture.size[0]}x{picture.size[1]} pixels"
        )
    if "mask" in options:
        missing = read_mask(options["mask"], picture.size, "is missing") >= 0.5
        if missing.all():
            raise ValueError(f"the mask {str(options['mask'])!r} is white everywhere, so that no pixel is known")
        if not missing.any():
            raise ValueError(f"the mask {str(options['mask'])!r} is darker than middle grey; white is what is missing")
        options["mask"] = ~missing
    return measured(
        request.task, picture, sigma=request.sigma, simulate=request.simulate, seed=request.seed, size=request.size,
        channels=channels, **options,
    )  # fmt: skip


def restore(pipe: Any, request: RestoreRequest, source: Path, bar: Callable[..., None]) -> Restored:
    """Restore one picture.

    Args:
        pipe: of `load_pipeline`.
        request: what is asked.
        source: the file.
        bar: called with moves done and moves in all.
    """
    import torch

    from fewstep.samplers import generators

    began = time.perf_counter()
    found = read_measured(request, source, pipe.channels)
    options = _call_options(pipe, request, found)
    batches = [
        range(first, min(first + request.batch, request.samples)) for first in range(0, request.samples, request.batch)
    ]
    runner = _panoramas(pipe) if request.panorama else pipe
    plans = [runner.plan(found.operator, found.size, num_samples=len(part), **options) for part in batches]
    total, done = sum(plan.moves for plan in plans), 0

    def after_step(_: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal done
        done += 1
        bar(done, total)
        return {}

    draws: list[np.ndarray] = []
    forward = backward = 0
    made: Any = None
    y = found.y
    for part in batches:
        made = runner(
            y, found.operator, num_samples=len(part), size=found.size, output_type="pt",
            generator=generators([request.seed + i for i in part]), callback_on_step_end=after_step, **options,
        )  # fmt: skip
        if not torch.isfinite(made.images).all():
            raise FloatingPointError("the model drew numbers that are not finite; take another --method, or float32")
        draws += [found.finished(image) for image in made.images]
        forward += made.forward * len(part)
        backward += made.backward * len(part)
    rgb = draws[0] if len(draws) == 1 else np.mean(draws, axis=0)
    return Restored(
        found,
        draws,
        rgb,
        _deviation(draws),
        found.residual(rgb),
        [found.residual(draw) for draw in draws],
        forward,
        backward,
        time.perf_counter() - began,
        _scores(found, rgb),
        _settings(request, found, made.settings, source),
    )


def _call_options(pipe: Any, request: RestoreRequest, found: Measured) -> dict[str, Any]:
    """Keywords of the call, and of its plan."""
    method, fields, steps = request.method, request.fields, request.steps
    if method is None and request.samples > 1 and pipe.space == "pixel" and not request.panorama:
        # drawn in parts, each of which may be of one picture
        method, own, usual = task_defaults(found.task, found.noise_sigma, pipe.space, several=True)
        fields, steps = {**own, **fields}, steps or usual
    options: dict[str, Any] = {
        "noise_sigma": found.noise_sigma,
        "method": method,
        "method_options": fields or None,
        "num_inference_steps": steps,
    }
    if not request.panorama:
        options |= {"tile": request.tile, "window": request.window, "overlap": request.overlap}
    if pipe.space == "latent":
        options |= {"prompt": request.prompt or "", "guidance_scale": request.guidance}
    return options


def _deviation(draws: list[np.ndarray]) -> np.ndarray | None:
    if len(draws) < 2:
        return None
    found: np.ndarray = np.sqrt(np.mean(np.var(draws, axis=0, ddof=1), axis=2))
    return found


def _scores(found: Measured, rgb: np.ndarray) -> dict[str, float | None]:
    """Fidelity to the clean picture; of transparent pictures as they look over white."""
    import dataclasses

    from fewstep.pipelines.editing.pictures import psnr
    from fewstep.pipelines.restoration.measured import resized

    if found.clean is None:
        return {}
    clean, result = (dataclasses.replace(found.picture, rgb=part).opaque.clip(0, 1) for part in (found.clean, rgb))
    scores = {"psnr": _finite(psnr(clean, result)), "ssim": _ssim(clean, result)}
    if found.task.name not in ("inpaint", "custom"):
        before = resized(found.shown(), found.size)
        scores["psnr_before"] = _finite(psnr(clean, dataclasses.replace(found.picture, rgb=before).opaque))
    return scores


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ssim(clean: np.ndarray, result: np.ndarray) -> float | None:
    """None for pictures that are too small for it, and where the package for it is not installed."""
    if min(clean.shape[:2]) < _SSIM_SIDE:
        return None
    try:
        from fewstep.eval.fidelity import pair_fidelity

        value = pair_fidelity(result[None], clean[None], ("ssim",))[0]["value"]
    except ImportError:
        return None
    return None if value is None else float(value)


def _settings(request: RestoreRequest, found: Measured, run: dict[str, Any], source: Path) -> dict[str, Any]:
    """What is written into the results."""
    from fewstep.pipelines.restoration.measured import rounding

    height, width = found.size
    given = {name: str(value) if isinstance(value, Path) else value for name, value in request.options.items()}
    return {
        **run,
        "command": "restore",
        "task": request.task.name,
        "options": given,
        "model": request.model,
        "prompt": request.prompt or "",
        "guidance": request.guidance,
        "picture": source.name,
        "sigma": request.sigma,
        "noise": request.sigma if request.simulate else max(request.sigma, rounding(found.picture.bits)),
        "simulate": request.simulate,
        "panorama": request.panorama,
        "sampler": run.get("method"),
        "fields": request.fields,
        "seed": request.seed,
        "width": width,
        "height": height,
        "key": request.key(source),
        "versions": {name: version(name) for name in ("fewstep", "diffusers", "torch")},
    }


def _panoramas(pipe: Any) -> Any:
    from fewstep.pipelines.restoration.omnidirectional import OmnidirectionalWrapper

    return OmnidirectionalWrapper(pipe)
