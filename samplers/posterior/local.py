"""What an operator measures of one window: the numbers of y that depend on nothing else, and the pixels they settle."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from .inset import Inset, Replicate, cropping, inset
from .operators.base import LinearOperator, Operator
from .operators.blur import MirrorBlur
from .operators.compose import LinearChain
from .operators.pointwise import Grey, Identity, Mask
from .operators.pooling import AveragePool
from .operators.separable import Factor, Separable
from .windows import Box

#: Weights of at most this share of the largest count as zero: below float32's rounding.
NEGLIGIBLE = 1e-7


class Restriction(ABC):
    """An operator seen through windows.

    Attributes:
        block: side of the blocks of pixels that are measured together, where no pixel is in two; 1 for others.
    """

    block: int = 1

    @abstractmethod
    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        """The operator of a window, and the part of y that it makes, which depends on this window alone.

        Raises:
            ValueError: a window that cuts what it must not, or sees nothing whole.
        """

    @abstractmethod
    def settled(self, seen: Box) -> Box:
        """The pixels that nothing outside of this part of y depends on."""


class _Pixels(Restriction):
    """Operators that look at one pixel at a time."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        found = Mask(box.of(self.operator.mask.value)) if isinstance(self.operator, Mask) else self.operator
        return found, box

    def settled(self, seen: Box) -> Box:
        return seen


class _Pool(Restriction):
    def __init__(self, operator: AveragePool) -> None:
        self.factor = self.block = operator.factor
        self.name = operator.name

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        seen = box.over(self.factor, self.name)
        return AveragePool(self.factor, box.size), seen

    def settled(self, seen: Box) -> Box:
        return seen.times(self.factor)


