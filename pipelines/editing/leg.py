"""One leg of a round trip: the network as a solver sees it, with injection, guidance and masks around every call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from .feature_store import FeatureStore
from .injection import FeatureInjector
from .models import Condition, EditModel
from .strategy import Injection
from .trajectory import MaskBlend, PathRecorder

#: Told (calls done, calls in all) after every network call of a solver.
Progress = Callable[[int, int], None]


class Leg:
    """A denoiser ``(x, timestep) -> velocity`` for the functions `invert` and `regenerate` of the samplers.

    Attributes:
        calls: forward passes of the network; the two branches of classifier-free guidance are two.
        inputs: what the network saw, by (interval, kind), where `keep_inputs` is on.
    """

    def __init__(
        self,
        model: EditModel,
        condition: Condition,
        size: tuple[int, int],
        *,
        injector: FeatureInjector | None = None,
        mode: str = "off",
        window: int = 0,
        recorder: PathRecorder | None = None,
        blend: MaskBlend | None = None,
        keep_inputs: bool = False,
        progress: Progress | None = None,
        total: int = 0,
    ) -> None:
        self.model, self.condition, self.size = model, condition, size
        self.injector, self.mode, self.window = injector, mode, window
        self.recorder, self.blend, self.keep_inputs = recorder, blend, keep_inputs
        self.progress, self.total = progress, total
        self.calls = self._done = 0
        self.inputs: dict[tuple[int, str], torch.Tensor] = {}
        self._stage: Any = None

    def on_call(self, i: int, stage: Any) -> None:
        """What the next call is."""
        self._stage = stage

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        stage = self._stage
        interval, kind = interval_of(stage)
        if self.keep_inputs:
            self.inputs[interval, kind] = x
        velocity = self.evaluate(x, stage.node.sigma, interval, kind)
        if self.recorder is not None:
            self.recorder.see(stage, x, velocity)
        if self.blend is not None:
            velocity = self.blend.blend(stage, x, velocity)
        self._done += 1
        if self.progress is not None:
            self.progress(self._done, self.total)
        return velocity

    def evaluate(self, x: torch.Tensor, sigma: float, interval: int = 0, kind: str = "edge") -> torch.Tensor:
        """The guided velocity at `x`."""
        condition = self.condition
        told = self._branch(x, sigma, interval, kind, "cond")
        if condition.uncond is None:
            return told
        untold = self._branch(x, sigma, interval, kind, "uncond")
        return untold + condition.guidance * (told - untold)

    def _branch(self, x: torch.Tensor, sigma: float, interval: int, kind: str, branch: str) -> torch.Tensor:
        if self.injector is not None:
            self.injector.at(self.mode if interval < self.window else "off", interval, kind, branch)
        told = self.condition.cond if branch == "cond" else self.condition.uncond
        assert told is not None
        self.calls += 1
        return self.model.velocity(x, sigma, told, self.size, self.condition.guidance)


def interval_of(stage: Any) -> tuple[int, str]:
    """(interval from the noise end, kind) of a call; two-step methods number nodes, and never call at the first."""
    return (stage.interval - 1 if stage.kind == "node" else stage.interval), stage.kind


def injector_of(
    stack: ExitStack, model: EditModel, injection: Injection | None, store: FeatureStore, x: torch.Tensor
) -> FeatureInjector | None:
    """Hooks for a run, taken off when `stack` closes; None where nothing is to be injected."""
    if injection is None or not injection.words:
        return None
    from fewstep.samplers.cache.session import compiled

    inside = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.denoiser.modules())
    if inside or compiled(model.denoiser) is not None:
        raise ValueError(
            "features cannot be injected into a compiled network, whose graph knows no hooks; use the pipeline "
            "without torch.compile, or inject nothing (strategy 'none')"
        )
    return stack.enter_context(FeatureInjector(model.blocks(), injection, store, model.image_tokens(x)))
