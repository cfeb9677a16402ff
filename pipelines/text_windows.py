"""Texts longer than what a model reads at once: windows over them, left to right."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Window(NamedTuple):
    """The tokens from `begin` to before `end`, of which `masks` are still masked when they are filled."""

    begin: int
    end: int
    masks: int


def windows(masked: torch.Tensor, size: int, context: int, from_start: bool = False) -> list[Window]:
    """Where the runs over a text look, so that every masked token is in one of them.

    A window begins `context` tokens before the first token that is still masked, and all masks in it are filled before
    the next is chosen. Given tokens after the masks are seen as far as the window reaches. The last window ends with
    the text, and looks back further instead.

    Args:
        masked: which tokens are to be filled, (L,) bool.
        size: tokens that the model reads at once.
        context: tokens before the first mask that a window begins with, 0 to size - 1.
        from_start: let the first window begin with the text, if its first mask lies in it: a prompt is seen whole.
    """
    found: list[Window] = []
    left, length = masked.clone(), len(masked)
    while left.any():
        first = int(left.to(torch.uint8).argmax())
        begin = max(0, first - context)
        if from_start and not found and first < size:
            begin = 0
        begin = max(0, min(begin, length - size))
        end = min(length, begin + size)
        found.append(Window(begin, end, int(left[begin:end].sum())))
        left[begin:end] = False
    return found
