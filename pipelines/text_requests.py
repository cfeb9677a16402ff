"""What was asked of the text pipeline, as tokens with masks, seeds, windows and batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .text_tokens import TextCodec
from .text_windows import Window, windows

Generators = torch.Generator | Sequence[torch.Generator] | None
Texts = str | Sequence[str] | None


def whole(name: str, value: Any, low: int) -> int:
    """A whole number of at least `low`, else a sentence."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return value


def check_numbers(guidance: Any, steps: Any, calls: Any, count: Any, batch: Any) -> None:
    """Refuse numbers out of range.

    Raises:
        ValueError: with the range.
    """
    number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
    if not number or not math.isfinite(guidance) or guidance < 0:
        raise ValueError(f"guidance_scale must be a finite number of at least 0, got {guidance!r}")
    if calls is not None:
        whole("network_calls", calls, 1)
    elif steps is not None:
        whole("num_inference_steps", steps, 1)
    whole("num_texts_per_prompt", count, 1)
    whole("batch_size", batch, 1)


def _several(name: str, asked: Texts) -> list[str]:
    if isinstance(asked, str):
        return [asked]
    if not isinstance(asked, Sequence) or not asked or not all(isinstance(text, str) for text in asked):
        raise ValueError(f"{name} must be a text or a list of texts, at least one, got {asked!r}")
    return list(asked)


def rows_of(
    codec: TextCodec, prompt: Texts, infill: Texts, length: int | None, blank: str | None, room: int | None
) -> list[torch.Tensor]:
    """Tokens of every text before the run, (L,) int64 each, masks where there is something to write.

    Raises:
        ValueError: a prompt or length that cannot be, characters that are not known.
    """
    if infill is not None:
        if prompt is not None or length is not None:
            raise ValueError("a text with blanks is taken as it is; give neither a prompt nor a length beside it")
        return [codec.with_blanks(text, blank) for text in _several("infill", infill)]
    texts = [""] if prompt is None else _several("prompt", prompt)
    if length is None:
        if room is None:
            raise ValueError("this model reads texts of any length, so length must be given")
        length = room
    whole("length", length, 0)
    rows = []
    for text in texts:
        given = codec.encode(text)
        if (given == codec.mask).any():
            raise ValueError("the prompt holds the mask token; a text with blanks is given as infill")
        if not len(given) and not length:
            raise ValueError("there is nothing to write: the prompt is empty and length is 0")
        if room is not None and len(given) > room:
            raise ValueError(
                f"the prompt has {len(given)} tokens and the model reads {room} at once; shorten the prompt"
            )
        if len(given) >= length:
            raise ValueError(
                f"the prompt has {len(given)} tokens and the text shall have {length}, prompt included, so there is "
                "nothing to write; raise length"
            )
        rows.append(torch.cat([given, torch.full((length - len(given),), codec.mask)]))
    return rows


def windows_of(tokens: torch.Tensor, mask: int, room: int | None, context: int | None, prompted: bool) -> list[Window]:
    """Windows of one text.

    Args:
        tokens: of the text, (L,).
        mask: number of the mask token.
        room: tokens that the model reads at once; None: any number.
        context: tokens before the first mask; None: half of `room`.
        prompted: whether what is given is a beginning, which the first window shall see whole.

    Raises:
        ValueError: a context that leaves no room for a mask.
    """
    most = (room or max(len(tokens), 2)) - 1
    if context is None:
        context = min((room or len(tokens)) // 2, most)
    if whole("context", context, 0) > most:
        raise ValueError(f"context must be below the {most + 1} tokens that the model reads at once, got {context}")
    size = len(tokens) if room is None else min(room, len(tokens))
    return windows(tokens == mask, size, min(context, size - 1), prompted)


def seeds_of(generator: Generators, rounds: Sequence[int]) -> list[list[int]]:
    """Seeds of every text, one a window, from its own generator or from one that all share.

    A run makes as many draws as it makes calls, which depends on the batch; a seed a window does not.

    Args:
        generator: one, or one a text; None: torch's own.
        rounds: windows of every text.
    """

    def draw(source: torch.Generator | None, number: int) -> list[int]:
        device = "cpu" if source is None else source.device
        return torch.randint(2**63 - 1, (number,), generator=source, device=device).tolist()

    if generator is None or isinstance(generator, torch.Generator):
        sources = [torch.Generator().manual_seed(seed) for seed in draw(generator, len(rounds))]
    else:
        sources = list(generator)
        if len(sources) != len(rounds):
            raise ValueError(f"{len(sources)} generators were given for {len(rounds)} texts; give one, or one a text")
    return [draw(source, number) for source, number in zip(sources, rounds, strict=True)]


def parts_of(rows: Sequence[torch.Tensor], mask: int, most: int) -> list[list[int]]:
    """Numbers of the texts that run together: those whose masks lie at the same places, at most so many."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple((row == mask).tolist()), []).append(i)
    return [group[k : k + most] for group in groups.values() for k in range(0, len(group), most)]
