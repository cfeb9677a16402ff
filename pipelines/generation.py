"""Make pictures that repeat: a seed is a picture, whatever the batch, the count, or what other threads do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .guidance import guidance_of, guidance_run, guidance_settings
from .loading import model_name, shipped_models
from .swapping import follows_guidance, sampler_settings
from .token_pictures import draws_as_one

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from fewstep.samplers import ABCacheConfig

#: Guidance of the shipped models; other models have the default of their pipeline.
SHIPPED_GUIDANCE = 3.0
#: Pixels of one batch when nobody says how many pictures it shall hold: one picture of 1024x1024, four of 512x512.
_BATCH_PIXELS = 1024 * 1024
_LARGEST_BATCH = 32
_DENOISERS = ("unet", "transformer", "transformer_2")

#: Called after every network call of the sampler with (calls done, calls in all, latents of the batch at hand).
Callback = Callable[[int, int, "torch.Tensor"], None]

_TOKENIZER = threading.RLock()


@dataclass(frozen=True)
class Generation:
    """Pictures, and how they came to be.

    Attributes:
        images: RGB pictures, picture i with `seeds[i]` and `prompts[i]`.
        prompts, seeds: one of each a picture.
        batches: seeds of the pictures that went through the network together, in order.
        calls: forward passes of the denoiser that were made; the two halves of guidance in one batch are one.
        seconds: time of the run, text and decoder included.
        settings: all that is needed to repeat it, as JSON knows it.
        skipped: calls that a cache or a guidance interval answered without the denoiser.
        halved: of the calls that were made, those of the conditional half of the batch alone.
    """

    images: list[Image]
    prompts: list[str]
    seeds: list[int]
    batches: list[list[int]]
    calls: int
    seconds: float
    settings: dict[str, Any]
    skipped: int = 0
    halved: int = 0


def _guidance_of(pipe: Any) -> tuple[str, float | None] | None:
    """Name and default of the argument that is the guidance scale of a pipeline's call."""
    known = inspect.signature(type(pipe).__call__).parameters
    true = known.get("true_cfg_scale")  # of models that were distilled with guidance, whose other scale does nothing
    name = "true_cfg_scale" if true is not None and true.default > 1 else "guidance_scale"
    return (name, known[name].default) if name in known else None


def usual_guidance(pipe: Any) -> float | None:
    """Guidance that `generate` uses when none is given: 3 for shipped models, else the pipeline's own default."""
    if model_name(pipe) in shipped_models():
        return SHIPPED_GUIDANCE
    found = _guidance_of(pipe)
    return None if found is None else found[1]


def stride_of(pipe: Any) -> int:
    """What width and height must be multiples of: pixels a latent, times latents a patch; never below 8."""
    factor = int(getattr(pipe, "vae_scale_factor", 8))
    if getattr(pipe, "transformer", None) is not None:
        patch = pipe.transformer.config.get("patch_size") or 1
        factor *= max(patch, 2) if isinstance(patch, int) else 2
    return math.lcm(factor, 8)


def parse_size(size: int | str | Sequence[int] | None) -> tuple[int, int] | None:
    """(width, height) in pixels from 512, "512", "512x768" or (512, 768); None stays None.

    Raises:
        ValueError: anything else.
    """
    if size is None:
        return None
    try:
        if isinstance(size, str):
            parts = [int(part) for part in size.lower().replace("×", "x").split("x")]
        else:
            parts = [size] if isinstance(size, int) else [int(part) for part in size]
    except (TypeError, ValueError):
        parts = []
    if not 1 <= len(parts) <= 2 or min(parts) < 1:
        raise ValueError(f"size must be N or WIDTHxHEIGHT in pixels, got {size!r}")
    return parts[0], parts[-1]


def _whole(name: str, value: Any, low: int) -> int:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or int(value) != value:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value!r}")
    return int(value)


def check_request(
    pipe: Any, steps: int, guidance: float | None, seed: int, count: int, size: tuple[int, int] | None
) -> None:
    _whole("steps", steps, 1)
    most = pipe.scheduler.config.get("num_train_timesteps", 1000)
    if steps > most:
        raise ValueError(f"steps must be at most {most}, the timesteps that the model was trained with; got {steps}")
    number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
    if guidance is not None and not (number and math.isfinite(guidance) and guidance >= 0):
        raise ValueError(f"guidance must be a finite number of at least 0, got {guidance!r}")
    _whole("count", count, 1)
    if _whole("seed", seed, 0) + count > 2**63:
        raise ValueError(f"seed must be below 2^63, got {seed}")
    if size is not None:
        stride = stride_of(pipe)
        if size[0] % stride or size[1] % stride:
            near = [max(stride, round(side / stride) * stride) for side in size]
            raise ValueError(
                f"width and height must be multiples of {stride} for this model, got {size[0]}x{size[1]}; "
                f"the nearest is {near[0]}x{near[1]}"
            )


