"""One process' part in a benchmark of samplers: references, choice of grids, figures of every cell, rows."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .benchmark_options import Options


@dataclass
class Outcome:
    """What a benchmark came to.

    Attributes:
        rows: one a measured sampler, grid, guidance and number of calls.
        settings: what they have in common.
        complete: whether everything asked for was measured; a run that was stopped is not.
        files: what was written, by this process.
        notes: sentences about what was asked for and is not there.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    complete: bool
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


#: ``told(phase, done, all, text)``
Told = Callable[[str, int, int, str], None]


def silent(phase: str, done: int, all_: int, text: str) -> None:
    pass


class _Planned(NamedTuple):
    contender: Any
    guidance: float
    nfe: int
    grid: str
    default: bool
    best: bool
    cell: Any


class _Choice(NamedTuple):
    grids: dict[str, str | None]
    default: str
    best: str
    error: float


class Benchmark:
    """A benchmark of samplers on a problem.

    Args:
        options: what to measure.
        problem: what to measure it on; by default what `options.model` says.
        told: hears how far it is.

    Raises:
        ValueError: an unknown model or sampler, a recipe that is for another process or has none of the numbers of
            calls, or options that the model has no use for.
        ImportError: the beta grid without scipy.
    """

    def __init__(self, options: Options, problem: Any = None, told: Told = silent) -> None:
        from fewstep.pipelines.swapping import GRIDS

        from .benchmark_cells import Share, Store
        from .benchmark_metrics import PICTURE_METRICS
        from .benchmark_problems import problem_of
        from .contenders import select

        self.options, self.told = options, told
        self.grid_names = tuple(GRIDS) if "all" in options.grids else tuple(g for g in options.grids if g != "default")
        if "beta" in self.grid_names and importlib.util.find_spec("scipy") is None:  # said before anything is measured
            raise ImportError("the beta grid needs scipy: pip install 'fewstep[eval]', or name other --grids")
        self.share = Share.of_environment()
        if self.share.world == 1:
            self.share = Share(0, options.processes)
        self.begin = time.monotonic()
        if options.model == "garments" or options.model.startswith("oracle:"):  # before anything is loaded
            check_fit(select(options.samplers, _kind(options.model)), _kind(options.model), options.nfe)
        self.store = Store(Path(options.out) / "cells")
        if self.share.rank == 0:
            self.store.forget_failures()
        if problem is None:
            prompts = None if options.prompts is None else read_prompts(options.prompts)
            problem = problem_of(options.model, prompts, options.seed, own_device(options.device), options.dtype)
        self.problem = problem
        self.contenders = select(options.samplers, problem.process)
        check_fit(self.contenders, problem.process, options.nfe)
        self.contender_of: dict[str, Any] = {}
        self.rmse_count = min(options.rmse_count, options.count)
        self.grid_count = min(options.grid_count, self.rmse_count)
        asked = [name for name in PICTURE_METRICS if name in options.metrics]
        self.judged = getattr(problem, "judge", None) is not None and bool(asked)
        if options.save_pictures:
            _check_pictures(problem)
        self.pictures = self.judged or options.save_pictures
        self.judging = dict(problem.judging()) if self.pictures else {}
        self.notes: list[str] = []
        if asked and not self.judged:
            why = "with prompts of your own no answers are known" if options.prompts else "it has no judge"
            self.notes.append(f"{', '.join(asked)} are not measured on {options.model}: {why}")
        self.references: dict[float, Any] = {}

    def out_of_time(self) -> bool:
        """Whether the time limit is reached."""
        limit = self.options.limit_time
        return limit is not None and time.monotonic() - self.begin >= limit

    def _measure(self, phase: str, cells: list[Any]) -> list[dict[str, Any]]:
        from .benchmark_cells import measure

        def told(done: int, all_: int, cell: Any) -> None:
            s = cell.settings
            self.told(phase, done, all_, f"{s['sampler']} {s['grid']} g {s['guidance']:g}, {s['nfe']} calls")

        return measure(self.store, cells, self.compute, self.merge, self.share, self.out_of_time, told)

    def cell(self, contender: Any, grid: str | None, guidance: float, nfe: int, items: int, pictures: bool) -> Any:
        """The cell of a contender at a grid."""
        from .benchmark_cells import Cell
        from .benchmark_problems import measure_hash

        settings = {
            "kind": "sampler",
            "problem": dict(self.problem.fingerprint),
            "code": measure_hash("benchmark_metrics", "frechet", "kernel", "statistics", "judge"),
            "sampler": contender.sampler,
            "fields": dict(contender.fields),
            "hidden": sorted(f"{key}={value.__name__}" for key, value in contender.hidden.items()),
            "grid": grid,
            "guidance": float(guidance),
            "nfe": nfe,
            "steps": contender.steps(nfe),
            "pictures": pictures,
            "reference": [self.options.reference_steps, self.rmse_count],
        }
        if pictures:
            settings["judging"] = self.judging
            if self.options.save_pictures:  # a cell that was measured without does not do
                settings["saved"] = items
        cell = Cell(settings, items, self.options.batch, keep=not pictures)
        self.contender_of[cell.key] = contender
        return cell

    def pictures_of(self, cell: Any) -> str | None:
        """Folder of the pictures of a cell, relative to that of the results; None if they are not kept."""
        if "saved" not in cell.settings:
            return None
        s, name = cell.settings, self.contender_of[cell.key].name
        words = re.sub(r"[^a-z0-9.]+", "-", f"{name} {s['grid'] or ''}".lower()).strip("-")
        return f"pictures/{words}-g{s['guidance']:g}-{s['nfe']}-{cell.key[:8]}"

    def compute(self, cell: Any, items: range) -> dict[str, Any]:
        """Samples of one part, and what is kept of them."""
        from .benchmark_metrics import measured_arrays

        s = cell.settings
        run = self.problem.run(self.contender_of[cell.key], s["grid"], s["guidance"], s["steps"], items)
        folder = self.pictures_of(cell)
        if folder is not None:
            save_pictures(Path(self.options.out) / folder, self.problem.pictures(run.latents), items)
        return measured_arrays(self.problem, run, items, self.references[s["guidance"]], s["pictures"])

    def merge(self, cell: Any, arrays: Any) -> dict[str, Any]:
        """All figures that the parts of a cell allow."""
        from .benchmark_metrics import row_of_arrays

        return row_of_arrays(arrays)

    def _best_grids(self) -> dict[tuple[str, float, int], _Choice]:
        """The choice of grid for each contender's name, guidance and number of calls."""
        options = self.options
        grids: dict[tuple[str, int], dict[str, str | None]] = {}
        for contender in self.contenders:
            for nfe in filter(contender.can_make, options.nfe):
                grids[contender.name, nfe] = self.problem.grids(contender, contender.steps(nfe), self.grid_names)
        asked = [
            (contender, guidance, nfe, name, grid)
            for guidance in options.guidance
            for nfe in options.nfe
            for contender in self.contenders
            if contender.can_make(nfe)
            for name, grid in grids[contender.name, nfe].items()
            if len(grids[contender.name, nfe]) > 1 or options.picture_samplers
        ]
        cells = [self.cell(c, grid, g, n, self.grid_count, False) for c, g, n, _, grid in asked]
        rows = self._measure("choosing grids", cells) if cells else []
        errors: dict[tuple[str, float, int], dict[str, float]] = {}
        for (contender, guidance, nfe, name, _), row in zip(asked, rows, strict=True):
            value = row.get("rmse")
            error = math.inf if value is None else value
            errors.setdefault((contender.name, guidance, nfe), {})[name] = error
        found: dict[tuple[str, float, int], _Choice] = {}
        for contender in self.contenders:
            for guidance in options.guidance:
                for nfe in filter(contender.can_make, options.nfe):
                    here = grids[contender.name, nfe]
                    default = next(iter(here))
                    rated = errors.get((contender.name, guidance, nfe), {default: 0.0})
                    best = min(rated, key=lambda name: (rated[name], name != default))
                    found[contender.name, guidance, nfe] = _Choice(here, default, best, rated[best])
        return found

    def _pictured(self, chosen: dict[tuple[str, float, int], _Choice], guidance: float, nfe: int) -> set[str]:
        """Names of the contenders whose pictures are looked at."""
        most = self.options.picture_samplers
        if not self.pictures or not most:
            return {contender.name for contender in self.contenders if self.pictures}
        found: set[str] = set()
        for family in ("fewstep", "diffusers"):
            names = [made.name for made in self.contenders if made.family == family and made.can_make(nfe)]
            found |= set(sorted(names, key=lambda name: chosen[name, guidance, nfe].error)[:most])
        return found | {made.name for made in self.contenders if made.only and made.can_make(nfe)}  # tuned for it

    def run(self) -> Outcome:
        """Measure everything, or what the time allows."""
        from .benchmark_cells import OutOfTime
        from .solver_errors import reference_solutions

        options = self.options
        rows: list[dict[str, Any]] = []
        complete = False
        plan: list[_Planned] = []
        try:
            self.references = reference_solutions(
                self.problem,
                options.guidance,
                self.rmse_count,
                steps=options.reference_steps,
                batch=options.batch,
                cache=options.references,
                share=self.share,
                stop=self.out_of_time,
                told=lambda done, all_, cell: self.told(
                    "reference solutions", done, all_, f"g {cell.settings['guidance']:g}"
                ),
            )
            chosen = self._best_grids()
            for guidance in options.guidance:
                for nfe in options.nfe:
                    pictured = self._pictured(chosen, guidance, nfe)
                    for contender in self.contenders:
                        if not contender.can_make(nfe):
                            continue
                        choice = chosen[contender.name, guidance, nfe]
                        for name in dict.fromkeys([choice.default, choice.best]):
                            default, best = name == choice.default, name == choice.best
                            look = contender.name in pictured and (best or not options.picture_samplers)
                            items = options.count if look else self.rmse_count
                            cell = self.cell(contender, choice.grids[name], guidance, nfe, items, look)
                            plan.append(_Planned(contender, guidance, nfe, name, default, best, cell))
            self._measure("measuring", [entry.cell for entry in plan])
            complete = True
        except OutOfTime:
            pass
        for entry in plan:
            row = self.store.row(entry.cell)
            if row is not None:
                rows.append(self._row(entry, row))
        settings = self._settings(complete)
        if len(folders := {row["pictures"] for row in rows if row.get("pictures")}) == 1:
            settings["pictures"] = folders.pop()  # what `fewstep evaluate` looks at
        return Outcome(rows, settings, complete, notes=list(self.notes))

    def _row(self, planned: _Planned, found: dict[str, Any]) -> dict[str, Any]:
        from .benchmark_metrics import COLUMNS, METRICS

        unwanted = {column for name in METRICS if name not in self.options.metrics for column in COLUMNS[name]}
        figures: dict[str, Any] = {column: None for columns in COLUMNS.values() for column in columns}
        figures |= {key: value for key, value in found.items() if key not in unwanted}
        contender = planned.contender
        if contender.note:
            figures["note"] = contender.note
        if "error" not in found and (folder := self.pictures_of(planned.cell)) is not None:
            figures["pictures"] = folder
        return {
            "sampler": contender.name,
            "family": contender.family,
            "method": contender.sampler,
            "fields": ", ".join(f"{key}={value}" for key, value in contender.fields.items() if not contender.only),
            "grid": planned.grid,
            "default": planned.default,
            "best": planned.best,
            "guidance": planned.guidance,
            "nfe": planned.nfe,
            "steps": contender.steps(planned.nfe),
            "samples": planned.cell.items,
            **figures,
        }

    def _settings(self, complete: bool) -> dict[str, Any]:
        options = self.options
        references = self.references.values()
        return {
            "model": options.model,
            "process": self.problem.process,
            "samples": options.count if self.pictures else self.rmse_count,
            "rmse_samples": self.rmse_count,
            "grid_samples": self.grid_count,
            "grids": list(self.grid_names),
            "metrics": list(options.metrics),
            "picture_samplers": options.picture_samplers or "all",
            "seeds": [options.seed, options.seed + options.count - 1],
            "batch": options.batch,
            "device": self.problem.device.type,
            "processes": self.share.world,
            "reference": next((r.solver for r in references), None),
            "reference_calls": next((r.calls for r in references), None),
            "reference_residual": {f"{g:g}": float(f"{r.residual:.3g}") for g, r in self.references.items()},
            "latent_rms": {
                f"{g:g}": float(f"{r.latents.double().square().mean().sqrt():.4g}") for g, r in self.references.items()
            },
            "complete": complete,
        }


