"""Edits of pictures that a benchmark asks for: picture, both prompts, where it may change, what a judge shall find."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit.

    Attributes:
        picture: (H, W, 3) float32 in [0, 1].
        source, target: what the picture shows, and what it shall show.
        kind: what is changed, one of the set's `kinds`.
        region: (H, W) in [0, 1], 1 where the picture is meant to change; None where nobody said.
        wanted: question of the judge -> index of the answer that the edit shall have.
        held: questions whose answer shall stay what it is for the picture.
    """

    picture: np.ndarray = field(repr=False)
    source: str
    target: str
    kind: str
    region: np.ndarray | None = field(default=None, repr=False)
    wanted: Mapping[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()


class EditSet(ABC):
    """Numbered edits: edit i is the same whatever the number of edits and their batches.

    Attributes:
        kinds: kinds of edits, in the order of the tables.
        judge: answers the questions of `Edit.wanted`; None where there is no such thing.
        about: what the settings of a result say of the set.
        fingerprint: JSON; everything that decides what the edits are.
        most: how many edits there are at most.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    judge: Any = None
    about: dict[str, Any]
    fingerprint: dict[str, Any]
    most: int

    @abstractmethod
    def edits(self, items: range) -> list[Edit]:
        """Some of the edits."""


def checked_items(edits: EditSet, items: range) -> range:
    """The items, if there are such.

    Raises:
        ValueError: more than the set has.
    """
    if items.stop > edits.most:
        raise ValueError(f"there are {edits.most} edits here, and edit {items.stop - 1} was asked for")
    return items