def _warn_of_other_guidance(pipe: Any, guidance: float | None) -> None:
    """A sampler that was tuned for one guidance scale may be poor at another."""
    tuned = (pipe.scheduler.config.get("_tuning") or {}).get("guidance")
    if tuned is not None and guidance is not None and tuned != guidance:
        warnings.warn(
            f"this sampler was tuned for guidance {tuned:g}; at {guidance:g} it may be worse than an untuned one",
            stacklevel=3,
        )


def _prompts(prompts: str | Sequence[str]) -> list[str]:
    found = [prompts] if isinstance(prompts, str) else list(prompts) if isinstance(prompts, Sequence) else []
    if not found or not all(isinstance(prompt, str) for prompt in found):
        raise ValueError("prompts must be a text or a list of texts, at least one")
    return found


class _Watch:
    """What the hooks of one run saw: forward passes of the denoiser, and whether the decoder's output was finite."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.calls = 0
        self.finite: list[torch.Tensor] = []  # stays on the device until the run is over

    def after_denoiser(self, *_: Any) -> None:
        if threading.get_ident() == self.thread:  # the networks are shared with the runs of other threads
            self.calls += 1

    def after_decoder(self, module: Any, inputs: Any, values: Any) -> None:
        if threading.get_ident() == self.thread and hasattr(values, "isfinite"):
            self.finite.append(values.isfinite().all())


@contextmanager
def _watched(pipe: Any) -> Iterator[_Watch]:
    """Watch the networks of a pipeline while this lasts, in this thread alone."""
    denoisers = [m for name in _DENOISERS if (m := getattr(pipe, name, None)) is not None]
    if not denoisers:
        raise ValueError(f"{type(pipe).__name__} has no unet or transformer to call")
    watch = _Watch()
    handles = [module.register_forward_hook(watch.after_denoiser) for module in denoisers]
    decoder = getattr(getattr(pipe, "vae", None), "decoder", None)
    if decoder is not None:  # pictures are clipped to [0, 1] before they come back, which hides infinity
        handles.append(decoder.register_forward_hook(watch.after_decoder))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def own_run(pipe: Any, guidance: float | None = None) -> Any:
    """A pipeline for one run: the networks of `pipe`, a scheduler of its own, and no progress bar.

    What a run writes (the scheduler's state, the pipeline's guidance) is not shared, so runs may overlap in threads.
    """
    clone = copy.copy(pipe)
    clone.set_progress_bar_config(disable=True)
    scheduler = copy.deepcopy(pipe.scheduler)
    if guidance is not None and follows_guidance(scheduler):
        scheduler.method = dataclasses.replace(scheduler.method, guidance_scale=guidance)
    clone.scheduler = scheduler
    if hasattr(type(clone), "encode_prompt") and "encode_prompt" not in vars(clone):
        encode = clone.encode_prompt

        def encode_alone(*args: Any, **kwargs: Any) -> Any:
            with _TOKENIZER:  # a fast tokenizer refuses to be used by two threads at once ("Already borrowed")
                return encode(*args, **kwargs)

        clone.encode_prompt = encode_alone
    return clone


def pipeline_arguments(
    pipe: Any, guidance: float | None, size: tuple[int, int] | None, negative: str | None
) -> tuple[dict[str, Any], bool]:
    """Arguments of the pipeline's call that are the same for every batch; whether `negative` goes along."""
    known = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in known:
        raise ValueError(f"{type(pipe).__name__} takes no prompt, so it does not make pictures from text")
    arguments: dict[str, Any] = {}
    if guidance is not None:
        scale = _guidance_of(pipe)
        if scale is None:
            raise ValueError(f"{type(pipe).__name__} takes no guidance")
        arguments[scale[0]] = float(guidance)
    if size is not None:
        if not {"width", "height"} <= known.keys():
            raise ValueError(f"{type(pipe).__name__} has one size only; leave size away")
        arguments |= {"width": size[0], "height": size[1]}
    if "use_resolution_binning" in known:  # the picture shall have the size that was asked for, and no resampling
        arguments["use_resolution_binning"] = False
    if "clean_caption" in known and find_spec("bs4") is None:
        arguments["clean_caption"] = False
    unused = "true_cfg_scale" in known and "true_cfg_scale" not in arguments  # distilled, as Flux
    if negative is not None and ("negative_prompt" not in known or unused):
        raise ValueError(f"{type(pipe).__name__} takes no negative prompt")
    return arguments, negative is not None


