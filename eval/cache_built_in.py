"""The caches that diffusers has, as rivals: set up as well as ours is, and with their calls counted.

They skip blocks inside of the network rather than its calls, so a call counts as real where the last block was
computed; what counts is a layer inside of it, which a skipped block does not reach. TaylorSeer has the interval,
warm-up and tail of our default and the form that ours is like; MagCache is calibrated on the same model, prompts and
number of calls; FirstBlock has its defaults.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

BUILT_IN = ("taylorseer", "firstblock", "magcache")


@dataclass
class Counter:
    """How often a network was called, and how often its last block was computed."""

    forwards: int = 0
    computed: int = 0

    def real(self, calls: int) -> float:
        """Real calls of a run of `calls`: a whole number, but where runs or guidance branches differ."""
        found = round(calls * self.computed / max(self.forwards, 1), 1)
        return int(found) if found == int(found) else found


def denoiser_of(pipe: Any) -> Any:
    """The network of a pipeline, which must have diffusers' CacheMixin.

    Raises:
        ValueError: it has not.
    """
    found = getattr(pipe, "transformer", None)
    found = found if found is not None else getattr(pipe, "unet", None)
    if not hasattr(found, "enable_cache"):
        raise ValueError(f"not supported: {type(found).__name__} has no CacheMixin")
    return found


@contextlib.contextmanager
def counted(denoiser: Any) -> Iterator[Counter]:
    """Count the calls of a network and of its last block while this lasts.

    Raises:
        ValueError: no block with a linear layer is found.
    """
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS

    blocks = [
        block
        for name, child in denoiser.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(child, torch.nn.ModuleList)
        for block in child
    ]
    layers = [layer for layer in (blocks[-1].modules() if blocks else ()) if isinstance(layer, torch.nn.Linear)]
    if not layers:
        raise ValueError(f"not supported: {type(denoiser).__name__} has no blocks that can be counted")
    counter = Counter()

    def forward(*_: Any) -> None:
        counter.forwards += 1

    def computed(*_: Any) -> None:
        counter.computed += 1

    handles = [denoiser.register_forward_hook(forward), layers[0].register_forward_hook(computed)]
    try:
        yield counter
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _enabled(denoiser: Any, config: Callable[[], Any]) -> Iterator[None]:
    try:
        denoiser.enable_cache(config())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not supported: {str(error).strip()}") from error
    try:
        yield
    finally:
        denoiser.disable_cache()


def magcache_ratios(pipe: Any, calls: int, run: Callable[[], Any]) -> list[float]:
    """The ratios of MagCache on this model: how much the residual of the blocks grows from call to call.

    Args:
        pipe: the pipeline.
        calls: network calls of a run.
        run: makes one run.

    Returns:
        (calls,) ratios, the mean over the branches of guidance.

    Raises:
        ValueError: the model does not support MagCache.
    """
    import diffusers

    said = io.StringIO()  # where MagCache says what it found
    config = lambda: diffusers.MagCacheConfig(num_inference_steps=calls, calibrate=True)  # noqa: E731
    with _enabled(denoiser_of(pipe), config), contextlib.redirect_stdout(said):
        run()
    lines = [line for line in said.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    found = [ratios for line in lines if len(ratios := ast.literal_eval(line)) == calls]
    if not found:
        raise ValueError("not supported: MagCache could not be calibrated on this model")
    return [sum(branch) / len(found) for branch in zip(*found, strict=True)]


@contextlib.contextmanager
def built_in(pipe: Any, name: str, calls: int, ratios: list[float] | None = None) -> Iterator[Counter]:
    """A cache of diffusers on a pipeline while this lasts.

    Args:
        pipe: the pipeline.
        name: one of `BUILT_IN`.
        calls: network calls of a run.
        ratios: of MagCache, from `magcache_ratios`.

    Raises:
        ValueError: the model does not support it.
    """
    import diffusers

    from fewstep.samplers import ABCacheConfig

    ours = ABCacheConfig()
    denoiser = denoiser_of(pipe)
    configs: dict[str, Callable[[], Any]] = {
        "taylorseer": lambda: diffusers.TaylorSeerCacheConfig(
            cache_interval=3,
            disable_cache_before_step=ours.warmup_steps,
            disable_cache_after_step=max(calls - ours.tail_steps, ours.warmup_steps),
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        ),
        "firstblock": lambda: diffusers.FirstBlockCacheConfig(),
        "magcache": lambda: diffusers.MagCacheConfig(num_inference_steps=calls, mag_ratios=ratios),
    }
    with _enabled(denoiser, configs[name]), counted(denoiser) as counter:
        yield counter
