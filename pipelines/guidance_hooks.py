"""The hooks of guidance: what happens before and after a call of a network whose outputs a pipeline combines."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch.utils._pytree import tree_flatten, tree_map

from fewstep.samplers import Flow, GuidanceInterval, Process
from fewstep.samplers.guidance import optimised_scale, zero_velocity

from .guidance_layout import Layout

#: Arguments of networks whose tensors have one row for every row of the sample.
_PER_SAMPLE = (
    *("sample", "hidden_states", "timestep", "timestep_cond", "class_labels", "added_cond_kwargs"),
    *("encoder_hidden_states", "encoder_attention_mask", "attention_mask", "pooled_projections"),
    *("down_block_additional_residuals", "mid_block_additional_residual", "down_intrablock_additional_residuals"),
    "block_controlnet_hidden_states",
)


@dataclass(frozen=True)
class GuidanceSettings:
    """A mode of `GUIDANCE_MODES`, the noise levels with guidance (None is all), and the steps of zero velocity."""

    mode: str = "cfg"
    interval: GuidanceInterval | None = None
    zero_init_steps: int = 0

    def record(self) -> dict[str, Any]:
        """As JSON knows it: an interval is "LO,HI"."""
        interval = None if self.interval is None else str(self.interval)
        return {"guidance_mode": self.mode, "guidance_interval": interval, "zero_init_steps": self.zero_init_steps}


@dataclass
class GuidanceCounts:
    """What guidance did in a run: steps with two predictions, calls at half the batch, calls that were left out."""

    guided: int = 0
    halved: int = 0
    skipped: int = 0


@dataclass
class _Run:
    """State of one thread's run; everything but the counts is forgotten when a run begins."""

    level: float | None = None
    index: int = 0
    rows: int = 0
    doubled: bool = False
    cached: bool = False
    sample: Any = None
    cond: Any = None
    role: str = ""
    narrowed: bool = False
    skip: bool = False
    possible: bool = True
    counts: GuidanceCounts = field(default_factory=GuidanceCounts)

    def forget_pair(self, *_: Any) -> None:
        self.sample = self.cond = None


class Guidance:
    """The hooks of one setting; they hold no tensor once a run is over, and a run of another thread never sees them."""

    def __init__(self, settings: GuidanceSettings, layout: Layout, process: Process | None) -> None:
        self.settings, self.layout, self.process = settings, layout, process
        self.whole_timesteps = False  # a flow's network is told sigma, or sigma times the training steps
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _local=threading.local())

    @property
    def run(self) -> _Run:
        """The run of the calling thread."""
        if not hasattr(self._local, "run"):
            self._local.run = _Run()
        return self._local.run

    def begin(self, possible: bool = True) -> GuidanceCounts:
        """Forget every run of this thread, and count from 0."""
        self._local.run = _Run(possible=possible)
        return self._local.run.counts

    def reset(self, *_: Any) -> None:
        """A run begins in this thread."""
        self._local.run = _Run(counts=self.run.counts, possible=self.run.possible)

    def _level(self, timestep: torch.Tensor) -> float:
        """The noise level of a call, in units of the process; without a known process the timestep."""
        time = float(timestep.min() if self.layout.reversed_time else timestep.max())
        if not isinstance(self.process, Flow):
            if self.process is None:
                return time
            last = getattr(self.process, "alphas_cumprod", None)
            time = time if last is None else min(max(time, 0.0), len(last) - 1)
            return self.process.sigma_of(self.process.at(time))
        self.whole_timesteps = self.whole_timesteps or time > 1
        sigma = time / self.process.time_scale if self.whole_timesteps else time
        return min(max(1 - sigma if self.layout.reversed_time else sigma, 0.0), 1.0)

    def _outside(self) -> bool:
        interval = self.settings.interval
        return interval is not None and self.run.level is not None and self.run.level not in interval

    def _still(self) -> bool:
        return self.run.index < self.settings.zero_init_steps

    def _advance(self, module: torch.nn.Module, x: torch.Tensor, timestep: torch.Tensor) -> None:
        """Find the place in the run: a noise level above the last one begins another."""
        run, level = self.run, self._level(timestep)
        anew = run.level is None or level > run.level
        rounded = timestep.dtype in (torch.float16, torch.bfloat16)  # two steps can have one rounded timestep
        if anew:
            run.index = 0
        elif run.level is not None and (level < run.level or rounded):
            run.index += 1
        if anew or level == run.level or len(x) != run.rows:
            run.cached = _has_cache(module)
            run.doubled = self.layout.batched and run.possible and _is_doubled(module, x)
        run.level, run.rows = level, len(x)

    @torch.compiler.disable
    def before(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a call of the network: where in the run it is, and whether its unconditional half is needed."""
        x = _sample_of(args, kwargs)
        timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        run = self.run
        run.role, run.narrowed, run.skip = "", False, False
        if not isinstance(x, torch.Tensor) or timestep is None or not len(x):
            return None
        timestep = torch.as_tensor(timestep)
        if not self.layout.batched:
            if run.sample is not None and run.sample() is x:
                run.role = "uncond"
                run.skip = self._outside() and not self._still() and not run.cached
            else:
                run.forget_pair()
                self._advance(module, x, timestep)
                run.role, run.sample = "cond", weakref.ref(x, run.forget_pair)
            return None
        self._advance(module, x, timestep)
        if run.doubled:
            run.role = "both"
            if self._outside() and not self._still() and not run.cached:
                half = _second_half(len(x), args, kwargs)
                run.narrowed = half is not None
                return half
        return None

    @torch.compiler.disable
    def after(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After a call of the network: what the pipeline shall see of it."""
        run, role = self.run, self.run.role
        run.role = ""
        if role == "cond":
            # what becomes a standstill once the second call comes must not be a tensor that a cache keeps
            run.cond = _with_tensor(output, _tensor_of(output).clone()) if self._still() else output
            return run.cond
        if role not in ("uncond", "both"):
            return None
        run.counts.guided += 1
        found = _tensor_of(output)
        x = _sample_of(args, kwargs)
        if run.narrowed:
            run.counts.halved += 1
            return _with_tensor(output, torch.cat([found, found]))
        if role == "both":
            uncond, cond = found.chunk(2)
            x = x.chunk(2)[1]
            uncond, cond = self._replaced(uncond, cond, x)
            return _with_tensor(output, torch.cat([uncond, cond]))
        cond = _tensor_of(run.cond)
        run.forget_pair()
        uncond, replaced = self._replaced(found, cond, x)
        if replaced is not cond:
            cond.copy_(replaced)  # the pipeline has it already: this is the tensor that it holds
        return _with_tensor(output, uncond)

    def _replaced(self, uncond: torch.Tensor, cond: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond) that make the pipeline's own arithmetic compute what is wanted."""
        learned = cond.ndim == 4 and x.ndim == 4 and cond.shape[1] == 2 * x.shape[1]  # a variance beside the noise
        channels = x.shape[1] if learned else cond.shape[1]
        if self._still() and self.process is not None:
            assert self.run.level is not None
            node = self.process.at_sigma(self.run.level)
            still = cond.clone()
            still[:, :channels] = zero_velocity(self.process, node, x[:, :channels]).to(cond.dtype)
            return still, still
        if self._outside():
            return cond, cond
        if self.settings.mode == "cfg-zero":
            return optimised_scale(cond[:, :channels], uncond[:, :channels]) * uncond, cond
        return uncond, cond


def _sample_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))


