"""Edit inverted pictures: sample from their noise with another prompt, with their own features put back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fewstep.samplers.inversion import Inversion as LatentInversion
from fewstep.samplers.inversion import regenerate

from .checks import check_guidance, check_prompts, listed
from .inversion import Inversion
from .leg import Leg, Progress, injector_of
from .masks import packed_masks, read_masks
from .models import PROCESS, Condition, EditModel, edit_model
from .results import Edited, finished, injection_settings, recorded_settings
from .reuse import check_model, features_of, source_condition
from .strategy import Injection
from .trajectory import MaskBlend


def edit(
    pipe: Any,
    inversion: Inversion,
    target_prompt: str | Sequence[str],
    strategy: str | Injection | None = None,
    *,
    guidance: float | None = None,
    mask: Any = None,
    blend: tuple[float, float] = (0.0, 1.0),
    warm: bool = False,
    progress: Progress | None = None,
) -> Edited:
    """Sample from inverted pictures with another prompt.

    Args:
        pipe: the pipeline that the pictures were inverted with.
        inversion: from `invert` or `load_inversion`; it serves any number of edits.
        target_prompt: what the pictures shall show; one text, or one for every picture.
        strategy: which features of the source are put back, as words (``"replace_v"``, ``"add_q replace_v"``,
            ``"none"``; blocks and window are then those of the inversion) or as an `Injection`; None is what the
            inversion recorded. What was not recorded is computed again.
        guidance: None is the model's usual one (2).
        mask: where the pictures may change: white is edited (see `read_mask`); one, or one for every picture. Outside
            the pixels are the picture's own, exactly.
        blend: (lowest, highest) noise level at which latents outside of the mask are held on the way of the inversion.
        warm: begin with the last velocity of the inversion and save one call (fireflow, midpoint).
        progress: told after every call of the solver.

    Raises:
        ValueError: another model, an unknown strategy, blocks that are not there, a mask of another size.
        FloatingPointError: the edit ended in values that are no finite numbers.
    """
    model = edit_model(pipe)
    check_model(model, inversion)
    prompts = check_prompts(listed(target_prompt, "prompt"), len(inversion.pictures), "the target prompt")
    guidance = model.edit_guidance if guidance is None else check_guidance(guidance)
    masks = read_masks(mask, inversion.pictures)
    low, high = _window(blend)
    injection = _injection(inversion, strategy)
    begin = time.perf_counter()
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(model.free)
        condition = model.condition(prompts, guidance)
        run = _sample(stack, model, inversion, condition, injection, masks, (low, high), warm, progress)
        return finished(
            model,
            inversion.pictures,
            inversion.frames,
            run.sample,
            inversion.latents.source,
            masks,
            begin,
            {
                **recorded_settings(inversion),
                "target": prompts[0] if len(set(prompts)) == 1 else prompts,
                "guidance": guidance,
                **injection_settings(injection, inversion.edges),
                "mask": mask is not None,
                "blend": [low, high] if mask is not None else None,
                "warm": warm,
            },
            calls=run.calls,
            recorded=run.recorded,
            hits=run.hits,
            misses=run.misses,
        )


def reconstruct(pipe: Any, inversion: Inversion, *, warm: bool = False, progress: Progress | None = None) -> Edited:
    """Sample with the source prompt and the guidance of the inversion: the picture again, as well as the solver can."""
    model = edit_model(pipe)
    check_model(model, inversion)
    begin = time.perf_counter()
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(model.free)
        condition = source_condition(model, inversion)
        run = _sample(stack, model, inversion, condition, Injection("none"), None, (0.0, 1.0), warm, progress)
        settings = {**recorded_settings(inversion), "guidance": inversion.guidance, "warm": warm}
        return finished(
            model,
            inversion.pictures,
            inversion.frames,
            run.sample,
            inversion.latents.source,
            None,
            begin,
            settings,
            calls=run.calls,
        )


@dataclass(frozen=True, eq=False)
class _Run:
    sample: torch.Tensor
    calls: int
    recorded: int
    hits: int
    misses: int


def _sample(
    stack: ExitStack,
    model: EditModel,
    inversion: Inversion,
    condition: Condition,
    injection: Injection,
    masks: list[np.ndarray] | None,
    blend: tuple[float, float],
    warm: bool,
    progress: Progress | None,
) -> _Run:
    """The leg from noise to data."""
    device = model.device
    held = inversion.latents
    latents = LatentInversion(
        held.sample.to(device), held.source.to(device), tuple(part.to(device) for part in held.kept), held.calls
    )
    window = injection.window(inversion.edges)
    store, extra, recorded = features_of(model, inversion, injection, window)
    injector = injector_of(stack, model, injection if window else None, store, latents.sample)
    held_outside = None
    if masks is not None:
        held_outside = MaskBlend(
            inversion.solver,
            inversion.edges,
            inversion.path.to(device),
            packed_masks(model, masks, inversion.frames, latents.sample),
            blend,
        )
    total = len(inversion.inverter.backward.stages(PROCESS, inversion.grid))
    leg = Leg(
        model,
        condition,
        inversion.size,
        injector=injector,
        mode="inject",
        window=window,
        blend=held_outside,
        progress=progress,
        total=total - (1 if warm or inversion.inverter.needs_pair else 0),
    )
    made = regenerate(leg, inversion.inverter, PROCESS, inversion.grid, latents, warm=warm, on_call=leg.on_call)
    hits, misses = (injector.hits, injector.misses) if injector is not None else (0, 0)
    return _Run(made.sample, leg.calls + extra, recorded, hits, misses)


def _injection(inversion: Inversion, strategy: str | Injection | None) -> Injection:
    if strategy is None:
        return inversion.injection
    if isinstance(strategy, Injection):
        return strategy
    if not isinstance(strategy, str):
        raise TypeError(f"a strategy is a text such as 'replace_v', or an Injection; got {type(strategy).__name__}")
    return replace(inversion.injection, strategy=strategy)


def _window(blend: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(level) for level in blend)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"blend is the lowest and the highest noise level, in [0, 1]; got {blend!r}")
    return low, high
