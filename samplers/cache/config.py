"""Settings of the Adams-Bashforth cache, and their short form on a command line: ``ab:order=2,interval=3``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.registry import nearest

COORDINATES = ("index", "timestep", "sigma")


@dataclass(frozen=True)
class ABCacheConfig:
    """Which calls of a denoiser are made, and how the others are extrapolated.

    Attributes:
        order: k, 1 to 4: outputs that an extrapolation uses. 1 is plain reuse; 2 is the only order above it that pays
            on trained models as a rule; 3 is worth a try on smooth runs without guidance.
        interval: T >= 1: one call of the network per T calls. 1 changes nothing, 2 is careful, 3 balanced; 5 and more
            need 50 steps.
        warmup_steps: calls made at the start, at least `order`.
        tail_steps: calls made at the end; they need N, the number of calls in all.
        num_inference_steps: N, in *calls* of the denoiser for one guidance branch: Heun makes 2 a step. None: read
            from the pipeline's scheduler at the run, or from the cache context if the pipeline says it there.
        coordinate: what the polynomial is in: ``index`` of the call, ``timestep`` or ``sigma``. Where timesteps repeat
            or a sigma is not known, the index is used.
        max_amplification: an extrapolation whose weights have an absolute sum above this loses its oldest node.
            ``auto`` is 2^k - 1, that of one equal spacing ahead; None is no limit.
        history_dtype: of the kept outputs; float64 outputs are kept in float64 in any case.
        compute_mask: the calls to make, in place of warm-up, interval and tail: one bool a call (calls beyond the end
            are made), or the indices of the calls to make, or a function of the index. The first call is always made.
        detect_branches: tell the branches of guidance apart when the pipeline names none.
        force: run also with samplers that draw noise in every step, where extrapolation is known to fail.
    """

    order: int = 2
    interval: int = 3
    warmup_steps: int = 5
    tail_steps: int = 3
    num_inference_steps: int | None = None
    coordinate: str = "index"
    max_amplification: float | str | None = "auto"
    history_dtype: torch.dtype = torch.float32
    compute_mask: Sequence[bool] | Sequence[int] | Callable[[int], bool] | None = None
    detect_branches: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        _whole("order", self.order, 1, 4)
        _whole("interval", self.interval, 1)
        _whole("warmup_steps", self.warmup_steps, 1)
        _whole("tail_steps", self.tail_steps, 0)
        if self.warmup_steps < self.order:
            raise ValueError(
                f"warmup_steps must be at least the order, {self.order}: so many outputs are extrapolated from; "
                f"got {self.warmup_steps}"
            )
        if self.num_inference_steps is not None:
            _whole("num_inference_steps", self.num_inference_steps, 1)
        if self.coordinate not in COORDINATES:
            raise ValueError(
                f"coordinate must be one of {', '.join(COORDINATES)}, got {self.coordinate!r}"
                f"{nearest(str(self.coordinate), COORDINATES)}"
            )
        limit = self.max_amplification
        if limit is not None and limit != "auto":
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if not number or math.isnan(limit) or limit < 1:  # type: ignore[arg-type, operator]
                raise ValueError(f'max_amplification must be "auto", None or a number of at least 1, got {limit!r}')
        if not isinstance(self.history_dtype, torch.dtype) or not self.history_dtype.is_floating_point:
            raise ValueError(f"history_dtype must be a floating-point dtype, got {self.history_dtype!r}")
        for name in ("detect_branches", "force"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        object.__setattr__(self, "compute_mask", _mask(self.compute_mask))

    def forced(self, index: int) -> bool | None:
        """Whether `compute_mask` wants call `index` made; None where there is no mask."""
        mask = self.compute_mask
        if mask is None:
            return None
        if callable(mask):
            return bool(mask(index))
        if mask and isinstance(mask[0], bool):
            return bool(mask[index]) if index < len(mask) else True
        return index in mask


def _whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        most = f"{low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name} must be a whole number, {most}, got {value!r}")


def _mask(mask: Any) -> Any:
    """A mask as a tuple of bools or of indices, or the function that it is."""
    if mask is None or callable(mask):
        return mask
    if isinstance(mask, torch.Tensor):
        mask = mask.tolist()
    values = tuple(mask) if isinstance(mask, Sequence | set | frozenset) and not isinstance(mask, str) else ()
    flags = all(isinstance(v, bool) for v in values)
    indices = all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
    if not values or not (flags or indices):
        raise ValueError(
            "compute_mask must be bools, one a call, or the indices of the calls to make, or a function of the index; "
            f"got {mask!r}"
        )
    return values if flags else tuple(sorted(set(values)))


#: Fields that a command line can set, and what their text becomes.
_FIELDS: dict[str, Callable[[str], Any]] = {
    "order": int,
    "interval": int,
    "warmup_steps": int,
    "tail_steps": int,
    "num_inference_steps": int,
    "coordinate": str,
    "max_amplification": lambda text: None if text == "none" else text if text == "auto" else float(text),
    "compute_mask": lambda text: [int(part) for part in text.split("+")],
    "force": lambda text: {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text],
}
_SHORT = {"warmup": "warmup_steps", "tail": "tail_steps", "steps": "num_inference_steps", "mask": "compute_mask"}
_POSITIONAL = ("order", "interval")


def parse_cache(text: str | None) -> ABCacheConfig | None:
    """The settings that ``none``, ``ab``, ``ab:2,3`` (order, interval) or ``ab:order=2,interval=3,tail=3`` stand for.

    Fields are those of `ABCacheConfig`; ``warmup``, ``tail``, ``steps`` and ``mask`` are short for theirs. A mask is
    written ``mask=0+1+2+5``: the indices of the calls to make.

    Returns:
        None for ``none`` and for nothing.

    Raises:
        ValueError: an unknown cache or field, or a value that it cannot have.
    """
    kind, colon, rest = (text or "none").strip().lower().partition(":")
    if kind not in ("none", "ab"):
        raise ValueError(f"unknown cache {kind!r}{nearest(kind, ('none', 'ab'))} A cache is none, ab or ab:order=2,...")
    if kind == "none":
        if colon:
            raise ValueError(f"the cache none has no settings, got {text!r}")
        return None
    fields: dict[str, Any] = {}
    named = False  # values without a name come first
    for place, part in enumerate(rest.split(",") if rest.strip() else []):
        name, equals, value = (word.strip() for word in part.partition("="))
        named = named or bool(equals)
        if not named and place < len(_POSITIONAL):
            name, value = _POSITIONAL[place], name
        name = _SHORT.get(name.replace("-", "_"), name.replace("-", "_"))
        if name not in _FIELDS:
            known = [*_FIELDS, *_SHORT]
            raise ValueError(
                f"the cache ab has no setting {name!r}{nearest(name, known)} Its settings are {', '.join(known)}"
            )
        if name in fields:
            raise ValueError(f"the cache setting {name} is given twice in {text!r}")
        try:
            fields[name] = _FIELDS[name](value)
        except (ValueError, KeyError):
            raise ValueError(f"the cache setting {name} cannot be {value!r}; write it as in ab:{_EXAMPLE}") from None
    return ABCacheConfig(**fields)


_EXAMPLE = "order=2,interval=3,warmup=5,tail=3"


def cache_text(config: ABCacheConfig | None) -> str:
    """The text that `parse_cache` makes this out of; only settings that are not the defaults are written.

    Raises:
        ValueError: the calls to make are chosen by a function, which has no text.
    """
    if config is None:
        return "none"
    parts = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in _FIELDS or value == item.default:
            continue
        if item.name == "compute_mask":
            if callable(value):
                raise ValueError("a compute_mask that is a function cannot be written down")
            flags = bool(value) and isinstance(value[0], bool)
            value = "+".join(str(i) for i in ([i for i, made in enumerate(value) if made] if flags else value))
        parts.append(f"{item.name}={str(value).lower()}")
    return "ab" + (":" + ",".join(parts) if parts else "")
