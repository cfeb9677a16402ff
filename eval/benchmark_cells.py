"""Cells and parts: how a long measurement is stopped, continued and shared, whatever it measures.

A `Cell` is one measured figure: a set of settings and a number of items (pictures, texts, restored photographs). It is
cut into parts of a fixed number of items, and every part that is done is one file of arrays. Where the cuts lie
depends on the cell alone, so a cell measured in one go, over three evenings or by eight processes is made of the same
parts and comes out the same. Processes meet only in the folder: whoever has finished its own share takes what is still
missing of the others', so that the death of one loses at most the part that it had at hand.

What a cell fails of is kept for the run that it failed in, so that all processes agree on it, and is tried again by the
next one: a full disk or a busy accelerator is no property of a sampler.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.pipelines.files import write_atomically

#: Arrays of a part: those with one entry an item are joined along the first axis, numbers become one entry a part.
Arrays = dict[str, np.ndarray]
#: ``compute(cell, items) -> arrays`` of one part.
Compute = Callable[["Cell", range], Mapping[str, Any]]
#: ``merge(cell, arrays) -> row``: what is reported of a cell, flat and JSON.
Merge = Callable[["Cell", Arrays], Mapping[str, Any]]

#: What is written down as the cell's failure instead of ending the run: a sampler that cannot do what it was asked.
_FAILURES = (ValueError, TypeError, ArithmeticError, AssertionError, LookupError, NotImplementedError, RuntimeError)
_KEY_LENGTH = 20


class OutOfTime(Exception):
    """The time limit of a run was reached; everything that is done is on disk."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Hash of a JSON object, the same for the same settings on every machine."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


@dataclass(frozen=True)
class Cell:
    """One measured figure.

    Attributes:
        settings: JSON; everything that decides what a part holds, and nothing else.
        items: how many items are measured, from item 0.
        batch: items of a part; the last one may be shorter.
        keep: keep the parts once they are merged, so that a larger `items` only adds parts.
    """

    settings: Mapping[str, Any]
    items: int
    batch: int
    keep: bool = True

    def __post_init__(self) -> None:
        if self.items < 1 or self.batch < 1:
            raise ValueError(f"a cell has at least one item and one item a part, got {self.items} and {self.batch}")

    @functools.cached_property
    def key(self) -> str:
        """Name of the cell's parts: the hash of settings and batch."""
        return fingerprint({"settings": self.settings, "batch": self.batch})

    @property
    def parts(self) -> list[range]:
        """The items of every part."""
        return [range(a, min(a + self.batch, self.items)) for a in range(0, self.items, self.batch)]


