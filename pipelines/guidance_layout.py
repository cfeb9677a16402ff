"""How a pipeline of diffusers makes its guided prediction, read from the source of its call.

A pipeline computes ``uncond + g * (cond - uncond)`` (or ``cond + g * (cond - uncond)``) inside of its loop, in one of
two layouts: one call of the network for both predictions, the unconditional half of the batch first, or two
calls, the conditional one first. Which one it is, and which name is which, stands in the source; a pipeline whose
arithmetic is not one of these is refused rather than guessed at.
"""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from typing import Any

_NAME = r"[A-Za-z_]\w*"
_SUM = re.compile(rf"=\s*\(?\s*({_NAME})\s*\+\s*(?:self\.)?({_NAME})\s*\*\s*\(\s*({_NAME})\s*-\s*({_NAME})\s*\)")
_HALVES = re.compile(rf"({_NAME}), ({_NAME}) = {_NAME}\.chunk\(2\)")
_REVERSED = re.compile(r"timestep\s*=\s*\(?\s*1(?:\.0|000)?\s*-\s*t")
#: Pipelines whose two halves differ in more than the prompt, or that guide by more than two predictions.
_OTHER_GUIDANCE = re.compile(r"PAG|InstructPix2Pix|StableVideoDiffusion|SAGPipeline|AttendAndExcite")


@dataclass(frozen=True)
class Layout:
    """Where the two predictions are.

    Attributes:
        batched: both in one call, [uncond, cond]; else two calls with the same sample, cond first.
        reversed_time: the network is told 0 at pure noise.
        divides: the guided prediction is scaled by the ratio of two norms, which is 0 / 0 for a zero prediction.
        needs_negative: without a negative prompt there is no unconditional prediction, whatever the scale.
    """

    batched: bool
    reversed_time: bool = False
    divides: bool = False
    needs_negative: bool = False


def layout_of(pipe: Any) -> Layout:
    """The layout of a pipeline.

    Raises:
        ValueError: a pipeline that makes no unconditional prediction, or guides in a way that is not known here.
    """
    cls: Any = type(pipe)
    return _layout(cls)


@functools.cache
def _layout(cls: Any) -> Layout:
    name = cls.__name__
    try:
        source = inspect.getsource(cls.__call__)
    except (OSError, TypeError):
        raise ValueError(f"{name} has no readable source, so it is not known how it guides") from None
    if _OTHER_GUIDANCE.search(name):
        raise ValueError(f"{name} guides in a way of its own, which guidance modes do not know")
    sums = [m.groups() for m in _SUM.finditer(source) if "guid" in m[2] or "cfg" in m[2]]
    pairs = {(cond, uncond) for first, _, cond, uncond in sums if first in (cond, uncond)}
    if not pairs:
        raise ValueError(
            f"{name} has no guidance of the form uncond + g (cond - uncond): its model takes the scale as an input, or "
            "combines other predictions"
        )
    if len(pairs) > 1:
        raise ValueError(f"{name} guides with more than two predictions, which guidance modes do not know")
    cond, uncond = pairs.pop()
    common = {
        "reversed_time": bool(_REVERSED.search(source)),
        "divides": bool(re.search(r"cond_norm\s*/", source)),
        "needs_negative": "has_neg_prompt" in source,
    }
    halves = {(a, b) for a, b in _HALVES.findall(source) if {a, b} == {cond, uncond}}
    if halves:
        if halves != {(uncond, cond)}:
            raise ValueError(f"{name} puts the conditional half of the batch first, which guidance modes do not know")
        return Layout(True, **common)
    first, second = _called(source, cond), _called(source, uncond)
    if first is None or second is None or first[1] != second[1] or not first[1].isidentifier() or first[0] > second[0]:
        raise ValueError(f"it is not known how {name} makes its two predictions, so it takes no guidance mode")
    return Layout(False, **common)


def _called(source: str, name: str) -> tuple[int, str] | None:
    """Where a prediction comes out of the network, and the sample that goes in."""
    call = rf"\b{name}\s*=\s*(?:self\.)?(?:transformer|unet|current_model)\(\s*(?:hidden_states\s*=\s*)?([^,]*?)\s*,"
    found = re.search(call, source)
    return None if found is None else (found.start(), found[1])
