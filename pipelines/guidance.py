"""CFG-Zero* and guidance in an interval for ordinary diffusers pipelines, without a copy of any pipeline.

A pipeline computes ``u + g (c - u)`` from an unconditional and a conditional output of its network. Replacing what it
gets changes what it computes, and g stays the pipeline's:

    u -> s* u            CFG-Zero*                 s* u + g (c - s* u)
    u -> c               outside of the interval   c, whatever g is
    u, c -> standstill   zero-init                 the prediction that leaves the sample where it is

The replacement is done by torch's own forward hooks, which run outside of the module's `forward`. Caches replace
`forward`: they keep raw predictions and guidance acts on what they return, whichever of the two was applied first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .guidance_layout import Layout, layout_of

if TYPE_CHECKING:
    from fewstep.samplers import GuidanceInterval, Process

    from .guidance_hooks import Guidance, GuidanceCounts, GuidanceSettings

#: Names of the modes.
GUIDANCE_MODES = ("cfg", "cfg-zero")

_DENOISERS = ("unet", "transformer", "transformer_2")
_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_MARK = "_fewstep_guidance"
_SKIP = "fewstep_guidance_skip"


def guidance_of(pipe: Any) -> Guidance | None:
    """The guidance that `set_guidance` put on a pipeline's networks, if any."""
    for name in _DENOISERS:
        module = getattr(pipe, name, None)
        if module is not None and getattr(module, _MARK, None) is not None:
            return getattr(module, _MARK)[0]
    return None


def guidance_settings(pipe: Any) -> GuidanceSettings:
    """The mode, the interval and the steps of zero velocity of a pipeline; by default plain `cfg`."""
    from .guidance_hooks import GuidanceSettings

    found = guidance_of(pipe)
    return GuidanceSettings() if found is None else found.settings


def check_guidance(
    mode: str = "cfg", interval: Any = None, zero_init_steps: int | None = None
) -> GuidanceInterval | None:
    """The interval from what `set_guidance` takes, or a refusal without a pipeline.

    Raises:
        ValueError: an unknown mode (the nearest is given), an interval or a number of steps out of range.
    """
    from fewstep.samplers import GuidanceInterval
    from fewstep.samplers.core.registry import nearest

    if mode not in GUIDANCE_MODES:
        raise ValueError(f"unknown guidance mode {mode!r}{nearest(str(mode), GUIDANCE_MODES)} Known are cfg, cfg-zero")
    whole = isinstance(zero_init_steps, int) and not isinstance(zero_init_steps, bool)
    if zero_init_steps is not None and not (whole and zero_init_steps >= 0):
        raise ValueError(f"zero_init_steps must be a whole number of at least 0, got {zero_init_steps!r}")
    if zero_init_steps and mode == "cfg":
        raise ValueError("zero_init_steps belongs to guidance mode cfg-zero, and the mode is cfg")
    if interval is None or isinstance(interval, GuidanceInterval):
        return interval
    if isinstance(interval, str):
        return GuidanceInterval.parse(interval)
    try:
        low, high = interval
    except (TypeError, ValueError):
        raise ValueError(f"a guidance interval is two noise levels (low, high), got {interval!r}") from None
    return GuidanceInterval(low, high)


