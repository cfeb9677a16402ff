"""Put the cache on a pipeline or on a bare denoiser, take it off, and ask what it did."""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .adams_bashforth import planned_mask
from .config import ABCacheConfig
from .hook import hook_of, install, uninstall
from .lane import RunPlan
from .session import Session

DENOISERS = ("unet", "transformer", "transformer_2")
_SIDES = ("controlnet",)

#: Samplers of distilled models: they noise the sample anew in every step, and have few of them.
_DISTILLED = re.compile(r"LCM|TCD|SCM|CMStochastic")
_STOCHASTIC = re.compile(
    r"Ancestral|SDE|Sde|DDPM|UnCLIP|RePaint|KarrasVe|SASolver|CosineDPM|Amused|VQDiffusion|Wuerstchen"
)
_STRONG_GUIDANCE, _WIDE_INTERVAL = 3.0, 5


def check_scheduler(scheduler: Any, force: bool = False) -> None:
    """Refuse a sampler whose outputs cannot be extrapolated.

    Raises:
        ValueError: it is the sampler of a distilled model, or draws noise in every step and `force` is False.
    """
    name = type(scheduler).__name__
    config = getattr(scheduler, "config", {})
    if _DISTILLED.search(name):
        raise ValueError(
            f"{name} is the sampler of a distilled model and noises the sample anew in every step, so that no output "
            "follows from those before; use the model without a cache"
        )
    spec = getattr(getattr(scheduler, "method", None), "spec", None)
    noisy = (
        _STOCHASTIC.search(name)
        or "sde" in str(config.get("algorithm_type", "")).lower()
        or config.get("stochastic_sampling")
        or getattr(spec, "stochastic", False)
    )
    if noisy and not force:
        raise ValueError(
            f"{name} draws noise in every step, which breaks the extrapolation of the network's outputs; use a "
            "deterministic sampler such as ddim or dpm++2m, interval 1, or force=True to see for yourself"
        )