def _kind(model: str) -> str:
    """Process of the models whose name says it."""
    last = model.rpartition(":")[2]
    return last if last in ("flow", "edm") else "vp"


def check_fit(contenders: Sequence[Any], process: str, nfe: Sequence[int]) -> None:
    """Refuse samplers, such as recipes, that cannot be run at all."""
    for made in contenders:
        if process not in made.processes:
            raise ValueError(
                f"{made.name} is for {' and '.join(made.processes)} models, and this one is a {process} model"
            )
        if not any(map(made.can_make, nfe)):
            known, asked = (", ".join(map(str, numbers)) for numbers in (made.only, nfe))
            raise ValueError(f"{made.name} was tuned for {known} network calls, and asked for are {asked}")


def _check_pictures(problem: Any) -> None:
    pipe = getattr(problem, "pipe", None)
    if getattr(pipe, "vae", None) is None or hasattr(pipe, "_unpack_latents"):
        raise ValueError(
            f"the pictures of {type(pipe or problem).__name__} cannot be saved here: its latents are not what a "
            "decoder takes; use fewstep generate"
        )


def save_pictures(folder: Path, pictures: Any, items: range) -> None:
    """Write pictures (n, 3, H, W) in [-1, 1] as ``000123.png`` with the numbers of their samples."""
    import torch
    from PIL import Image

    from fewstep.pipelines.files import write_atomically

    pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for item, picture in zip(items, pixels, strict=True):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        write_atomically(folder / f"{item:06d}.png", content.getvalue())


def read_prompts(path: str) -> list[str]:
    """Lines of a file that are not empty.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there are none, or it is no text.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of prompts {path!r}")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8, and prompts are text, one a line") from None
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"{path} holds no prompts")
    return found


def own_device(device: str | None) -> str | None:
    """Each process of a launch its own accelerator, unless one is named."""
    import torch

    if device is not None or "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return device
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return "cpu"
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
