"""What a cache costs in quality and saves in time, against the full run and against its true rival: fewer steps.

Run with ``python -m fewstep.eval.cache_benchmark``. Every row is one sampler, one guidance scale and one cache on the
same prompts and seeds. PSNR is the median over the pictures against the run without a cache, in decibels, for values
in [0, 1] before they are rounded to bytes. ``fewer-steps`` is a full run with as many calls as a cache made, and comes
with every cache; a cache that does not fit a model has a row that says so. Times are the best of the repeats, of whole
runs with text and decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import inspect
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from .cache_built_in import BUILT_IN, built_in, magcache_ratios
from .contenders import Contender
from .results import write_results

CACHES = (
    "none",
    "ab:order=2,interval=2",
    "ab:order=2,interval=3",
    "ab:order=2,interval=3,warmup=2",
    "ab:order=2,interval=4",
    "ab:order=3,interval=3",
    "taylorseer",
    "firstblock",
    "magcache",
    "fewer-steps",
)
HOSTS = ("ddim", "exponential-adams")
#: The columns that are None in the row of a cache that does not fit.
FIGURES = ("real_calls", "skipped", "psnr", "garment_accuracy", "colour_accuracy", "seconds", "speedup")


def split_caches(text: str) -> list[str]:
    """Names of a list such as ``none,ab:2,3,taylorseer``: what has no name of its own belongs to the one before.

    Raises:
        ValueError: an unknown cache, or settings that it cannot have.
    """
    from fewstep.samplers import parse_cache
    from fewstep.samplers.core.registry import nearest

    found: list[str] = []
    for part in (part.strip().lower() for part in text.split(",") if part.strip()):
        if found and re.fullmatch(r"[\w-]+=[^:]*|[\d.].*", part):
            found[-1] += "," + part
        else:
            found.append(part)
    for name in found:
        known = ("none", "ab", *BUILT_IN, "fewer-steps")
        if name.partition(":")[0] not in known:
            raise ValueError(f"unknown cache {name!r}{nearest(name, known)} Known are {', '.join(known)}")
        if name.startswith("ab"):
            parse_cache(name)
    return found


def _arguments(pipe: Any, guidance: float) -> dict[str, Any]:
    """The arguments of a pipeline's call that every run has: guidance under its name, and no resampling."""
    known = inspect.signature(type(pipe).__call__).parameters
    true = known.get("true_cfg_scale")  # of models that were distilled with guidance
    name = "true_cfg_scale" if true is not None and true.default > 1 else "guidance_scale"
    found: dict[str, Any] = {name: guidance} if name in known else {}
    if "use_resolution_binning" in known:
        found["use_resolution_binning"] = False
    if "clean_caption" in known:
        found["clean_caption"] = False
    return found


class _Bench:
    """One pipeline and its pictures; a run is (pictures (B, 3, H, W) in [0, 1], seconds, calls that were made)."""

    def __init__(self, pipe: Any, prompts: Sequence[str], batch: int, seed: int = 0) -> None:
        self.pipe, self.prompts, self.batch, self.seed = pipe, list(prompts), batch, seed
        self.calibrated: dict[Any, list[float]] = {}

    def run(self, steps: int, guidance: float, cache: str) -> tuple[torch.Tensor, float, float]:
        from fewstep.pipelines.generation import own_run
        from fewstep.samplers import ab_cache, parse_cache

        pipe = own_run(self.pipe, guidance)
        config = parse_cache(cache) if cache.startswith("ab") else None
        pictures = []
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(ab_cache(pipe, config)) if config is not None else None
            counter = None
            if cache in BUILT_IN:
                calls = self._calls(pipe, steps)
                ratios = self._ratios(pipe, steps, calls, guidance) if cache == "magcache" else None
                counter = stack.enter_context(built_in(pipe, cache, calls, ratios))
            begin = time.perf_counter()
            for part in self.parts:
                pictures.append(self._part(pipe, part, steps, guidance))
            seconds = time.perf_counter() - begin
        real: float = len(pipe.scheduler.timesteps)
        if counter is not None:
            real = counter.real(len(pipe.scheduler.timesteps))
        elif session is not None:  # the two branches of guidance may be calls of their own there
            found = session.stats()
            real = round(real * found["real"] / max(found["calls"], 1), 1)
            real = int(real) if real == int(real) else real
        return torch.cat(pictures), seconds, real

    @property
    def parts(self) -> list[range]:
        """The pictures of every batch."""
        return [range(i, min(i + self.batch, len(self.prompts))) for i in range(0, len(self.prompts), self.batch)]

    def _part(self, pipe: Any, part: range, steps: int, guidance: float) -> torch.Tensor:
        from fewstep.samplers import generators

        made = pipe(
            prompt=[self.prompts[i] for i in part],
            num_inference_steps=steps,
            generator=generators([self.seed + i for i in part]),
            output_type="pt",
            **_arguments(pipe, guidance),
        )
        return made.images.float().cpu()

    @staticmethod
    def _calls(pipe: Any, steps: int) -> int:
        scheduler = copy.deepcopy(pipe.scheduler)
        dynamic = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(steps, **dynamic)
        return len(scheduler.timesteps)

    def _ratios(self, pipe: Any, steps: int, calls: int, guidance: float) -> list[float]:
        """Those of MagCache, from one run of the first batch for every sampler, guidance and number of steps."""
        key = (type(pipe.scheduler).__name__, str(pipe.scheduler.config), steps, guidance)
        if key not in self.calibrated:
            run = functools.partial(self._part, pipe, self.parts[0], steps, guidance)
            self.calibrated[key] = magcache_ratios(pipe, calls, run)
        return self.calibrated[key]


