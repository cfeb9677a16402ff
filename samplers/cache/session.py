"""One use of the cache: its settings, a lane for every thread and denoiser, and the count of what was saved."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .config import ABCacheConfig
from .lane import Clock, Lane, PerThread


def compiled(module: nn.Module) -> nn.Module | None:
    """What `torch.compile(module)` wraps, if this is such a wrapper: it hands attributes on to what it wraps."""
    return module._modules.get("_orig_mod")


class Session:
    """One application of the cache to the denoisers of one pipeline, in all threads or in one."""

    def __init__(
        self, config: ABCacheConfig, modules: Mapping[str, nn.Module], clock: Clock | None, started: Callable[[], None]
    ) -> None:
        self.config = config
        self.modules = dict(modules)
        self.started = started
        self._lock = threading.Lock()
        self._made = dict.fromkeys(modules, 0)
        self._skipped = dict.fromkeys(modules, 0)
        self._last: dict[str, dict[str, list[bool]]] = {}
        self._clock = clock
        self._lanes = {name: PerThread(self._maker(name, module)) for name, module in modules.items()}

    def _maker(self, name: str, module: nn.Module) -> Callable[[], Lane]:
        first = next(iter(inspect.signature((compiled(module) or module).forward).parameters), "sample")
        return lambda: Lane(self.config, first, self._clock, lambda lane: self._record(name, lane))

    def lane(self, name: str) -> Lane:
        """This thread's run of a denoiser."""
        return self._lanes[name].get()

    def lanes(self) -> list[tuple[str, Lane]]:
        return [(name, lane) for name, every in self._lanes.items() for lane in every.all()]

    def _record(self, name: str, lane: Lane) -> None:
        masks = {key: list(branch.mask) for key, branch in lane.branches.items()}
        with self._lock:
            self._made[name] += sum(sum(mask) for mask in masks.values())
            self._skipped[name] += sum(len(mask) - sum(mask) for mask in masks.values())
            self._last[name] = masks

    def stats(self) -> dict[str, Any]:
        """See `ab_cache_stats`."""
        with self._lock:
            made, skipped = sum(self._made.values()), sum(self._skipped.values())
            last = dict(self._last)
        for name, lane in self.lanes():
            masks = {key: list(branch.mask) for key, branch in lane.branches.items()}
            if masks:
                last[name] = masks
                made += sum(sum(mask) for mask in masks.values())
                skipped += sum(len(mask) - sum(mask) for mask in masks.values())
        branches = {
            name: {
                key: {"calls": len(mask), "real": sum(mask), "skipped": len(mask) - sum(mask), "mask": mask}
                for key, mask in masks.items()
            }
            for name, masks in last.items()
        }
        return {"calls": made + skipped, "real": made, "skipped": skipped, "denoisers": branches}
