"""What makes a scheduler of FireFlow, its siblings and their inverses: calls between edges, float32 states, re-basing.

The classes here come before `FewstepScheduler` in the bases of the scheduler classes and change four things of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from .continuous import OBELM, AdamsBashforth, FireFlow, Midpoint, UniInv
from .continuous.fireflow import warm_start
from .core.grid import Grid
from .core.method import Method, State
from .core.process import Node
from .inversion import check_clean_end, check_undoable

if TYPE_CHECKING:
    from .schedulers import FewstepScheduler as _Host
else:
    _Host = object


@dataclass(frozen=True)
class Beginning:
    """What a run goes on from: edges, sample at the second call, state, and the latents' dtype if it is a half one."""

    edges: Grid
    sample: torch.Tensor
    state: State
    rounding: torch.dtype | None


class StagedScheduler(_Host):
    """Every network call is an entry of `timesteps`; the number of steps is that of the intervals.

    `sigmas[i]` belongs to `timesteps[i]`, and the sample that a pipeline carries (and shows to a callback) is the one
    at that noise level, which for FireFlow is a middle; at the end it is the sample at the last edge. `edges` is the
    grid of the intervals.

    In half precision the sample is kept in float32 beside the rounded one that the pipeline gets. A pipeline that
    changes its latents between two steps (a callback, the blend of inpainting) changes the float32 sample by the same
    difference.

    A run that starts in the middle (image to image) begins at the sample and the noise level of its first call. Where
    `strength` skips a share of the steps, FireFlow makes one call more than Euler does and begins half an interval
    before it.
    """

    #: What a pipeline multiplies a number of steps by for a place in `timesteps`. A pipeline that passes sigmas or
    #: timesteps takes the length of `timesteps` for the number of steps, so that it is 1 there.
    order: int = 1
    _pending: Beginning | None = None
    _begun: Beginning | None = None
    _refused: ClassVar[tuple[tuple[str, Any, str], ...]] = (
        ("stochastic_sampling", True, "stochastic flow sampling"),
        ("timestep_type", "continuous", "continuous EDM timesteps on a discrete schedule"),
    )

    @property
    def edges(self) -> Grid:
        """The grid of intervals, in order of travel."""
        if self._grid is None:
            raise ValueError("call set_timesteps first: the edges of a run are not known before it")
        return self._grid

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
        sigmas: Sequence[float] | torch.Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Place the edges of the next run, and the network calls in and between them.

        Args:
            num_inference_steps: number of intervals; FireFlow makes one network call more, the midpoint rule twice as
                many.
            device: where `timesteps` shall live. `sigmas` stay on the host.
            timesteps, sigmas: one's own list of edges, without the last.
            mu: dynamic shift of a flow model.

        Raises:
            ValueError: as `FewstepScheduler.set_timesteps`.
        """
        self._begun, self._pending = self._pending, None
        self._left_out = 0 if self._begun is None else 1
        super().set_timesteps(num_inference_steps, device, timesteps, sigmas, mu)
        self.order = self.method.spec.calls if timesteps is None and sigmas is None else 1

    def resume(self, inverse: StagedScheduler) -> torch.Tensor:
        """Make the next run go on from the end of an inversion by the same method; it makes one network call less.

        With O-BELM the run retraces the states of the inversion and, under the same prompt, returns to the picture to
        rounding. With FireFlow and the midpoint rule the last slope of the inversion takes the place of the first call.

        Args:
            inverse: the scheduler that the inversion was made with, in a pipeline or by hand, as it left it.

        Returns:
            The latents to start the run with, in place of those that the inversion returned.

        Raises:
            ValueError: a scheduler of another method or direction, an inversion that has not ended. The next
                `set_timesteps` raises where its edges are not those of the inversion.
        """
        able = (FireFlow, Midpoint, OBELM)
        if not isinstance(inverse, InverseScheduler) or not isinstance(self.method, able):
            raise ValueError(
                "only FireFlowScheduler, MidpointScheduler and OBELMScheduler go on from an inversion, and from the "
                f"inverse of their own name; this is {type(self).__name__} from {type(inverse).__name__}"
            )
        if inverse.method != self.method:
            raise ValueError(f"{type(self).__name__} cannot go on from an inversion by {inverse.method.name}")
        if inverse._plan is None or inverse.step_index != len(inverse.timesteps) or inverse._last is None:
            raise ValueError("the inversion has not been made, or has not come to its end")
        edges, end, state = inverse.edges.reversed(), inverse._last, inverse._state
        if isinstance(self.method, OBELM):
            if edges.calls == 1:
                raise ValueError("an inversion of one step leaves nothing to call the network for: take two or more")
            sample, state = state[0], (end,)
        else:
            sample = warm_start(self.process, edges, end, state[0])
        self._pending = Beginning(edges, sample, state, inverse._rounding)
        return sample if inverse._rounding is None else sample.to(inverse._rounding)

    def _travelled(self, grid: Grid) -> tuple[Grid, tuple[Node, ...]]:
        grid, _ = super()._travelled(grid)
        if self._begun is not None:
            levels = [[node.sigma for node in edges.nodes] for edges in (grid, self._begun.edges)]
            same = len(levels[0]) == len(levels[1])
            if not same or not all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(*levels, strict=True)):
                raise ValueError("the run must go over the edges of the inversion that it goes on from")
        calls = tuple(stage.node for stage in self.method.stages(self.process, grid))
        return grid, calls[self._left_out :]

    def _restart(self) -> None:
        super()._restart()
        self._last: torch.Tensor | None = None
        self._rounding: torch.dtype | None = None
        if self._begun is not None:
            self._state = self._begun.state
            self._last, self._rounding = self._begun.sample, self._begun.rounding

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        per_token_timesteps: torch.Tensor | None = None,
    ) -> Any:
        """Go from the noise level of `timestep` to that of the next network call; see `FewstepScheduler.step`."""
        if per_token_timesteps is not None:
            raise ValueError(f"{type(self).__name__} has one noise level a sample and takes no per_token_timesteps")
        return super().step(model_output, timestep, sample, generator, return_dict)

    def _received(self, sample: torch.Tensor) -> torch.Tensor:
        working = super()._received(sample)
        last = self._last
        if last is None or self._rounding is None or last.shape != working.shape:
            return working
        return last + (working - last.to(self._rounding))

    def _returned(self, result: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        self._last, self._rounding = result, dtype if dtype in (torch.float16, torch.bfloat16) else None
        return super()._returned(result, dtype)


class InverseScheduler(_Host):
    """The run goes from clean data to noise, over the edges that the same options place for sampling.

    `timesteps` rises, from clean data on. Set it in a pipeline of any kind, pass the encoded picture as `latents` (for
    Flux packed), the prompt that describes it, no guidance (Flux: ``guidance_scale=1``) and
    ``output_type="latent"``: what comes back is the noise. Sampling from it undoes the inversion as well as the method
    can; keep a method's own sampler for that (Euler's for Uni-Inv). `StagedScheduler.resume` goes on from the end of an
    inversion, exactly with O-BELM.
    """

    def _travelled(self, grid: Grid) -> tuple[Grid, tuple[Node, ...]]:
        grid = grid.reversed() if grid.descending else grid
        check_clean_end(self.process, grid)
        if isinstance(self.method, OBELM):
            check_undoable(self.process, grid)
        return super()._travelled(grid)


#: Name of every inverse class, its method, and fields that differ from the method's defaults.
INVERSE_CLASSES: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "EulerInverseScheduler": (AdamsBashforth, {"order": 1}),
    "FireFlowInverseScheduler": (FireFlow, {}),
    "MidpointInverseScheduler": (Midpoint, {}),
    "OBELMInverseScheduler": (OBELM, {}),
    "UniInvInverseScheduler": (UniInv, {}),
}