def median_psnr(pictures: torch.Tensor, reference: torch.Tensor) -> float:
    """Median over the pictures of the peak signal-to-noise ratio, in dB for a range of 1; infinite where equal."""
    square = (pictures - reference).double().square().flatten(1).mean(1)
    return float((-10 * square.log10()).median())


def _labels(count: int) -> tuple[list[str], dict[str, list[int]]]:
    """Captions for the shipped model, and what the judge should see."""
    from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, caption

    labels = [(i % len(GARMENTS), (i * 3 + i // len(GARMENTS)) % len(COLOURS)) for i in range(count)]
    texts = [caption(g, c, i % len(BACKGROUNDS)) for i, (g, c) in enumerate(labels)]
    return texts, {"garment": [g for g, _ in labels], "colour": [c for _, c in labels]}


@functools.cache
def judge() -> Any:
    """The judge of the shipped model."""
    import fewstep.assets

    from .judge import Judge

    return Judge.from_pretrained(Path(fewstep.assets.__file__).parent / "models" / "garments-judge")


def _judged(pictures: torch.Tensor, labels: dict[str, list[int]]) -> dict[str, float | None]:
    """Shares of pictures in which the judge sees what was asked for."""
    if not labels:
        return {"garment_accuracy": None, "colour_accuracy": None}
    answers = judge().answers(pictures * 2 - 1)
    return {
        f"{question}_accuracy": round(float((answers[question] == torch.tensor(wanted)).float().mean()), 4)
        for question, wanted in labels.items()
    }


def measure_caches(
    model: str | Any,
    steps: int = 30,
    guidance: Sequence[float] = (1.0, 3.0),
    count: int = 24,
    caches: Sequence[str] = CACHES,
    hosts: Sequence[str | Contender] = HOSTS,
    prompts: Sequence[str] | None = None,
    batch: int = 24,
    repeats: int = 3,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure caches on a model, every row with the same prompts and seeds.

    Args:
        model: what `fewstep.pipelines.load` takes, or a pipeline, which is then given each host in turn.
        steps: network calls of the full run; a sampler with two a step takes half as many steps.
        guidance: scales.
        count: pictures; picture i has seed `seed` + i.
        caches: texts as `split_caches` knows them. ``none`` is always measured, and so is ``fewer-steps``, with as many
            steps as each of the caches made calls.
        hosts: samplers by any name that `fewstep.pipelines.set_sampler` takes, or as `contenders.Contender`.
        prompts: `count` texts; by default captions of the shipped model, which alone is judged.
        batch: pictures that go through the network together.
        repeats: runs of every cell, interleaved; the best time counts.
        seed: of the first picture.
        progress: told of every row.

    Returns:
        Rows with ``sampler``, ``cache``, ``guidance``, ``steps``, ``real_calls``, ``skipped``, ``psnr`` (None where it
        is infinite: nothing changed), ``garment_accuracy``, ``colour_accuracy``, ``seconds``, ``speedup``, ``note``.
    """
    from fewstep.pipelines import load, set_sampler
    from fewstep.pipelines.loading import model_name

    names = [name for text in caches for name in split_caches(text)]
    if count < 1 or repeats < 1 or batch < 1 or steps < 1:
        raise ValueError(
            f"count, repeats, batch and steps must be at least 1, got {count}, {repeats}, {batch}, {steps}"
        )
    if prompts is not None and len(prompts) != count:
        raise ValueError(f"prompts must be as many as count, {count}, got {len(prompts)}")
    pipe = cast(Any, load(model)) if isinstance(model, str | Path) else model
    texts, labels = (list(prompts), {}) if prompts is not None else _labels(count)
    labels = labels if model_name(pipe) == "garments" else {}
    bench = _Bench(pipe, texts, batch, seed)
    rows: list[dict[str, Any]] = []
    for host in hosts:
        made = host if isinstance(host, Contender) else Contender(host, host)
        set_sampler(pipe, made.sampler, **made.fields, **made.hidden)
        for scale in guidance:
            for row in _cell(bench, made, float(scale), steps, names, labels, repeats):
                rows.append(row)
                if progress is not None:
                    progress(row)
    return rows


def _cell(
    bench: _Bench, host: Contender, guidance: float, calls: int, names: Sequence[str], labels: Any, repeats: int
) -> Iterator[dict[str, Any]]:
    """Rows of one sampler and one guidance scale."""
    steps = host.steps(calls)
    bench.run(1 if host.can_make(1) else steps, guidance, "none")  # first calls are slower
    plan = [("none", steps), *[(n, steps) for n in names if n not in ("none", "fewer-steps")]]
    made: dict[tuple[str, int], tuple[torch.Tensor, float]] = {}
    times: dict[tuple[str, int], float] = {}
    notes: dict[tuple[str, int], str] = {}
    for repeat in range(repeats):
        for cell in list(plan):
            if cell in notes:
                continue
            try:
                pictures, seconds, real = bench.run(cell[1], guidance, "none" if cell[0] == "fewer-steps" else cell[0])
            except ValueError as error:
                if cell[0] == "none":
                    raise
                notes[cell] = _sentence(error)
                continue
            made[cell] = pictures, real
            times[cell] = min(seconds, times.get(cell, seconds))
        if repeat == 0:
            counts = {math.ceil(real) for (name, _), (_, real) in made.items() if name != "none"}
            fewer = {host.steps(count) for count in counts if count < made[plan[0]][1] and host.can_make(count)}
            fewer_cells = [("fewer-steps", few) for few in sorted(fewer, reverse=True) if few < steps]
            plan += fewer_cells
            for cell in fewer_cells:
                pictures, times[cell], real = bench.run(cell[1], guidance, "none")
                made[cell] = pictures, real
    (reference, every), full = made[plan[0]], times[plan[0]]
    for cell in plan:
        name, taken = cell
        row: dict[str, Any] = {"sampler": host.name, "cache": name, "guidance": guidance, "steps": taken}
        if cell in notes:
            yield {**row, **dict.fromkeys(FIGURES), "note": notes[cell]}
            continue
        pictures, real = made[cell]
        psnr = median_psnr(pictures, reference)
        yield {
            **row,
            "real_calls": real,
            "skipped": 0 if name == "fewer-steps" else round(every - real, 1) if real % 1 else int(every - real),
            "psnr": round(psnr, 2) if psnr < float("inf") else None,
            **_judged(pictures, labels),
            "seconds": round(times[cell], 3),
            "speedup": round(full / times[cell], 3),
            "note": "the same pictures" if psnr == float("inf") else "" if psnr == psnr else "pictures are not finite",
        }


def _sentence(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())


def row_line(row: dict[str, Any]) -> str:
    """A row as one line of text."""
    where = f"{row['sampler']:18s} g {row['guidance']:<4g} {row['cache']:32s}"
    if row["seconds"] is None:
        return f"{where} {row['note']}"
    psnr = "same" if row["psnr"] is None else f"{row['psnr']:.1f} dB"
    judged = "" if row["garment_accuracy"] is None else f"  {row['garment_accuracy']:.3f} {row['colour_accuracy']:.3f}"
    return (
        f"{where} {row['real_calls'] or '-':>4} calls {psnr:>9} {row['seconds']:8.2f} s {row['speedup']:6.2f} x{judged}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a row, and write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.cache_benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="garments", help="model as in fewstep generate (default garments)")
    parser.add_argument("--steps", type=int, default=30, help="of the full run (default 30)")
    parser.add_argument("--guidance", default="1,3", help="guidance scales (default 1,3)")
    parser.add_argument("--count", type=int, default=24, help="pictures (default 24)")
    parser.add_argument("--caches", default=",".join(CACHES), help="such as none,ab:2,3,fewer-steps")
    parser.add_argument("--hosts", default=",".join(HOSTS), help="samplers (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")
    options = parser.parse_args(arguments)
    try:
        rows = measure_caches(
            options.model,
            options.steps,
            [float(g) for g in options.guidance.split(",")],
            options.count,
            split_caches(options.caches),
            options.hosts.split(","),
            progress=lambda row: print(row_line(row), flush=True),
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.json:
        words = ["python -m fewstep.eval.cache_benchmark", *(sys.argv[1:] if arguments is None else arguments)]
        settings = {"model": options.model, "samples": options.count, "seeds": [0, options.count - 1]}
        settings |= {"psnr": "median over pictures, to the run without a cache", "seconds": "best of 3, interleaved"}
        settings |= {"threads": torch.get_num_threads()}
        write_results(options.json, " ".join(words), settings, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
