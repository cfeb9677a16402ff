"""Options of a benchmark's task: checked, written as a command line, and read from one, all from their fields."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from .benchmark_options import numbers, positive, words

Made = TypeVar("Made", bound="TaskOptions")


def option(default: Any, help: str) -> Any:
    """A field of options with its line of help. Lists are tuples of one type, which `default` shows."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TaskOptions:
    """What all tasks have in common.

    Attributes:
        model: a shipped model, a folder, or a name on the hub.
        samplers: words that `token_contenders.select` understands.
        nfe: numbers of network calls.
        count: items a seed.
        seeds: independent repeats; the spread of a figure is its standard deviation over them.
        seed: of the first item; the items of all repeats are numbered on from there.
        batch: items that go through the network together.
        out: folder of the results.
        limit_time: seconds after which the run stops; what is done is kept.
        device, dtype: of the network; None: the accelerator if there is one, as stored.
        processes: processes on this machine that share the work.
    """

    task: ClassVar[str] = ""

    model: str = option("", "a shipped model, a folder, or a name on the hub")
    samplers: tuple[str, ...] = option(("all",), "all, own, published, diffusers, or names and patterns")
    nfe: tuple[int, ...] = option((8, 16, 32), "numbers of network calls")
    count: int = option(8, "items a seed")
    seeds: int = option(3, "independent repeats, for the spread")
    seed: int = option(0, "of the first item")
    batch: int = option(8, "items at once")
    out: str = option("benchmark", "folder of the results; a run there is continued")
    limit_time: float | None = option(None, "stop after so many seconds; the same command goes on from there")
    device: str | None = option(None, "cpu, cuda, cuda:1, mps")
    dtype: str | None = option(None, "float32, float16, bfloat16")
    processes: int = option(1, "processes on this machine that share the work")

    def __post_init__(self) -> None:
        for name in ("count", "seeds", "batch", "processes"):
            positive(name, getattr(self, name))
        if not self.model:
            raise ValueError("name a model")
        if not self.nfe or not self.samplers:
            raise ValueError("name at least one sampler and one number of network calls")
        for nfe in self.nfe:
            positive("nfe", nfe)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        if self.limit_time is not None and not self.limit_time >= 0:
            raise ValueError(f"limit_time must be a number of seconds of at least 0, got {self.limit_time!r}")
        if self.dtype not in (None, "float32", "float16", "bfloat16"):
            raise ValueError(f"dtype must be float32, float16 or bfloat16, got {self.dtype!r}")

    def words(self, where: bool = False) -> list[str]:
        """The command line that measures the same; what only says where and how long is left out unless `where`."""
        given = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value == item.default or (item.name in _WHERE and not where):
                continue
            given += [f"--{item.name.replace('_', '-')}", _text(value)]
        return given

    def command(self) -> str:
        """As one types it."""
        return shlex.join(["fewstep", "benchmark", "--task", self.task, *self.words()])


#: Options that say where and how long, not what.
_WHERE = ("out", "limit_time", "processes")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse(cls: type[Made], name: str, text: Any) -> Any:
    """The value of a field from what was typed.

    Raises:
        ValueError: a list that is none.
    """
    default = next(item.default for item in dataclasses.fields(cls) if item.name == name)
    if not isinstance(text, str) or not isinstance(default, tuple):
        return text
    kind = type(default[0])
    return words(text) if kind is str else numbers(text, kind, f"--{name.replace('_', '-')}")


def parser_of(cls: type[TaskOptions], prog: str) -> argparse.ArgumentParser:
    """A parser with an option a field."""
    made = argparse.ArgumentParser(prog=prog)
    types = {"int": int, "float": float, "str": str, "float | None": float, "int | None": int}
    for item in dataclasses.fields(cls):
        kind = types.get(str(item.type), str)
        shown = "" if item.default is None or item.default == "" else f" (default {_text(item.default)})"
        made.add_argument(
            f"--{item.name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, help=item.metadata["help"] + shown
        )
    return made


def read(cls: type[Made], arguments: Sequence[str], prog: str) -> Made:
    """Options from words.

    Raises:
        ValueError: a value out of range.
    """
    given = vars(parser_of(cls, prog).parse_args(list(arguments)))
    return cls(**{name: parse(cls, name, value) for name, value in given.items()})


def finite(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside of [low, high]."""
    if isinstance(value, bool) or not low <= value <= high or not math.isfinite(value):
        bound = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number, {bound}, got {value!r}")
