"""Tiny Shakespeare for the recipe `verses`: the text, its three parts, the character tokenizer and random windows.

The text is `data/tinyshakespeare/input.txt` of karpathy/char-rnn (public domain): 1,115,394 ASCII characters, 65
different ones. The first 90 % train, the next 5 % are looked at while training, the last 5 % are only measured on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 characters of the text in code-point order; a character's place here is its token id."""
MASK, PAD, UNKNOWN = "[MASK]", "[PAD]", "[UNK]"
LENGTH = 256
"""Characters of a window, and the longest text that the models are trained for."""


def read_text(file: Path) -> str:
    """The text of a file, every character of it in `ALPHABET`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too short, or holds a character that the tokenizer does not know.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no text at {file}; it is data/tinyshakespeare/input.txt of karpathy/char-rnn."
        )
    try:
        text = file.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text in UTF-8: {error}.") from None
    unknown = sorted(set(text) - set(ALPHABET))
    if unknown:
        raise ValueError(f"{file} holds {', '.join(map(repr, unknown[:8]))}, which the 65 characters do not cover.")
    if len(text) < 40 * LENGTH:
        raise ValueError(f"{file} must hold at least {40 * LENGTH} characters, got {len(text)}.")
    return text


def encoded(text: str) -> Tensor:
    """Token ids of a text: (N,) int64, in [0, 65)."""
    place = {character: index for index, character in enumerate(ALPHABET)}
    return torch.tensor([place[character] for character in text])


def new_tokenizer() -> Any:
    """PreTrainedTokenizerFast with one token a character, spaces and newlines included, and nothing added around.

    The 65 characters come first, then [MASK], [PAD] and [UNK], which stands for any other character and is in no text
    that the models were trained on.
    """
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*ALPHABET, MASK, PAD, UNKNOWN])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = Fuse()
    special = {
        f"{name}_token": AddedToken(token, normalized=False, special=True)
        for name, token in (("mask", MASK), ("pad", PAD), ("unk", UNKNOWN))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=LENGTH, clean_up_tokenization_spaces=False, **special
    )


@dataclass(frozen=True)
class Split3:
    """Token ids of the three parts of the text."""

    train: Tensor  # (0.9 N,) int64
    watched: Tensor  # (0.05 N,)
    held_out: Tensor  # (0.05 N,)

    @classmethod
    def of(cls, ids: Tensor) -> Split3:
        """Cut at 90 % and 95 %: (N,) -> parts in the order of the text."""
        return cls(*ids.tensor_split([len(ids) * 90 // 100, len(ids) * 95 // 100]))


def random_windows(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Windows at random places: (N,) -> (count, length)."""
    start = torch.randint(len(ids) - length + 1, (count,), generator=generator)
    return ids[start[:, None] + torch.arange(length)]


def all_windows(ids: Tensor, length: int) -> Tensor:
    """The text cut into consecutive windows, its last incomplete one left out: (N,) -> (N // length, length)."""
    return ids[: len(ids) // length * length].view(-1, length)
