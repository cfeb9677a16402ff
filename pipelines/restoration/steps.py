"""What happens after every move of a run: the progress bar, the callback in diffusers' manner, and the interrupt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fewstep.samplers.core.registry import nearest
from fewstep.samplers.posterior import Moved, PosteriorPlan

from .tiling import Layout

#: ``callback(pipe, i, t, {"latents": x, "x0": x0}) -> dict``; the sample that it returns takes the place of x.
StepCallback = Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]

#: What a callback may ask for.
TENSOR_INPUTS = ("latents", "x0")


class Interrupted(Exception):
    """A run was stopped from its callback; `estimate` is the clean estimate so far, on the canvas or of a window."""

    def __init__(self, estimate: torch.Tensor) -> None:
        super().__init__("the restoration was interrupted")
        self.estimate = estimate


def callback_inputs(callback: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors for a callback.

    Raises:
        ValueError: a name that there is none of.
    """
    names = tuple(getattr(callback, "tensor_inputs", names))
    for name in names:
        if name not in TENSOR_INPUTS:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {name!r}{nearest(str(name), TENSOR_INPUTS)} Allowed are "
                f"{', '.join(TENSOR_INPUTS)}"
            )
    return names


class StepEnd:
    """The callback of `run_posterior` and its siblings.

    Attributes:
        canvas, finished: what ``msr`` has restored so far, and where.
    """

    def __init__(
        self, pipe: Any, plan: PosteriorPlan, layout: Layout, bar: Any, callback: StepCallback | None, names: Any
    ) -> None:
        self.pipe, self.plan, self.layout, self.bar, self.callback = pipe, plan, layout, bar, callback
        self.names = callback_inputs(callback, names)
        self.done = 0
        self.x0: torch.Tensor | None = None
        self.residuals: list[torch.Tensor] = []
        self.canvas: torch.Tensor | None = None
        self.finished: torch.Tensor | None = None

    def on_window(self, k: int, canvas: torch.Tensor, finished: torch.Tensor) -> None:
        """Window k of ``msr`` is done."""
        self.canvas, self.finished, self.x0 = canvas, finished, None

    def __call__(self, i: int, moved: Moved) -> torch.Tensor | None:
        move = self.plan.moves[self.done % len(self.plan.moves)]
        timestep = self.plan.grid.nodes[move.start].timestep
        self.x0 = self.x0 if moved.x0 is None else moved.x0
        if moved.residual is not None:
            self.residuals.append(moved.residual)
        number, self.done = self.done, self.done + 1
        self.bar.update()
        changed = None
        if self.callback is not None:
            held = {"latents": moved.x, "x0": self.x0}
            said = self.callback(self.pipe, number, timestep, {name: held[name] for name in self.names}) or {}
            found = said.get("latents")
            if found is not None and found is not moved.x:
                changed = self._checked(found, moved.x)
        if self.pipe.interrupt:
            raise Interrupted(moved.x if self.x0 is None else self.x0)
        return changed

    @staticmethod
    def _checked(found: Any, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(found, torch.Tensor) or found.shape != x.shape:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(f"the callback returned latents of {shape}, and the sample has {tuple(x.shape)}")
        return found.to(x)

    def estimate(self, stopped: Interrupted) -> torch.Tensor:
        """The canvas as it is after an interrupt; grey where ``msr`` has not been."""
        if self.layout.mode != "msr":
            return stopped.estimate
        windows = self.layout.windows
        box = list(windows)[(self.done - 1) // len(self.plan.moves)]
        if self.canvas is None or self.finished is None:
            canvas = stopped.estimate.new_zeros((*stopped.estimate.shape[:2], *windows.size))
            box.of(canvas).copy_(stopped.estimate)
            return canvas
        canvas = self.canvas.clone()
        box.of(canvas).copy_(torch.where(box.of(self.finished), box.of(canvas), stopped.estimate))
        return canvas