class _Replicate(Restriction):
    def __init__(self, operator: Replicate) -> None:
        self.factor = operator.factor

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        return Replicate(self.factor, box.size), box.times(self.factor)

    def settled(self, seen: Box) -> Box:
        f = self.factor
        top, left = -(-seen.top // f), -(-seen.left // f)
        return Box(top, left, max(seen.bottom // f - top, 0), max(seen.right // f - left, 0))


class _Line:
    """A matrix of one dimension, where its rows begin and end, and pieces of it, made once."""

    def __init__(self, factor: Factor, name: str) -> None:
        self.matrix, self.name = factor.matrix.value, name
        held = self.matrix.abs() > NEGLIGIBLE * self.matrix.abs().max()
        columns = torch.arange(factor.columns)
        self.first = torch.where(held, columns, factor.columns).amin(1)
        self.last = torch.where(held, columns, -1).amax(1)
        self.made: dict[tuple[int, int], tuple[int, int, Factor]] = {}
        apart = bool((self.first[1:] > self.last[:-1]).all())
        self.block = factor.columns // factor.rows if apart and factor.columns % factor.rows == 0 else 1

    def piece(self, begin: int, length: int) -> tuple[int, int, Factor]:
        """First row within these columns, number of such rows, and the matrix of them."""
        if (begin, length) not in self.made:
            inside = ((self.first >= begin) & (self.last < begin + length)).nonzero().flatten()
            if not len(inside):
                raise ValueError(
                    f"what {self.name} measures reaches further than a window of {length} pixels; take larger windows, "
                    "or the canvas mode"
                )
            low, high = int(inside[0]), int(inside[-1]) + 1
            self.made[begin, length] = low, high - low, Factor(self.matrix[low:high, begin : begin + length])
        return self.made[begin, length]

    def settled(self, low: int, count: int) -> tuple[int, int]:
        """First column that no other row touches, and number of such columns."""
        begin = int(self.last[:low].max()) + 1 if low else 0
        high = low + count
        end = int(self.first[high:].min()) if high < len(self.first) else self.matrix.shape[1]
        return begin, max(end - begin, 0)


class _Lines(Restriction):
    """Separable operators: rows of the two matrices."""

    def __init__(self, operator: Separable) -> None:
        self.name = operator.name
        self.vertical = _Line(operator.vertical, self.name)
        same = operator.horizontal is operator.vertical
        self.horizontal = self.vertical if same else _Line(operator.horizontal, self.name)
        self.block = math.lcm(self.vertical.block, self.horizontal.block)

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        top, height, rows = self.vertical.piece(box.top, box.height)
        left, width, columns = self.horizontal.piece(box.left, box.width)
        return Separable(rows, columns, self.name), Box(top, left, height, width)

    def settled(self, seen: Box) -> Box:
        top, height = self.vertical.settled(seen.top, seen.height)
        left, width = self.horizontal.settled(seen.left, seen.width)
        return Box(top, left, height, width)


class _Mirrored(Restriction):
    """Blurs with a mirrored border: exact a kernel's radius away from where a window cuts the picture."""

    def __init__(self, operator: MirrorBlur) -> None:
        assert operator.size is not None
        self.kernel, self.radius, self.size = operator.kernel, operator.radius, operator.size

    def _shrunk(self, box: Box) -> Box:
        (rh, rw), (height, width) = self.radius, self.size
        top, left = box.top + (rh if box.top else 0), box.left + (rw if box.left else 0)
        bottom = box.bottom - (rh if box.bottom < height else 0)
        right = box.right - (rw if box.right < width else 0)
        return Box(top, left, max(bottom - top, 0), max(right - left, 0))

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        seen, blurred = self._shrunk(box), MirrorBlur(self.kernel, box.size)
        if min(seen.size) < 1:
            raise ValueError(
                f"a blur of {self.kernel.shape[0]} x {self.kernel.shape[1]} pixels reaches further than a window of "
                f"{box.height} x {box.width}; take larger windows, or the canvas mode"
            )
        if seen == box:
            return blurred, seen
        part = Box(seen.top - box.top, seen.left - box.left, *seen.size)
        return LinearChain([blurred, cropping(box.size, part)]), seen

    def settled(self, seen: Box) -> Box:
        return self._shrunk(seen)


class _Chain(Restriction):
    def __init__(self, operator: LinearChain) -> None:
        self.parts = [restriction(part) for part in operator.parts]
        self.block = math.prod(part.block for part in self.parts)

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        made = []
        for part in self.parts:
            found, box = part.at(box)
            made.append(found)
        return LinearChain(made), box

    def settled(self, seen: Box) -> Box:
        for part in reversed(self.parts):
            seen = part.settled(seen)
        return seen


class _Inset(Restriction):
    """A picture at the top left of a canvas; nothing is measured of the rest."""

    def __init__(self, inner: LinearOperator, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        self.inner, self.size, self.canvas = restriction(inner), size, canvas
        self.block = self.inner.block

    def at(self, box: Box) -> tuple[LinearOperator, Box]:
        part = box.within(self.size)
        found, seen = self.inner.at(part)
        placed = inset(found, part.size, box.size)
        assert isinstance(placed, LinearOperator)
        return placed, seen

    def settled(self, seen: Box) -> Box:
        box = self.inner.settled(seen)
        bottom = self.canvas[0] if box.bottom == self.size[0] else box.bottom
        right = self.canvas[1] if box.right == self.size[1] else box.right
        return Box(box.top, box.left, bottom - box.top, right - box.left)


def restriction(operator: Operator) -> Restriction:
    """How an operator is restricted to windows. One of one's own may have a method ``restriction()``.

    Raises:
        ValueError: one whose numbers may depend on the whole picture, or are not known to be local.
    """
    own = getattr(operator, "restriction", None)
    if own is not None:
        return own()
    if isinstance(operator, (Identity, Grey, Mask)):
        return _Pixels(operator)
    if isinstance(operator, AveragePool):
        return _Pool(operator)
    if isinstance(operator, Replicate):
        return _Replicate(operator)
    if isinstance(operator, Separable):
        return _Lines(operator)
    if isinstance(operator, MirrorBlur):
        return _Mirrored(operator)
    if isinstance(operator, LinearChain):
        return _Chain(operator)
    if isinstance(operator, Inset) and (operator.box.top, operator.box.left) == (0, 0):
        assert operator.size is not None
        if operator.inner is not None:
            return _Inset(operator.inner, operator.box.size, operator.size)
        return _Inset(Identity(), operator.box.size, operator.size)
    raise ValueError(
        f"what {operator.name} measures of one window alone is not known, so windows cannot be restored one after the "
        "other; take the canvas mode, which needs the whole operator only"
    )