def set_guidance(pipe: Any, mode: str = "cfg", interval: Any = None, *, zero_init_steps: int | None = None) -> Any:
    """Put a way of guidance on a pipeline's networks, in place of any before, and return the pipeline.

    The scale stays an argument of the pipeline's call. Copies of the pipeline that share its networks share this too.
    Outside of an interval the unconditional prediction is not computed, unless a cache is on the network, which has to
    see every call. Guidance reads the timestep of every call, on an accelerator one synchronisation each.

    Args:
        pipe: a pipeline with classifier-free guidance of the form ``uncond + g (cond - uncond)``.
        mode: ``cfg``, as the pipeline does it; ``cfg-zero``, CFG-Zero* (Fan et al. 2025, arXiv 2503.18886).
        interval: (low, high), "LO,HI" or a `GuidanceInterval`: noise levels with guidance, in units of the process
            (sigma / alpha for variance-preserving and EDM models, sigma in [0, 1] for flow models); None is all.
        zero_init_steps: first steps of CFG-Zero* that leave the sample where it is. By default 1 for flow models, for
            which the paper defines it, and 0 for others, where it means a flow velocity eps - x0 of zero
            (`fewstep.samplers.guidance.zero_velocity`); an epsilon of zero would not stand still.

    Raises:
        ValueError: an unknown mode, an interval out of range, a pipeline without two predictions (its model takes the
            guidance as an input) or with more than two, a model without the process that the arguments need.
    """
    span = check_guidance(mode, interval, zero_init_steps)
    modules = [module for name in _DENOISERS if (module := getattr(pipe, name, None)) is not None]
    if mode == "cfg" and span is None:
        for module in modules:
            _detach(module)
        return pipe
    if not modules:
        raise ValueError(f"{type(pipe).__name__} has no unet or transformer to guide")
    layout = layout_of(pipe)
    process, reason = _process_of(pipe)
    if span is not None and process is None:
        raise ValueError(f"a guidance interval needs the noise levels of the model: {reason}")
    flow = process is not None and process.prediction == "flow_prediction"
    steps = zero_init_steps
    if steps is None:
        steps = int(mode == "cfg-zero" and flow and not layout.divides)
    if steps and (process is None or process.prediction.startswith("edm")):
        raise ValueError(f"zero velocity is not defined for this model, use zero_init_steps=0; {reason}".rstrip("; "))
    if steps and layout.divides:
        raise ValueError(
            f"{type(pipe).__name__} divides by the norm of the guided prediction, which zero-init makes 0; use "
            "zero_init_steps=0"
        )
    if pipe.scheduler.config.get("invert_sigmas"):
        layout = Layout(**{**vars(layout), "reversed_time": True})
    from .guidance_hooks import Guidance, GuidanceSettings

    guidance = Guidance(GuidanceSettings(mode, span, steps), layout, process)
    for module in modules:
        _detach(module)
        _attach(module, guidance, pipe)
    return pipe


def _process_of(pipe: Any) -> tuple[Process | None, str]:
    """The forward process of a pipeline's model, or None and why."""
    from fewstep.samplers import scheduler_class

    from .quiet import quiet

    with quiet():
        try:
            return scheduler_class("exponential-adams").from_config(dict(pipe.scheduler.config)).process, ""
        except (ValueError, TypeError, AttributeError) as error:
            return None, str(error)


def _attach(module: Any, guidance: Guidance, pipe: Any) -> None:
    handles = [
        module.register_forward_pre_hook(guidance.before, with_kwargs=True),
        module.register_forward_hook(guidance.after, with_kwargs=True),
    ]
    # a run that was interrupted leaves its place behind; the next one begins by encoding its prompt or picture
    encoders: list[Any] = [getattr(pipe, name, None) for name in _ENCODERS] + [
        getattr(getattr(pipe, "vae", None), "encoder", None)
    ]
    handles += [
        encoder.register_forward_pre_hook(guidance.reset) for encoder in encoders if hasattr(encoder, "forward")
    ]
    if not guidance.layout.batched and guidance.settings.interval is not None:
        from diffusers.hooks import HookRegistry

        from .guidance_hooks import Skip

        HookRegistry.check_if_exists_or_initialize(module).register_hook(Skip(guidance), _SKIP)
    setattr(module, _MARK, (guidance, handles))


def _detach(module: Any) -> None:
    """Take the hooks off, as if they had never been there."""
    mark = getattr(module, _MARK, None)
    if mark is None:
        return
    for handle in mark[1]:
        handle.remove()
    delattr(module, _MARK)
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None or _SKIP not in registry.hooks:
        return
    at = registry._hook_order.index(_SKIP)
    # remove_hook puts the inner forward in place of the whole next hook, also where that one has a forward of its own
    above = registry._fn_refs[at + 1] if at + 1 < len(registry._fn_refs) else None
    own = None if above is None else above.forward
    registry.remove_hook(_SKIP, recurse=False)
    if above is not None and above.original_forward is not None:
        above.original_forward, above.forward = above.forward, own
    if not registry.hooks:
        del module._diffusers_hook
        if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
            del module.forward


@contextlib.contextmanager
def guidance_run(pipe: Any, possible: bool = True) -> Iterator[GuidanceCounts | None]:
    """One run of this thread, which begins and ends without a trace of another; yields its counts, None without a mode.

    Args:
        possible: False where the run has no guidance, so that two equal pictures are not taken for the halves of it.
    """
    guidance = guidance_of(pipe)
    if guidance is None:
        yield None
        return
    counts = guidance.begin(possible)
    try:
        yield counts
    finally:
        guidance.begin()