def _tensor_of(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple | list | dict) else output


def _with_tensor(output: Any, tensor: torch.Tensor) -> Any:
    """The output of a network in its container, with another first tensor."""
    if isinstance(output, dict):  # diffusers' outputs are dictionaries whose first entry is the prediction
        return type(output)(**{**output, next(iter(output)): tensor})
    return type(output)((tensor, *output[1:])) if isinstance(output, tuple | list) else tensor


def _is_doubled(module: Any, x: torch.Tensor) -> bool:
    """Whether a batch is the same samples twice. Channels beside the latents (masks, pictures) are not compared."""
    if len(x) % 2:
        return False
    channels = getattr(module, "config", {}).get("out_channels")
    if x.ndim == 4 and isinstance(channels, int) and 0 < channels < x.shape[1]:
        x = x[:, :channels]
    first, second = x.chunk(2)
    return torch.equal(first, second)


def _has_cache(module: torch.nn.Module) -> bool:
    """Whether a cache keeps outputs of this network or its blocks: it has to see every call, at the same batch."""
    if getattr(module, "is_cache_enabled", False):
        return True
    registries = [found for part in module.modules() if (found := vars(part).get("_diffusers_hook")) is not None]
    return any(hook._is_stateful for registry in registries for hook in registry.hooks.values())


def _second_half(rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a doubled batch for its second half; None if it is not known which of them belong to samples."""

    def half(leaf: Any) -> Any:
        per_sample = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == rows
        return leaf[rows // 2 :] if per_sample else leaf

    for name, value in kwargs.items():
        if name not in _PER_SAMPLE and any(half(leaf) is not leaf for leaf in tree_flatten(value)[0]):
            return None
    return tuple(tree_map(half, args)), {n: tree_map(half, v) if n in _PER_SAMPLE else v for n, v in kwargs.items()}


class Skip(ModelHook):
    """Leaves out the unconditional call where guidance takes the conditional output in its place."""

    def __init__(self, guidance: Guidance) -> None:
        super().__init__()
        self.guidance = guidance

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        run = self.guidance.run
        if run.skip and run.cond is not None:
            run.skip = False
            run.counts.skipped += 1
            return run.cond
        forward: Any = self.fn_ref.original_forward
        return forward(*args, **kwargs)