class SchedulerClock:
    """N and the coordinates of the run at hand, from a pipeline's scheduler. Holds the pipeline weakly."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = weakref.ref(pipe)

    def run(self) -> Any:
        """The timesteps that were set for the run at hand: a new object for every run."""
        scheduler = getattr(self._pipe(), "scheduler", None)
        if getattr(scheduler, "num_inference_steps", None) is None:
            return None
        return getattr(scheduler, "timesteps", None)

    def plan(self, timestep: float | None) -> RunPlan:
        """Calls from this timestep to the end; of the first of two experts, to where the second takes over."""
        pipe = self._pipe()
        scheduler = getattr(pipe, "scheduler", None)
        values = _floats(getattr(scheduler, "timesteps", None))
        if not values:
            return RunPlan()
        found = _place(values, timestep)
        start = found if found is not None else int(getattr(scheduler, "begin_index", None) or 0)
        left = values[start:]
        boundary = getattr(getattr(pipe, "config", None), "boundary_ratio", None)
        if boundary is not None and getattr(pipe, "transformer_2", None) is not None:
            limit = boundary * scheduler.config.get("num_train_timesteps", 1000)  # type: ignore[union-attr]
            if left[0] >= limit:
                left = [value for value in left if value >= limit]
        sigmas = _floats(getattr(scheduler, "sigmas", None))[start : start + len(left)]
        return RunPlan(len(left), left, sigmas)


def _floats(values: Any) -> list[float]:
    if isinstance(values, torch.Tensor):
        return [float(value) for value in values.tolist()]
    try:
        return [float(value) for value in values]
    except TypeError:
        return []


def _place(values: list[float], timestep: float | None) -> int | None:
    """Where a timestep is among those of the scheduler; models of flows get it divided by 1000."""
    for scale in (1.0, 1000.0):
        for i, value in enumerate(values):
            if timestep is not None and abs(value - timestep * scale) <= 1e-3 * max(1.0, abs(value)):
                return i
    return None


def denoisers_of(target: Any) -> dict[str, nn.Module]:
    """The denoisers of a pipeline by name, or a module itself under the name ``denoiser``.

    Raises:
        TypeError: neither a module nor a pipeline with a denoiser.
    """
    if isinstance(target, nn.Module):
        return {"denoiser": target}
    found = {n: m for n in DENOISERS if isinstance(m := getattr(target, n, None), nn.Module)}
    if not found:
        raise TypeError(
            f"a cache goes on a torch module or on a pipeline with one of {', '.join(DENOISERS)}; "
            f"{type(target).__name__} is neither"
        )
    return found


def _sides(target: Any) -> dict[str, nn.Module]:
    if isinstance(target, nn.Module):
        return {}
    return {n: m for n in _SIDES if isinstance(m := getattr(target, n, None), nn.Module)}


class _Advice:
    """Checks the sampler at every run, and warns once where fewer steps without a cache would be the better deal."""

    def __init__(self, config: ABCacheConfig, pipe: Any, clock: SchedulerClock) -> None:
        self.config, self.clock = config, clock
        self._pipe = weakref.ref(pipe)
        self._seen: Any = None
        self._said: set[str] = set()

    def __call__(self) -> None:
        run = self.clock.run()
        if run is None or run is self._seen:
            return
        pipe: Any = self._pipe()
        if self.config.interval > 1 or self.config.compute_mask is not None:
            check_scheduler(pipe.scheduler, self.config.force)
        self._seen = run
        calls = self.config.num_inference_steps or len(run)
        if self.config.interval > 1 and all(planned_mask(self.config, calls)):
            self._say(
                f"a run of {calls} calls leaves the cache nothing to skip: {self.config.warmup_steps} are made at the "
                f"start and {self.config.tail_steps} at the end"
            )
        guided = getattr(pipe, "do_classifier_free_guidance", False)
        scale = getattr(pipe, "guidance_scale", None) if guided else None
        strong = isinstance(scale, int | float) and scale >= _STRONG_GUIDANCE
        if strong and self.config.compute_mask is None and self.config.interval >= _WIDE_INTERVAL:
            self._say(
                f"at guidance {scale:g} an interval of {self.config.interval} is worse than as many steps as it makes "
                "calls, without a cache; use an interval of 2 or 3, or fewer steps"
            )

    def _say(self, sentence: str) -> None:
        kind = sentence[:12]
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(sentence, stacklevel=2)


def _session(target: Any, config: ABCacheConfig) -> Session:
    if not isinstance(config, ABCacheConfig):
        raise TypeError(f"the settings of the cache must be an ABCacheConfig, got {type(config).__name__}")
    modules = denoisers_of(target)
    if isinstance(target, nn.Module):
        return Session(config, modules, None, lambda: None)
    scheduler = getattr(target, "scheduler", None)
    if scheduler is not None and (config.interval > 1 or config.compute_mask is not None):
        check_scheduler(scheduler, config.force)
    clock = SchedulerClock(target)
    return Session(config, modules, clock, _Advice(config, target, clock))


def _settings(config: ABCacheConfig | None, fields: Mapping[str, Any]) -> ABCacheConfig:
    if config is not None and fields:
        raise TypeError(f"give an ABCacheConfig or its fields, not both: {', '.join(fields)}")
    return config if config is not None else ABCacheConfig(**fields)


def apply_ab_cache(target: Any, config: ABCacheConfig | None = None, **fields: Any) -> None:
    """Put the cache on a denoiser or on all denoisers of a pipeline, in every thread, until `remove_ab_cache`.

    On a pipeline it reads the number of calls from the scheduler at every run, knows a new run when it sees one, lets
    a ControlNet rest with the denoiser, and refuses samplers that it would break. On a bare module give
    `num_inference_steps` if calls at the end shall be made, and know that the timestep is read at every call.

    Args:
        target: a torch module, with or without diffusers' `CacheMixin`, or a pipeline.
        config: the settings, or their `fields` by name.

    Raises:
        ValueError: there is a cache already, a setting out of range, or a sampler that it would break.
    """
    install(_session(target, _settings(config, fields)), _sides(target), this_thread=False)


def remove_ab_cache(target: Any) -> None:
    """Take the cache off; the modules are then as they were. Nothing happens where there is none."""
    uninstall(denoisers_of(target), _sides(target), this_thread=False)


@contextmanager
def ab_cache(target: Any, config: ABCacheConfig | None = None, **fields: Any) -> Iterator[Session]:
    """The cache while this block lasts, in this thread alone: ``with ab_cache(pipe, order=2, interval=3) as cache:``.

    Other threads may run the same denoisers meanwhile, without a cache or with one of their own. The session that it
    gives answers `stats()` also after the block.
    """
    session = _session(target, _settings(config, fields))
    sides = _sides(target)
    install(session, sides, this_thread=True)
    try:
        yield session
    finally:
        uninstall(session.modules, sides, this_thread=True)


def _sessions(target: Any) -> list[Session]:
    found = []
    for module in denoisers_of(target).values():
        hook = hook_of(module)
        session = hook.session() if hook is not None else None
        if session is None:
            raise ValueError(f"{type(module).__name__} has no AB-Cache in this thread")
        if session[0] not in found:
            found.append(session[0])
    return found


def reset_ab_cache(target: Any) -> None:
    """Forget the kept outputs, in all threads: the prompt or the weights have changed in the middle of a run.

    The count of calls goes on, and the next calls are made as at the start of a run.
    """
    for session in _sessions(target):
        for _, lane in session.lanes():
            lane.drop()


def ab_cache_stats(target: Any) -> dict[str, Any]:
    """What the cache did: ``calls``, ``real`` and ``skipped`` in all runs, and the last run under ``denoisers``.

    ``denoisers`` maps the name of a denoiser to its guidance branches by name, each with ``calls``, ``real``,
    ``skipped`` and ``mask``: a bool for every call of the last run, True where it was made.
    """
    return _sessions(target)[0].stats()