def _check_pairs(pipe: Any, guidance: float | None, negative: str | None) -> None:
    """Refuse a run in which a mode of guidance would have nothing to act on."""
    hooks = guidance_of(pipe)
    if hooks is None or guidance is None or guidance <= 1:
        return
    known = inspect.signature(type(pipe).__call__).parameters
    scale = _guidance_of(pipe)
    if "true_cfg_scale" in known and (scale is None or scale[0] != "true_cfg_scale"):
        raise ValueError(
            f"{type(pipe).__name__} takes its guidance as an input of the network and makes no unconditional "
            "prediction here, so a guidance mode has nothing to act on; call the pipeline itself with negative_prompt "
            "and true_cfg_scale"
        )
    if hooks.layout.needs_negative and negative is None:
        raise ValueError(
            f"{type(pipe).__name__} makes an unconditional prediction only beside a negative prompt, so a guidance "
            'mode has nothing to act on; give one, if only " "'
        )


def _cache_of(cache: str | ABCacheConfig | None) -> ABCacheConfig | None:
    from fewstep.samplers import ABCacheConfig, parse_cache

    if cache is None or isinstance(cache, str):
        return parse_cache(cache)
    if not isinstance(cache, ABCacheConfig):
        raise ValueError(f'a cache is a text such as "ab:order=2,interval=3" or an ABCacheConfig, got {cache!r}')
    return cache


def generate(
    pipe: Any,
    prompts: str | Sequence[str],
    *,
    steps: int = 8,
    guidance: float | None = None,
    seed: int = 0,
    count: int = 1,
    batch: int | None = None,
    size: int | str | Sequence[int] | None = None,
    negative: str | None = None,
    cache: str | ABCacheConfig | None = None,
    callback: Callback | None = None,
) -> Generation:
    """Make `count` pictures of every prompt.

    Picture i has the seed ``seed + i``, and its noise comes from a generator of its own on the host: the same seed
    gives the same picture, to rounding, in any batch. With several prompts the first picture of each comes first, then
    the second of each, so that a larger `count` only adds pictures.

    Args:
        pipe: a text-to-image pipeline of diffusers; left as it is, also its scheduler.
        prompts: one text or several.
        steps: of the sampler, 1 to the number of training timesteps.
        guidance: classifier-free guidance scale, 0 or more (at most 1 is none); by default `usual_guidance`.
        seed: of the first picture, 0 or more.
        count: pictures of every prompt.
        batch: pictures that go through the network together; by default as many as make a megapixel, at most 32.
        size: N, "WxH" or (width, height) in pixels; by default the model's own.
        negative: what the pictures should not show.
        cache: network calls that are extrapolated instead of made, as ``ab:order=2,interval=3`` or `ABCacheConfig`.
        callback: told after every step; an exception that it raises ends the run.

    Raises:
        ValueError: an argument out of range, or one that the pipeline has no use for.
        FloatingPointError: the run ended in values that are no finite numbers; no picture is made of them.
    """
    if not hasattr(pipe, "scheduler"):
        raise TypeError(f"generate needs a pipeline, as load() returns it, got {pipe!r}")
    texts = _prompts(prompts)
    shape = parse_size(size) or _own_size(pipe)
    guidance = usual_guidance(pipe) if guidance is None else guidance
    check_request(pipe, steps, guidance, seed, count * len(texts) if isinstance(count, int) else count, shape)
    steps, seed, count = int(steps), int(seed), int(count)
    common, with_negative = pipeline_arguments(pipe, guidance, shape, negative)
    _warn_of_other_guidance(pipe, guidance)
    if batch is None:
        pixels = shape[0] * shape[1] if shape is not None else _usual_pixels(pipe)
        batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // pixels))
    batch = 1 if draws_as_one(pipe) else _whole("batch", batch, 1)
    _check_pairs(pipe, guidance, negative)

    from fewstep.samplers import ab_cache, generators
    from fewstep.samplers.cache import cache_text

    plan = _cache_of(cache)
    written = cache_text(plan)

    pictures = texts * count
    seeds = [seed + i for i in range(len(pictures))]
    parts = [range(start, min(start + batch, len(pictures))) for start in range(0, len(pictures), batch)]
    run = own_run(pipe, guidance)
    images: list[Image] = []
    begin = time.perf_counter()
    guided = guidance_run(run, guidance is None or guidance > 1)
    with _watched(run) as watch, guided as counts, ab_cache(run, plan) if plan else nullcontext() as session:
        for number, part in enumerate(parts):
            last = _Last(callback, number, len(parts))
            arguments = {**common, **last.arguments(run)}
            if with_negative:
                arguments["negative_prompt"] = [negative] * len(part)
            watch.finite.clear()
            result = run(
                prompt=[pictures[i] for i in part],
                num_inference_steps=steps,
                generator=drawn if len(drawn := generators([seeds[i] for i in part])) > 1 else drawn[0],
                output_type="pt",
                **arguments,
            ).images
            images += _checked(run, result, last.latents, watch.finite, [seeds[i] for i in part])
    seconds = time.perf_counter() - begin
    skipped = (counts.skipped if counts else 0) + (session.stats()["skipped"] if session else 0)
    settings = {
        "model": model_name(pipe),
        "pipeline": type(pipe).__name__,
        **sampler_settings(pipe.scheduler),
        "steps": steps,
        "guidance": guidance,
        **guidance_settings(pipe).record(),
        "cache": written,
        "negative": negative,
        "width": images[0].width,
        "height": images[0].height,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "versions": {name: version(name) for name in ("fewstep", "diffusers", "transformers", "torch")},
    }
    batches = [[seeds[i] for i in part] for part in parts]
    halved = counts.halved if counts else 0
    return Generation(images, pictures, seeds, batches, watch.calls - skipped, seconds, settings, skipped, halved)


