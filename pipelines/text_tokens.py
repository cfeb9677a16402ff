"""Between characters and tokens: prompts, blanks, special tokens, and texts of which a part is still masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

#: How a blank may be written in a text whatever the tokenizer's own mask token is.
BLANK = "[MASK]"
#: What stands for a masked token in a text that is not finished.
MARK = "·"

_NAMED = 8


def mask_token(tokenizer: Any, scheduler: Any = None) -> int:
    """Number of the mask token: the tokenizer's, or for a tokenizer without one that of the scheduler's configuration.

    Raises:
        ValueError: there is none, or the two differ.
    """
    own = getattr(tokenizer, "mask_token_id", None)
    config = getattr(scheduler, "config", None) or {}
    other = config.get("mask_token_id")
    if own is None and other is None:
        raise ValueError(
            f"the tokenizer {type(tokenizer).__name__} has no mask token, so its model fills no blanks; if the model "
            "does have one, set mask_token_id on the scheduler"
        )
    if own is not None and other is not None and int(own) != int(other):
        raise ValueError(
            f"the mask token is number {own} for the tokenizer and {other} for the scheduler; they must agree, or "
            "leave mask_token_id of the scheduler at None"
        )
    found = other if own is None else own
    assert found is not None
    return int(found)


class TextCodec:
    """A tokenizer of transformers, as the text pipeline uses it.

    Attributes:
        mask: number of the mask token.
        head, tail: special tokens that the tokenizer puts before and after every text, such as [CLS] and [SEP]. They
            are shown to the model and never change.
        values: numbers of all tokens, the mask left out.
        special: numbers of the special tokens, the mask among them.
    """

    def __init__(self, tokenizer: Any, mask: int) -> None:
        self.tokenizer, self.mask = tokenizer, mask
        self.values = sorted(set(tokenizer.get_vocab().values()) - {mask})
        self.special = sorted({*tokenizer.all_special_ids, mask})
        self.head, self.tail = self._frame()

    def _numbers(self, text: str, special: bool = False) -> list[int]:
        # not `split_special_tokens`: a blank is written as the mask token itself
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def _frame(self) -> tuple[list[int], list[int]]:
        plain = set(self.values) - set(self.special)
        words = (str(word) for word, number in self.tokenizer.get_vocab().items() if number in plain)
        for text in ("a", "A", next(words, "")):
            try:
                inner, full = self._numbers(text), self._numbers(text, True)
            except Exception:
                continue
            for k in range(len(full) - len(inner) + 1):
                if inner and full[k : k + len(inner)] == inner:
                    return full[:k], full[k + len(inner) :]
        return [], []

    def encode(self, text: str) -> torch.Tensor:
        """Numbers of a text without special tokens around it, (n,) int64.

        Raises:
            ValueError: characters that the tokenizer does not know; they are named.
        """
        strange = self._strange(text)
        if strange:
            named = ", ".join(map(repr, strange[:_NAMED])) + (", ..." if len(strange) > _NAMED else "")
            raise ValueError(f"the model does not know {named}; leave that out, or write it with what it knows")
        return torch.tensor(self._numbers(text), dtype=torch.long) if text else torch.empty(0, dtype=torch.long)

    def _strange(self, text: str) -> list[str]:
        """Pieces of a text that the tokenizer takes for unknown, or loses, each once, in order."""
        if not text:
            return []
        unknown = self.tokenizer.unk_token_id
        try:
            if self.tokenizer.is_fast:
                read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
                found, covered = [], torch.zeros(len(text), dtype=torch.bool)
                for number, (begin, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
                    covered[begin:end] = True
                    if number == unknown:
                        found.append(text[begin:end])
                lost = [c for c, seen in zip(text, covered.tolist(), strict=True) if not seen and not c.isspace()]
                if getattr(self.tokenizer.backend_tokenizer, "normalizer", None) is not None:
                    lost = []  # a normaliser may strip accents and control characters on purpose
                return list(dict.fromkeys(found + lost))
            numbers = self._numbers(text)
        except Exception as error:
            return list(dict.fromkeys(c for c in text if not self._is_known(c))) or [str(error).split("\n")[0]]
        if unknown is None or unknown not in numbers:
            return []
        return list(dict.fromkeys(c for c in text if unknown in self._numbers(c))) or [self.tokenizer.unk_token]

    def _is_known(self, character: str) -> bool:
        try:
            return bool(self._numbers(character)) or character.isspace()
        except Exception:
            return False

    def with_blanks(self, text: str, blank: str | None = None) -> torch.Tensor:
        """Numbers of a text with blanks, each of them one masked token, (n,) int64.

        Args:
            text: the text.
            blank: how a blank is written in it; None: as the tokenizer's mask token, or as [MASK].

        Raises:
            ValueError: no blank in the text, an empty sign, unknown characters.
        """
        own = self.tokenizer.mask_token
        signs = [blank] if blank is not None else [sign for sign in dict.fromkeys((own, BLANK)) if sign]
        if "" in signs:
            raise ValueError("the sign of a blank must be at least one character")
        for sign in signs[1:]:
            text = text.replace(sign, signs[0])
        pieces = text.split(signs[0])
        if len(pieces) == 1:
            said = " or ".join(map(repr, signs))
            raise ValueError(f"the text has no blank to fill; a blank is written as {said}, one for every token")
        for piece in pieces:
            if own and own != signs[0] and own in piece:
                raise ValueError(
                    f"the text holds the mask token {own!r} beside the blanks {signs[0]!r}; use one of them"
                )
        strange = self.encode  # unknown characters are named before the blanks are put in
        if not own:
            masks = torch.tensor([self.mask])
            parts = [part for piece in pieces for part in (strange(piece), masks)]
            return torch.cat(parts[:-1])
        for piece in pieces:
            strange(piece)
        numbers = torch.tensor(self._numbers(own.join(pieces)), dtype=torch.long)
        found = int((numbers == self.mask).sum())
        if found != len(pieces) - 1:
            raise ValueError(
                f"the tokenizer found {found} of the {len(pieces) - 1} blanks; write them as {own!r} with spaces around"
            )
        return numbers

    def decode(self, numbers: torch.Tensor, mark: str = MARK) -> str:
        """The text of some tokens, (n,); a masked one is written as `mark`."""
        own, ids = self.tokenizer.mask_token, numbers.tolist()
        if own or self.mask not in ids:
            text = self._text(ids)
            return text.replace(own, mark) if own else text
        parts: list[str] = []
        run: list[int] = []
        for number in ids:
            if number == self.mask:
                parts += [self._text(run), mark]
                run = []
            else:
                run.append(number)
        return "".join([*parts, self._text(run)])

    def _text(self, ids: Sequence[int]) -> str:
        if not len(ids):
            return ""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
