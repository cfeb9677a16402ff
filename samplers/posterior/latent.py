"""Between latents and pictures: the decoder and the encoder as a posterior method sees them, checked and counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .operators.base import LinearOperator
from .problem import Problem


@dataclass(frozen=True)
class CoderCost:
    """Evaluations of a decoder and an encoder, whatever the size of the batch, and backward passes through them.

    One decoding for the residual that `run_posterior` reports at the end is not among them.
    """

    decode: int
    encode: int = 0
    decode_backward: int = 0
    encode_backward: int = 0


class Counted:
    """A decoder or an encoder that counts: wrap it before a run, read `forward` and `backward` after.

    Attributes:
        forward: calls so far.
        backward: vector-Jacobian products through their results so far.
    """

    def __init__(self, inner: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.inner = inner
        self.forward = self.backward = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.forward += 1
        result = self.inner(x)
        if result.requires_grad:
            result = result.view_as(result)  # the hook belongs to this call, whatever else the result is used for
            result.register_hook(self._count)
        return result

    def _count(self, gradient: torch.Tensor) -> None:
        self.backward += 1


def decoded(problem: Problem, x0: torch.Tensor) -> torch.Tensor:
    """D(x0) in the dtype of the measurement, (B, C, H, W).

    Raises:
        ValueError: a gradient is wanted and the decoder does not let it through.
    """
    picture = problem.picture(x0).to(problem.y.dtype)
    if torch.is_grad_enabled() and x0.requires_grad and not picture.requires_grad:
        raise ValueError(
            "this method differentiates through the decoder, and its result has no gradient; a decoder must not run "
            "under no_grad or inference_mode"
        )
    return picture


def encoded(problem: Problem, picture: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """E(picture), the mean of the latents, in the shape and dtype of `like`, (B, ...).

    Raises:
        ValueError: there is no encoder, or it makes latents of another shape.
    """
    if problem.encode is None:
        raise ValueError("this method needs an encoder from pictures to latents")
    latents = problem.encode(picture).to(like.dtype)
    if latents.shape != like.shape:
        raise ValueError(
            f"the encoder makes latents of {tuple(latents.shape)} from pictures of {tuple(picture.shape)}, and the "
            f"samples have {tuple(like.shape)}"
        )
    return latents


def lifted(problem: Problem, adjoint: bool, like: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
    """The encoding of the measurement made a picture, E(clip(A^+ y)), or E(clip(A^T y)) if `adjoint`.

    The adjoint is the wrong choice where A^T A is far from 1: that of an average over s x s pixels is s^2 times too
    dim.
    """
    operator = problem.linear
    picture = operator.A_adjoint(problem.y) if adjoint else operator.A_dagger(problem.y, rcond)
    return encoded(problem, picture.clamp(-1, 1), like)


def measured(problem: Problem, picture: torch.Tensor) -> torch.Tensor:
    """The residual y - A x of a decoded picture, in the shape of y.

    Raises:
        ValueError: A makes measurements of another shape from such pictures.
    """
    seen = problem.operator.A(picture)
    if seen.shape != problem.y.shape:
        raise ValueError(
            f"{problem.operator.name} makes measurements of {tuple(seen.shape[1:])} from decoded pictures of "
            f"{tuple(picture.shape[1:])}, and y has {tuple(problem.y.shape[1:])}"
        )
    return problem.y - seen


def misfit(residual: torch.Tensor, loss: str) -> torch.Tensor:
    """|r| (``"norm"``) or |r|^2 (``"squared"``) of every sample, (B,)."""
    flat = residual.flatten(1)
    return torch.linalg.vector_norm(flat, dim=1) if loss == "norm" else flat.square().sum(1)


def gluing(problem: Problem, picture: torch.Tensor, x0: torch.Tensor, rcond: float | None = None) -> torch.Tensor:
    """|E(A^+ y + (1 - A^+ A) D(x0)) - x0| of every sample, (B,), `picture` being D(x0).

    It is zero where the picture with the data in it encodes to the latents that it came from (Rout et al. 2023).
    """
    held = problem.linear.project(picture, problem.y, rcond)
    return torch.linalg.vector_norm((encoded(problem, held, x0) - x0).flatten(1), dim=1)


def needs_linear(problem: Problem, name: str, advice: str) -> None:
    """Refuse a nonlinear operator with a sentence that says which setting does without."""
    if not isinstance(problem.operator, LinearOperator):
        raise TypeError(
            f"{name} needs a linear operator with these settings, and {problem.operator.name} is none; {advice}"
        )