def _own_size(pipe: Any) -> tuple[int, int] | None:
    """Width and height of a small model whose class draws another size by default; None: what the class draws.

    A transformer without a `sample_size` (Flux) says nothing of the size it was made for, and its pipeline then draws
    1024 pixels; the autoencoder says what it was trained on.
    """
    denoiser = next(m for name in _DENOISERS if (m := getattr(pipe, name, None)) is not None)
    coder = getattr(getattr(pipe, "vae", None), "config", {})
    own = coder.get("sample_size")
    if denoiser.config.get("sample_size") or not isinstance(own, int) or own >= 128:
        return None
    if "sample_size" in coder.get("_use_default_values", ()):
        return None
    if int(getattr(pipe, "default_sample_size", 0)) * int(getattr(pipe, "vae_scale_factor", 8)) <= own:
        return None
    return (own, own)


def _usual_pixels(pipe: Any) -> int:
    side = getattr(pipe, "default_sample_size", None)
    if side is None:
        denoiser = next(m for name in _DENOISERS if (m := getattr(pipe, name, None)) is not None)
        side = denoiser.config.get("sample_size") or 128
    side = max(side) if isinstance(side, list | tuple) else side
    return (int(side) * int(getattr(pipe, "vae_scale_factor", 8))) ** 2


class _Last:
    """Remembers the latest latents of a batch, without looking at them, and tells the caller how far the run is."""

    def __init__(self, callback: Callback | None, number: int, batches: int) -> None:
        self.callback, self.number, self.batches = callback, number, batches
        self.done = 0
        self.latents: torch.Tensor | None = None

    def arguments(self, run: Any) -> dict[str, Any]:
        """Arguments that make a pipeline call this after every step, by whichever of the two ways it has."""
        known = inspect.signature(type(run).__call__).parameters
        if "callback_on_step_end" in known:
            return {"callback_on_step_end": self.after_step}
        if "callback" in known:
            return {"callback": lambda step, t, latents: self.remember(run, latents), "callback_steps": 1}
        return {}

    def after_step(self, run: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        self.remember(run, values["latents"])
        return values

    def remember(self, run: Any, latents: torch.Tensor) -> None:
        self.latents = latents
        self.done += 1
        if self.callback is not None:
            total = max(len(run.scheduler.timesteps), self.done)
            self.callback(self.number * total + self.done, self.batches * total, latents)


def _checked(
    pipe: Any, decoded: torch.Tensor, latents: torch.Tensor | None, finite: list[torch.Tensor], seeds: list[int]
) -> list[Image]:
    """Pictures of a decoded batch (B, 3, H, W) in [0, 1], unless it or its latents hold NaN or infinity."""
    import torch

    wrong = {}
    for what, values in (("latents", latents), ("pictures", decoded)):
        if values is not None:
            good = torch.isfinite(values.float()).flatten(1).all(1).tolist()
            wrong[what] = [seed for seed, fine in zip(seeds, good, strict=True) if not fine]
    if not wrong["pictures"] and not all(bool(flag) for flag in finite):
        wrong["pictures"] = seeds
    for what, bad in wrong.items():
        if bad:
            number = str(pipe.dtype).removeprefix("torch.")
            hint = "" if number == "float32" else f"; {number} may be too small for this model, try float32"
            raise FloatingPointError(
                f"the {what} of seed {', '.join(map(str, bad))} came out as values that are not finite numbers, so no "
                f"picture was made: the sampler diverged or the weights are damaged{hint}"
            )
    processor = pipe.image_processor
    return processor.numpy_to_pil(processor.pt_to_numpy(decoded))
