"""One thread's run of one denoiser under the cache: it decides, keeps and predicts, and needs torch alone."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from .adams_bashforth import Branch
from .branches import MOST_BRANCHES, Jumps, Slots, needs_gradient, sample_and_timestep, signature, timestep_value
from .config import ABCacheConfig


@dataclass(frozen=True)
class RunPlan:
    """What is known of a run at its first call: N, and the coordinates of its calls as far as they are known."""

    calls: int | None = None
    timesteps: Sequence[float] = ()
    sigmas: Sequence[float] = ()


class Clock(Protocol):
    """Where a run stands, as its sampler knows it."""

    def run(self) -> Any:
        """An object of its own for every run; None where there is no sampler to ask."""

    def plan(self, timestep: float | None) -> RunPlan:
        """The rest of the run, from the call at `timestep` on."""


@dataclass
class _Answer:
    """How to build an output around predicted tensors: the newest real one without its floating-point tensors."""

    leaves: list[Any]
    floats: list[int]
    dtypes: list[torch.dtype]
    spec: Any

    @classmethod
    def split(cls, output: Any) -> tuple[_Answer, list[torch.Tensor]]:
        leaves, spec = pytree.tree_flatten(output)
        floats = [i for i, leaf in enumerate(leaves) if _is_number(leaf)]
        tensors = [leaves[i] for i in floats]
        rest = [None if i in floats else leaf for i, leaf in enumerate(leaves)]
        return cls(rest, floats, [t.dtype for t in tensors], spec), tensors

    def build(self, tensors: Sequence[torch.Tensor]) -> Any:
        leaves = list(self.leaves)
        for i, tensor, dtype in zip(self.floats, tensors, self.dtypes, strict=True):
            leaves[i] = tensor.to(dtype)
        return pytree.tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class Call:
    """One call of a denoiser: its branch (none: not to be kept), its coordinate, and the answer if it has one."""

    key: str = ""
    coordinate: float | None = None
    answered: bool = False
    answer: Any = None


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())


class Lane:
    """The calls that one thread makes of one denoiser."""

    def __init__(self, config: ABCacheConfig, first: str, clock: Clock | None, report: Callable[[Lane], None]) -> None:
        self.config = config
        self.first = first  # name of the denoiser's first parameter
        self.clock = clock
        self.report = report  # told of every run that is over
        self.side: dict[Any, Any] = {}  # last outputs of networks that only serve this one
        self._over: Any = None  # run of the sampler that is over
        self._fresh(None)

    def _fresh(self, run: Any) -> None:
        self.branches: dict[str, Branch] = {}
        self.answers: dict[str, _Answer] = {}
        self.signatures: dict[str, tuple[Any, ...]] = {}
        self.slots, self.jumps = Slots(), Jumps()
        self.plan: RunPlan | None = None
        self.side.clear()
        self._run = run

    def finish(self) -> None:
        """The run is over, or is to be treated as if it were: report it and drop everything that it left."""
        if self.branches:
            self.report(self)
        self._over = self._run if self._run is not None else self._over
        self._fresh(None)

    def drop(self) -> None:
        """Forget the outputs and warm up again, in the middle of a run: the prompt or the weights have changed."""
        for branch in self.branches.values():
            branch.restart()
        self.side.clear()

    def meet(self, timestep: Any) -> None:
        """Notice a new run before its first call is counted."""
        run = self.clock.run() if self.clock is not None else None
        if run is not None and run is not self._over:
            if run is not self._run:
                if self.branches:
                    self.report(self)
                self._fresh(run)
        elif self.jumps.back(timestep_value(timestep)) and self.branches:
            self.finish()
            self.jumps.back(timestep_value(timestep))

    def skips_next(self) -> bool:
        """Whether every branch will answer its next call without the network."""
        return bool(self.branches) and not any(branch.next_is_real() for branch in self.branches.values())

    def _branch(self, key: str, timestep: Any, context: Any) -> Branch:
        found = self.branches.get(key)
        if found is not None and found.calls is not None and len(found.mask) >= found.calls:
            run, slots, jumps = self._run, self.slots, self.jumps
            self.finish()
            self._run, self.slots, self.jumps, found = run, slots, jumps, None
        if found is None:
            if self.plan is None:
                live = self.clock is not None and self._run is not None
                self.plan = self.clock.plan(timestep_value(timestep)) if live and self.clock else RunPlan()
            calls = self.config.num_inference_steps or self.plan.calls
            if calls is None:
                calls = getattr(context, "num_inference_steps", None)
            found = self.branches[key] = Branch(self.config, calls)
        return found

    def _coordinate(self, index: int, timestep: Any, context: Any) -> float | None:
        kind = self.config.coordinate
        if kind == "index" or self.plan is None:
            return None
        known = self.plan.timesteps if kind == "timestep" else self.plan.sigmas
        if index < len(known):
            return known[index]
        if kind == "timestep":
            return timestep_value(timestep)
        value = getattr(context, "sigma", None)
        return None if value is None else float(value)

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any], context: Any = None) -> Call:
        """Count a call of the denoiser, and answer it if the network is not needed."""
        sample, timestep = sample_and_timestep(args, kwargs, self.first)
        if not sample:
            return Call()
        self.meet(timestep)
        slot = self.slots.next(sample, timestep) if self.config.detect_branches else 0
        name = getattr(context, "name", context)
        key = str(name) if name is not None else f"branch {slot}"
        if name is None and slot >= MOST_BRANCHES:
            return Call()
        branch = self._branch(key, timestep, context)
        seen = signature(sample)
        if self.signatures.setdefault(key, seen) != seen:
            branch.restart()
            self.signatures[key] = seen
        real = branch.advance(must=key not in self.answers or needs_gradient(args, kwargs))
        coordinate = self._coordinate(len(branch.mask) - 1, timestep, context)
        if real:
            return Call(key, coordinate)
        return Call(key, coordinate, True, self.answers[key].build(branch.predict(coordinate)))

    def end(self, call: Call, output: Any) -> None:
        """Keep what the network gave, unless somebody may differentiate through it."""
        branch = self.branches.get(call.key)
        if branch is None:
            return
        answer, tensors = _Answer.split(output)
        if tensors and not any(t.requires_grad for t in tensors):
            branch.push(tensors, call.coordinate)
            self.answers[call.key] = answer

    def memory(self) -> list[torch.Tensor]:
        """Every tensor that the histories keep."""
        return [tensor for branch in self.branches.values() for tensor in branch.history.tensors()]


class PerThread:
    """One value a thread, made when it is first asked for, gone with its thread; all that live can be visited."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._local = threading.local()
        self._all: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def get(self) -> Any:
        if not hasattr(self._local, "value"):
            value = self._make()
            with self._lock:
                self._all.add(value)
            self._local.value = value
        return self._local.value

    def all(self) -> list[Any]:
        with self._lock:
            return list(self._all)
