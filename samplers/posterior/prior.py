"""The prior: the denoiser as a posterior method sees it, x0 and eps at a noise level, with every evaluation counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core.method import evaluate
from ..core.process import Node, Process
from ..core.run import Denoiser

#: A change of the network's x0 at a noise level: ``hook(x0, node) -> x0``.
Hook = Callable[[torch.Tensor, Node], torch.Tensor]


def turned(x: torch.Tensor, turn: int) -> torch.Tensor:
    """One of the eight turns and mirrorings of a square, 0 to 7; 0 is none, and 4 to 7 swap rows and columns."""
    if turn & 4:
        x = x.transpose(-2, -1)
    sides = [side for side, bit in ((-2, 1), (-1, 2)) if turn & bit]
    return x.flip(sides) if sides else x


def turned_back(x: torch.Tensor, turn: int) -> torch.Tensor:
    """The inverse of `turned`."""
    x = turned(x, turn & 3)
    return x.transpose(-2, -1) if turn & 4 else x


@dataclass(frozen=True)
class Estimate:
    """What the network says at one noise level: the clean sample `x0` and the noise `eps`, each (B, ...).

    `eps` is the network's own; `x0` is after clipping and after the hook, if there are any.
    """

    x0: torch.Tensor
    eps: torch.Tensor


class Traced(Estimate):
    """An estimate that remembers how it was made: x0 can be differentiated with respect to the sample."""

    x: torch.Tensor
    prior: Prior

    def __init__(self, x0: torch.Tensor, eps: torch.Tensor, x: torch.Tensor, prior: Prior) -> None:
        super().__init__(x0, eps)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "prior", prior)

    def pull(self, v: torch.Tensor, keep: bool = False) -> torch.Tensor:
        """J^T v with J = d x0 / d x, one backward evaluation; `keep` if there will be another one."""
        return self._differentiate(self.x0, v, keep)

    def gradient(self, loss: torch.Tensor, keep: bool = False) -> torch.Tensor:
        """d sum(loss) / d x of losses, one a sample, made from `x0` with gradients on; one backward evaluation."""
        return self._differentiate(loss, torch.ones_like(loss), keep)

    def _differentiate(self, output: torch.Tensor, v: torch.Tensor, keep: bool) -> torch.Tensor:
        self.prior.backward += 1
        (found,) = torch.autograd.grad(output, self.x, v.detach(), retain_graph=keep)
        return found


class Prior:
    """A denoiser that is asked for x0 and eps at a node and counts what it is asked.

    Args:
        denoiser: ``denoiser(x, timestep) -> prediction``, as in `core.run`.
        process: says what the prediction means and how the input is scaled.
        clip: clamp x0 to [-1, 1] before anything is done with it.
        before: applied to x0 after the clipping and before the data come in, ``before(x0, node)``: the low-frequency
            constraint of hierarchical restoration, for example.

    Attributes:
        forward: network calls so far.
        backward: vector-Jacobian products through the network so far.
    """

    def __init__(self, denoiser: Denoiser, process: Process, clip: bool = False, before: Hook | None = None) -> None:
        self.denoiser, self.process, self.clip, self.before = denoiser, process, clip, before
        self.forward = self.backward = 0

    def _estimate(self, x: torch.Tensor, node: Node, turn: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        self.forward += 1
        scale = self.process.input_scale(node)
        prediction = turned_back(self.denoiser(turned(x if scale == 1.0 else x * scale, turn), node.timestep), turn)
        if prediction.shape != x.shape:
            raise ValueError(
                f"the network was given a sample of shape {tuple(x.shape)} and returned {tuple(prediction.shape)}"
            )
        prediction = prediction.to(x.dtype)
        x0, eps = evaluate(self.process.x0(node), x, prediction), evaluate(self.process.eps(node), x, prediction)
        if self.clip:
            x0 = x0.clamp(-1, 1)
        return (x0 if self.before is None else self.before(x0, node)), eps

    def __call__(self, x: torch.Tensor, node: Node, turn: int = 0) -> Estimate:
        """x0 and eps without gradients; one network call, which sees the sample turned (`turned`)."""
        with torch.no_grad():
            return Estimate(*self._estimate(x, node, turn))

    def trace(self, x: torch.Tensor, node: Node) -> Traced:
        """x0 and eps with the graph that leads to them; one network call. `eps` comes detached."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            x0, eps = self._estimate(x, node)
        return Traced(x0, eps.detach(), x, self)
