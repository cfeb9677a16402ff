"""What a benchmark measures, as options that check themselves and can be written as a command line."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from dataclasses import dataclass
from typing import Any


def positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class Options:
    """What a benchmark measures.

    Attributes:
        model: a shipped model, a folder, a name on the hub, or ``oracle:gaussian|mixture|finite[:vp|flow|edm]``.
        samplers: words that `contenders.select` understands.
        nfe: numbers of network calls.
        guidance: guidance scales.
        count: samples for the metrics of pictures.
        rmse_count: samples for the solver error, at most `count` of them used.
        grid_count: samples on which the best grid is chosen.
        grids: ``all``, ``default`` (each contender's own alone), or names of grids.
        metrics: of `benchmark_metrics.METRICS`.
        picture_samplers: measure the metrics of pictures only for so many samplers of each family, those with the
            smallest solver error while the grids were chosen, each at its best grid, and tuned ones; 0 is all, at both.
        seed: of the first sample.
        batch: samples that go through the network together.
        out: folder of the results.
        prompts: file of prompts, one a line, for models that bring none.
        limit_time: seconds after which the run stops; what is done is kept.
        reference_steps: network calls of the reference solution.
        references: folder of reference solutions.
        device, dtype: as in `fewstep.pipelines.load`.
        processes: processes on this machine that share the work, where no launcher has started several.
        save_pictures: write the pictures whose metrics are measured as PNG files below ``out/pictures``.
    """

    model: str = "garments"
    samplers: tuple[str, ...] = ("all",)
    nfe: tuple[int, ...] = (5, 6, 8, 10, 15, 20)
    guidance: tuple[float, ...] = (1.0, 3.0, 7.5)
    count: int = 2000
    rmse_count: int = 256
    grid_count: int = 32
    grids: tuple[str, ...] = ("all",)
    metrics: tuple[str, ...] = ("rmse", "divergence", "fid", "kid", "accuracy")
    picture_samplers: int = 0
    seed: int = 0
    batch: int = 50
    out: str = "benchmark"
    prompts: str | None = None
    limit_time: float | None = None
    reference_steps: int = 200
    references: str | None = None
    device: str | None = None
    dtype: str | None = None
    processes: int = 1
    save_pictures: bool = False

    def __post_init__(self) -> None:
        from fewstep.pipelines.swapping import GRIDS
        from fewstep.samplers.core.registry import nearest

        from .benchmark_metrics import METRICS

        for name in ("count", "rmse_count", "grid_count", "batch", "reference_steps", "processes"):
            positive(name, getattr(self, name))
        if isinstance(self.picture_samplers, bool) or int(self.picture_samplers) < 0:
            raise ValueError(f"picture_samplers must be a whole number of at least 0, got {self.picture_samplers!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise ValueError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        if not self.nfe or not self.guidance or not self.samplers or not self.grids or not self.metrics:
            raise ValueError("name at least one sampler, number of calls, guidance scale, grid and metric")
        for nfe in self.nfe:
            positive("nfe", nfe)
        for guidance in self.guidance:
            if not (math.isfinite(guidance) and guidance >= 0):
                raise ValueError(f"guidance must be a finite number of at least 0, got {guidance!r}")
        for word, known in ((self.metrics, METRICS), (self.grids, ("all", "default", *GRIDS))):
            for name in word:
                if name not in known:
                    kind = "metric" if known is METRICS else "grid"
                    raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)} Known are {', '.join(known)}")
        if self.limit_time is not None and not self.limit_time >= 0:
            raise ValueError(f"limit_time must be a number of seconds of at least 0, got {self.limit_time!r}")
        if self.model.startswith("oracle:"):
            self._check_oracle()

    def _check_oracle(self) -> None:
        given = {"device": self.device not in (None, "auto", "cpu"), "dtype": self.dtype is not None}
        given |= {"prompts": self.prompts is not None, "save_pictures": self.save_pictures}
        if useless := [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]:
            raise ValueError(
                f"{self.model} is an exact model, computed in float64 on the processor, without prompts or pictures; "
                f"leave {', '.join(useless)} away"
            )


#: Options that say where and how long, not what.
_WHERE = ("out", "limit_time", "references", "processes")


def command_of(options: Options, where: bool = False) -> str:
    """The command line that measures the same; what only says where and how long is left out unless `where`."""
    given = ["python", "-m", "fewstep.eval.benchmark"]
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if value == item.default or (item.name in _WHERE and not where):
            continue
        if value is True:
            given.append(f"--{item.name.replace('_', '-')}")
            continue
        text = (
            ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) if isinstance(value, tuple) else value
        )
        given += [f"--{item.name.replace('_', '-')}", str(text)]
    return shlex.join(given)


def numbers(text: str, kind: type, name: str) -> tuple[Any, ...]:
    """A list such as 5,6,8 as a tuple.

    Raises:
        ValueError: an entry that is no number of that kind.
    """
    try:
        return tuple(dict.fromkeys(kind(word) for word in text.split(",") if word.strip()))
    except ValueError:
        such = "whole numbers such as 5,6,8" if kind is int else "numbers such as 1,3,7.5"
        raise ValueError(f"{name} is a list of {such}, got {text!r}") from None


def words(text: str) -> tuple[str, ...]:
    """A list such as ghvb,ddim as a tuple."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def parser() -> argparse.ArgumentParser:
    """The options of ``python -m fewstep.eval.benchmark``."""
    default = Options()
    made = argparse.ArgumentParser(
        prog="python -m fewstep.eval.benchmark",
        description="Our samplers and those of diffusers at equal numbers of network calls.",
    )
    add = made.add_argument
    add("--model", default=default.model, help="a model, or oracle:gaussian|mixture|finite[:vp|flow|edm]")
    add("--samplers", default="all", help="all, fewstep, diffusers, or names and patterns, separated by commas")
    add("--nfe", default="5,6,8,10,15,20", help="numbers of network calls")
    add("--guidance", default="1,3,7.5", help="guidance scales")
    add("--count", type=int, default=default.count, help="pictures for FID, KID and accuracy (default 2000)")
    add("--rmse-count", type=int, default=default.rmse_count, help="samples for the solver error (default 256)")
    add("--grid-count", type=int, default=default.grid_count, help="samples to choose the best grid by (default 32)")
    add("--grids", default="all", help="all, default (each sampler's own alone), or names of grids")
    add("--metrics", default=",".join(default.metrics), help="rmse, divergence, fid, kid, accuracy (default all)")
    add("--picture-samplers", type=int, default=0, help="FID and the like for the best so many of each family alone")
    add("--seed", type=int, default=default.seed, help="of the first picture")
    add("--batch", type=int, default=default.batch, help="pictures at once (default 50)")
    add("--out", default=default.out, help="folder of the results (default benchmark); a run there is continued")
    add("--prompts", help="file of prompts, one a line, for models that bring none")
    add("--limit-time", type=float, help="stop after so many seconds; the same command goes on from there")
    add("--reference-steps", type=int, default=default.reference_steps, help="calls of the reference (default 200)")
    add("--references", help="folder of reference solutions (default ~/.cache/fewstep/references)")
    add("--device", help="cpu, cuda, cuda:1, mps")
    add("--dtype", help="float32, float16, bfloat16")
    add("--processes", type=int, default=1, help="processes on this machine that share the work (default 1)")
    add("--threads", type=int, help="threads that torch may use")
    add("--save-pictures", action="store_true", help="keep the pictures that are judged, below OUT/pictures")
    add("--json", metavar="FILE", help="write the result file here too, once it is complete")
    return made


def options_of(given: argparse.Namespace) -> Options:
    """Options from what `parser` read.

    Raises:
        ValueError: a value out of range.
    """
    return Options(
        given.model,
        words(given.samplers),
        numbers(given.nfe, int, "--nfe"),
        numbers(given.guidance, float, "--guidance"),
        given.count,
        given.rmse_count,
        given.grid_count,
        words(given.grids),
        words(given.metrics),
        given.picture_samplers,
        given.seed,
        given.batch,
        given.out,
        given.prompts,
        given.limit_time,
        given.reference_steps,
        given.references,
        given.device,
        given.dtype,
        given.processes,
        given.save_pictures,
    )
