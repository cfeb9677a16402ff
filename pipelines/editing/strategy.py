"""What is injected: words of a strategy, blocks, and for how long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

#: Words of a strategy, in the order in which they act.
WORDS = ("replace_v", "add_v", "replace_k", "add_k", "replace_q", "add_q")
SCOPES = ("all", "image")
BRANCHES = ("both", "cond")


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """The words of a strategy in the order in which they act: "add_q replace_v" -> ("replace_v", "add_q").

    ``replace`` puts ``ratio * source`` in place of a tensor, ``add`` adds it; ``none`` is no injection.

    Raises:
        ValueError: an unknown word; the nearest is given.
    """
    from fewstep.samplers.core.registry import nearest

    found = set(re.split(r"[\s,+]+", strategy.strip())) - {""} if isinstance(strategy, str) else {str(strategy)}
    if found <= {"none"}:
        return ()
    for word in sorted(found):
        if word not in WORDS:
            raise ValueError(
                f"unknown strategy {word!r}{nearest(word, (*WORDS, 'none'))} Known are none and any of "
                f"{', '.join(WORDS)}, separated by blanks"
            )
    return tuple(word for word in WORDS if word in found)


def parse_blocks(blocks: str | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Numbers of blocks: None and "all" are every one; "20-37" is a range with both ends; "0,3,5" and [0, 3, 5] a list.

    Raises:
        ValueError: none, or a number that the model does not have.
    """
    if blocks is None or blocks == "all":
        return tuple(range(count))
    found: list[int] = []
    if isinstance(blocks, str):
        for part in filter(None, re.split(r"[\s,]+", blocks)):
            ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            if ends is None:
                raise ValueError(f"blocks are all, a range such as 20-37, or a list such as 0,3,5; got {blocks!r}")
            first, last = int(ends[1]), int(ends[2] or ends[1])
            if last >= count:  # before the range is written out
                raise _no_block(last, count)
            found += range(first, last + 1)
    else:
        found = [int(number) for number in blocks]
    if not found:
        raise ValueError(f"blocks are all, a range such as 20-37, or a list such as 0,3,5; got {blocks!r}")
    wrong = [number for number in found if not 0 <= number < count]
    if wrong:
        raise _no_block(wrong[0], count)
    return tuple(sorted(set(found)))


def _no_block(number: int, count: int) -> ValueError:
    return ValueError(
        f"this model has {count} blocks for injection, numbered 0 to {count - 1}; there is no block {number}"
    )


@dataclass(frozen=True)
class Injection:
    """What is put back, where and for how long.

    Attributes:
        strategy: words of `WORDS`; ``replace_v`` is the published default, ``add_q`` changes the style more, ``none``
            injects nothing.
        steps: intervals from the noise end in which features are put back; None leaves it to `until_sigma`, and to 1
            where that is None too.
        until_sigma: noise level in [0, 1) down to which features are put back: every interval whose middle lies
            above. It means the same for every number of steps.
        blocks: see `parse_blocks`; numbered within the blocks that the model's adapter offers.
        ratios: factors on the recorded Q, K and V.
        scope: ``all`` tokens (published), or those of the ``image`` alone, so that no text of the source comes along.
        strength: 1 is the injected tensor, 0 the model's own, between them the mixture.
        branches: with classifier-free guidance ``both`` halves get the features, or the ``cond`` one alone.
    """

    strategy: str = "replace_v"
    steps: int | None = None
    until_sigma: float | None = None
    blocks: str | Sequence[int] | None = None
    ratios: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scope: str = "all"
    strength: float = 1.0
    branches: str = "both"

    def __post_init__(self) -> None:
        from fewstep.samplers.core.registry import nearest

        parse_strategy(self.strategy)
        if self.steps is not None and (isinstance(self.steps, bool) or self.steps != int(self.steps) or self.steps < 0):
            raise ValueError(f"steps of injection must be a whole number of at least 0, got {self.steps!r}")
        if self.until_sigma is not None and not 0 <= self.until_sigma < 1:
            raise ValueError(f"until_sigma is a noise level in [0, 1), got {self.until_sigma!r}")
        if self.steps is not None and self.until_sigma is not None:
            raise ValueError("say how long to inject by steps or by until_sigma, not by both")
        for name, value, known in (("scope", self.scope, SCOPES), ("branches", self.branches, BRANCHES)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}{nearest(str(value), known)} Known are {', '.join(known)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength of injection must be in [0, 1], got {self.strength!r}")
        if len(self.ratios) != 3:
            raise ValueError(f"ratios are three factors, on Q, K and V; got {self.ratios!r}")

    @property
    def words(self) -> tuple[str, ...]:
        """The strategy's words in the order in which they act."""
        return parse_strategy(self.strategy)

    @property
    def tensors(self) -> str:
        """Which of q, k and v are needed."""
        needed = {word[-1] for word in self.words}
        return "".join(tensor for tensor in "qkv" if tensor in needed)

    def window(self, edges: Sequence[float]) -> int:
        """Intervals from the noise end in which features are put back.

        Args:
            edges: noise levels of the grid from noise to data, N + 1 of them.
        """
        count = len(edges) - 1
        if not self.words or self.strength == 0:
            return 0
        if self.until_sigma is not None:
            middles = [(high + low) / 2 for high, low in pairwise(edges)]
            return sum(middle > self.until_sigma for middle in middles)
        steps = 1 if self.steps is None else int(self.steps)
        if steps > count:
            raise ValueError(f"{steps} steps of injection are more than the {count} steps of the grid")
        return steps

    @classmethod
    def parse(cls, text: str | int | float, **more: Any) -> Injection:
        """An injection from how long it lasts: "2" or "2 steps", or a noise level "0.9" or "sigma 0.9"."""
        found = re.fullmatch(r"\s*(?:(\d+)\s*(?:steps?)?|(?:sigma\s*)?(\d*\.\d+))\s*", str(text))
        if found is None:
            raise ValueError(
                f"injection lasts a number of steps such as 2, or to a noise level such as 0.9; got {text!r}"
            )
        return cls(steps=int(found[1]) if found[1] else None, until_sigma=float(found[2]) if found[2] else None, **more)