class Store:
    """Parts and merged rows of any number of cells in a folder.

    Raises:
        NotADirectoryError: the path is a file.
        OSError: nothing can be written there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        for path in (self.folder, *self.folder.parents):
            if path.is_file():
                raise NotADirectoryError(f"{path} is a file; measurements are kept in a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):  # hours of work shall not end at a folder that cannot be written
            pass

    def part_path(self, cell: Cell, items: range) -> Path:
        return self.folder / "parts" / cell.key / f"{items.start:06d}-{items.stop:06d}.npz"

    def row_path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.key}-{cell.items}.json"

    def has_part(self, cell: Cell, items: range) -> bool:
        return self.part_path(cell, items).exists()

    def failure_path(self, cell: Cell) -> Path:
        return self.folder / "failed" / f"{cell.key}.txt"

    def fail(self, cell: Cell, reason: str) -> None:
        """Write down why a cell cannot be measured in this run."""
        write_atomically(self.failure_path(cell), reason.encode())

    def failure(self, cell: Cell) -> str | None:
        """Why a cell cannot be measured; None if that is not known."""
        try:
            return self.failure_path(cell).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def forget_failures(self, cells: Sequence[Cell] | None = None) -> None:
        """Let these cells (None: all) be tried again. For the first process of a run, before it measures."""
        folder = self.folder / "failed"
        for path in folder.glob("*.txt") if cells is None else map(self.failure_path, cells):
            path.unlink(missing_ok=True)

    def write_part(self, cell: Cell, items: range, arrays: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        np.savez(content, **{name: np.asarray(value) for name, value in arrays.items()})  # type: ignore[arg-type]
        write_atomically(self.part_path(cell, items), content.getvalue())

    def part(self, cell: Cell, items: range) -> Arrays | None:
        """Arrays of a part; None, and the file is gone, if there is none or it is damaged."""
        path = self.part_path(cell, items)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, KeyError):
            path.unlink(missing_ok=True)
            return None

    def row(self, cell: Cell) -> dict[str, Any] | None:
        """What `merge` made of a cell, ``{"error": reason}`` if it failed; None if it is not finished."""
        try:
            return json.loads(self.row_path(cell).read_text())["row"]
        except FileNotFoundError:
            reason = self.failure(cell)
            return None if reason is None else {"error": reason}
        except (json.JSONDecodeError, KeyError, TypeError):
            self.row_path(cell).unlink(missing_ok=True)
            return None

    def joined(self, cell: Cell) -> Arrays | None:
        """All parts of a cell, in the order of the items; None if one is missing."""
        found = [self.part(cell, items) for items in cell.parts]
        if any(part is None for part in found):
            return None
        whole = [part for part in found if part is not None]
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in whole]) for name in whole[0]}

    def settle(self, cell: Cell, merge: Merge) -> dict[str, Any] | None:
        """The row of a cell, merged and written if all its parts are there; else None."""
        row = self.row(cell)
        if row is not None:
            return row
        arrays = self.joined(cell)
        if arrays is None:
            return self.row(cell)  # another process may have merged it, and thrown the parts away, in between
        row = dict(merge(cell, arrays))
        record = {"settings": dict(cell.settings), "items": cell.items, "row": row}
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        write_atomically(self.row_path(cell), text.encode())
        if not cell.keep:
            for items in cell.parts:
                self.part_path(cell, items).unlink(missing_ok=True)
        return row


@dataclass(frozen=True)
class Share:
    """Which of several processes this is: `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_environment(cls) -> Share:
        """What accelerate, torchrun or mpirun say in the environment; one process alone if nothing does.

        Raises:
            ValueError: numbers that make no sense.
        """
        for rank, world in (
            ("RANK", "WORLD_SIZE"),
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_RANK", "PMI_SIZE"),
        ):
            if rank in os.environ and world in os.environ:
                try:
                    made = cls(int(os.environ[rank]), int(os.environ[world]))
                except ValueError:
                    raise ValueError(
                        f"the environment must number the processes with {rank} and {world}, two whole numbers, got "
                        f"{os.environ[rank]!r} and {os.environ[world]!r}"
                    ) from None
                if not 0 <= made.rank < made.world:
                    raise ValueError(f"{rank} must lie in 0 .. {world} - 1, got {made.rank} of {made.world}")
                return made
        return cls()


def measure(
    store: Store,
    cells: Sequence[Cell],
    compute: Compute,
    merge: Merge,
    share: Share | None = None,
    stop: Callable[[], bool] = lambda: False,
    told: Callable[[int, int, Cell], None] = lambda done, all_, cell: None,
) -> list[dict[str, Any]]:
    """Rows of all cells: what is on disk is taken from there, the rest is computed, this process' share first.

    Args:
        store: where parts and rows are kept.
        cells: what to measure.
        compute: measures one part. A `ValueError` and its like are the cell's failure: its row is ``{"error": ...}``,
            until `Store.forget_failures`.
        merge: makes a row of the joined parts.
        share: which of several processes this is.
        stop: asked before every part; true ends the run.
        told: called after every part with the numbers of parts done and in all (of this process' list), and the cell.

    Raises:
        OutOfTime: `stop` said so.
    """
    share = share or Share.of_environment()
    rows = [store.row(cell) for cell in cells]
    todo = [
        (c, p)
        for c, cell in enumerate(cells)
        if rows[c] is None
        for p, items in enumerate(cell.parts)
        if not store.has_part(cell, items)
    ]
    mine = [(c, p) for c, p in todo if (c + p) % share.world == share.rank]
    others = [(c, p) for c, p in todo if (c + p) % share.world != share.rank]
    order = mine + others[::-1]  # from the end, where whoever it belongs to comes last
    for done, (c, p) in enumerate(order):
        cell, items = cells[c], cells[c].parts[p]
        if rows[c] is None and not store.has_part(cell, items):
            rows[c] = store.row(cell)  # another process may have finished it, or found that it fails
        if rows[c] is None and not store.has_part(cell, items):
            if stop():
                raise OutOfTime
            _compute_part(store, cell, items, compute)
        told(done + 1, len(order), cell)
        if rows[c] is None and all(store.has_part(cell, part) for part in cell.parts):
            rows[c] = store.settle(cell, merge)
    return [
        row if row is not None else _settled(store, cell, compute, merge) for row, cell in zip(rows, cells, strict=True)
    ]


def _compute_part(store: Store, cell: Cell, items: range, compute: Compute) -> None:
    try:
        arrays = compute(cell, items)
    except _FAILURES as error:
        if "out of memory" in str(error).lower():
            raise
        lines = str(error).strip().splitlines()
        store.fail(cell, f"{type(error).__name__}: {lines[0] if lines else ''}")
        return
    store.write_part(cell, items, arrays)


def _settled(store: Store, cell: Cell, compute: Compute, merge: Merge) -> dict[str, Any]:
    """The row of a cell whose parts should all be there; one that turns out damaged is computed again."""
    row = store.settle(cell, merge)
    while row is None:
        for items in cell.parts:
            if store.failure(cell) is None and not store.has_part(cell, items):
                _compute_part(store, cell, items, compute)
        row = store.settle(cell, merge)
    return row
