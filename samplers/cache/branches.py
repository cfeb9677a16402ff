"""Which guidance branch a call of a denoiser belongs to, and whether it begins a new run: read off its arguments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

_TIMESTEP_NAMES = ("timestep", "timesteps", "t")
#: Calls beyond so many branches of one step are made and not kept.
MOST_BRANCHES = 64


def sample_and_timestep(args: Sequence[Any], kwargs: Mapping[str, Any], first: str) -> tuple[list[torch.Tensor], Any]:
    """Tensors of the sample and the timestep, from the arguments of a denoiser whose first parameter is `first`.

    A denoiser that does not tell its parameters is taken to be called with the sample first. The timestep has a known
    name, or is the second argument.
    """
    sample = args[0] if args else kwargs.get(first, next(iter(kwargs.values()), None))
    timestep = next((kwargs[name] for name in _TIMESTEP_NAMES if kwargs.get(name) is not None), None)
    if timestep is None and len(args) > 1:
        timestep = args[1]
    return [leaf for leaf in pytree.tree_leaves(sample) if isinstance(leaf, torch.Tensor)], timestep


def timestep_value(timestep: Any) -> float | None:
    """A timestep as a number: the largest where it is given per token. Waits for the device if it lies on one."""
    if isinstance(timestep, torch.Tensor):
        return float(timestep.max()) if timestep.numel() else None
    return float(timestep) if isinstance(timestep, int | float) else None


def signature(sample: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Shape, dtype and device of a sample: outputs for different ones have nothing to do with each other."""
    return tuple((tuple(s.shape), s.dtype, s.device) for s in sample)


def needs_gradient(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether somebody wants to differentiate through this call."""
    if not torch.is_grad_enabled():
        return False
    leaves = itertools.chain(pytree.tree_leaves(list(args)), pytree.tree_leaves(dict(kwargs)))
    return any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves)


def _identity(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Where tensors lie and how often they were written to; tensors of inference mode do not count writes."""
    return tuple(
        (t.data_ptr(), None if t.is_inference() else t._version, tuple(t.shape), t.stride(), t.dtype) for t in tensors
    )


class Slots:
    """Numbers the guidance branches of one sampling step: 0, 1, ... in the order in which they are called.

    A call belongs to the same step as the one before if it has the same timestep *object* (pipelines iterate over
    the scheduler's timesteps, so every step has its own, also where a value repeats as in Heun's method), or the same
    sample object with an equal timestep. The objects are held, so that no new one can take their address.
    """

    def __init__(self) -> None:
        self.slot = -1
        self._held: tuple[list[torch.Tensor], Any] = ([], None)
        self._sample: tuple[Any, ...] = ()
        self._time: tuple[Any, ...] = ()

    def next(self, sample: list[torch.Tensor], timestep: Any) -> int:
        """Slot of this call."""
        where = _identity(sample)
        time = _identity([timestep]) if isinstance(timestep, torch.Tensor) else ()
        same_time = bool(time) and time[0][:2] == self._time[:2]
        if self.slot < 0:
            same = False
        elif same_time:
            same = True
        else:
            same = where == self._sample and timestep_value(timestep) == timestep_value(self._held[1])
        self.slot = self.slot + 1 if same else 0
        self._held, self._sample, self._time = (sample, timestep), where, time[0] if time else ()
        return self.slot


class Jumps:
    """Tells a new run from the next call by its timestep alone: time goes one way, and comes back at a new run."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None

    def back(self, value: float | None) -> bool:
        """Whether this timestep lies more than half of the way back to the start."""
        if value is None:
            return False
        if self.first is None or self.last is None:
            self.first = self.last = value
            return False
        covered = self.last - self.first
        jumped = abs(covered) > 0 and (value - self.last) / covered < -0.5
        self.last = value
        if jumped:
            self.first = value
        return jumped
