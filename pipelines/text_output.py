"""What the text pipeline returns, and what it tells while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput

from .text_tokens import MARK, TextCodec
from .text_windows import Window


@dataclass
class MaskedTextOutput(BaseOutput):
    """Texts, and what they cost.

    Attributes:
        texts: one a text, prompt included; empty where tokens alone were asked for.
        tokens: numbers of each text's tokens without the special ones around it, (L,) int64 each.
        calls: network calls that were made, over all batches and windows; the two halves of guidance are one.
        skipped: calls of the plan that were not made, since no token had changed or none was left to fill.
        sequences: sequences that the network saw, summed over its calls; guidance counts twice.
        windows: windows that were run, summed over the batches.
    """

    texts: list[str]
    tokens: list[torch.Tensor]
    calls: int
    skipped: int
    sequences: int
    windows: int


@dataclass(frozen=True)
class TextProgress:
    """Some texts of a run after one more call.

    Attributes:
        done: calls of the plan that are over, skipped ones among them.
        total: calls of the plan.
        rows: numbers of the texts at hand, among all texts of the run.
        tokens: their tokens, (len(rows), L) int64, masks where nothing is written yet.
        time: t of the call, 1 is noise and 0 data.
        codec: turns tokens into text.
    """

    done: int
    total: int
    rows: tuple[int, ...]
    tokens: torch.Tensor
    time: float
    codec: TextCodec

    def texts(self, mark: str = MARK) -> list[str]:
        """The texts as they are, a masked token written as `mark`."""
        return [self.codec.decode(row, mark) for row in self.tokens]

    @property
    def masks(self) -> list[int]:
        """Tokens of each text that are not written yet."""
        return [int(n) for n in (self.tokens == self.codec.mask).sum(1)]


TextCallback = Callable[[TextProgress], None]


class Teller:
    """Moves a run's bar, and tells its callback."""

    def __init__(self, bar: Any, callback: TextCallback | None, total: int, codec: TextCodec) -> None:
        self.bar, self.callback, self.total, self.codec = bar, callback, total, codec
        self.before = self.told = 0

    def begin(self, rows: Sequence[int], tokens: torch.Tensor, window: Window) -> None:
        """A window of some texts, (B, L) tokens, is about to be filled."""
        self.rows, self.tokens, self.window = tuple(rows), tokens, window

    def __call__(self, call: int, time: float, inner: torch.Tensor) -> None:
        """`call` calls of the window's plan are over, and these are its tokens."""
        self.bar.update(self.before + call - self.told)
        self.told = self.before + call
        if self.callback is not None:
            shown = self.tokens.clone()
            shown[:, self.window.begin : self.window.end] = inner
            self.callback(TextProgress(self.told, self.total, self.rows, shown, time, self.codec))

    def end(self, calls: int) -> None:
        """The window is filled, and its plan of so many calls is over."""
        self.before += calls
        self.bar.update(self.before - self.told)
        self.told = self.before
