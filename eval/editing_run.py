"""``fewstep benchmark --task editing``: ways of editing by words, at equal numbers of network calls.

Rows of the part ``edit``: the share of edits in which the judge finds the target (``reached``), in which all that was
to stay is as the judge found it before (``kept``), and in which both hold (``both``); structure distance; PSNR and SSIM
outside of the edited region; CLIP similarities; PSNR and latent error of the reconstruction by the same inversion.
``calls`` are those of inversion and edit. Rows of the part ``round trip`` invert and sample again with the same prompt,
for ever more steps; their ``calls`` are those of both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .benchmark_cells import Arrays, Cell
from .benchmark_metrics import number
from .benchmark_problems import hash_of_sources
from .editing_contenders import of_authors, select, swept
from .editing_methods import EditMethod
from .editing_problem import FIGURES, EditingProblem
from .task_options import TaskOptions, option
from .task_run import Planned, Row, Task

#: Solver, on which model, and steps of the round trips; and how many pictures.
TRIPS = (
    ("fireflow", "fireflow", "flow", (4, 8, 16)),
    ("rf-solver", "midpoint", "flow", (4, 8)),
    ("uni-inv", "uni-inv", "flow", (8, 16)),
    ("euler", "euler", "flow", (8, 16, 32, 64)),
    ("exact", "exact", "flow", (8,)),
    ("ddim", "euler", "epsilon", (8, 16)),
)
TRIP_COUNT = 60
#: Data that needs no file.
DRAWN = "drawn"


@dataclass(frozen=True)
class EditingOptions(TaskOptions):
    """What a comparison of ways of editing measures; what is not here is in `TaskOptions`.

    Attributes:
        model: a Flux, Stable Diffusion 3 or Stable Diffusion pipeline.
        epsilon: an epsilon model for DDIM inversion; ``none`` leaves it out.
        data: Fashion-MNIST, whose test pictures are painted (.npz or folder), a folder of PIE-Bench, or ``drawn``:
            pictures by the model `garments`.
        dino: folder of a vision transformer for the structure distance.
        clip: a CLIP model, folder or name.
        tuning: edits to choose settings by, which have no picture and no seed in common with the others.
        save_pictures: keep the edits as PNG files below ``out/pictures``.
    """

    task: ClassVar[str] = "editing"

    model: str = option("garments-flow", "a Flux, SD 3 or SD pipeline: shipped, a folder, or a name on the hub")
    epsilon: str = option("garments", "an epsilon model for DDIM inversion; none: leave it out")
    data: str = option(DRAWN, "Fashion-MNIST (.npz, folder), a PIE-Bench folder, or drawn: pictures of garments")
    count: int = option(300, "edits a seed")
    seeds: int = option(1, "independent repeats")
    batch: int = option(300, "pictures at once")
    dino: str | None = option(None, "folder of a vision transformer for the structure distance")
    clip: str | None = option(None, "a CLIP model, folder or name on the hub, for similarities")
    tuning: bool = option(False, "the edits to choose settings by")
    save_pictures: bool = option(False, "keep the pictures below OUT/pictures")


class EditingTask(Task):
    """The comparison of ways of editing.

    Raises:
        ValueError, FileNotFoundError: a model, data or methods that are not there or do not fit.
    """

    name = "editing"
    columns = (*FIGURES, "calls", "seconds")

    def __init__(self, options: EditingOptions) -> None:
        from fewstep.pipelines.loading import load_model

        from .editing_pie import PieBench, is_pie_bench

        self.options: EditingOptions = options
        self.notes = []
        self.garments = options.data == DRAWN or not is_pie_bench(options.data)
        default = swept() if self.garments else of_authors()
        self.methods = select(options.samplers, default)
        pipes = {"flow": load_model(options.model, dtype=options.dtype, device=options.device)}
        if not self.garments:
            edits: Any = PieBench(options.data)
        elif options.data != DRAWN:
            from .editing_garments import PaintedEdits

            edits = PaintedEdits(options.data, options.seed, options.tuning)
        else:
            from .editing_garments import DrawnEdits

            edits = DrawnEdits("garments", options.seed, options.tuning, options.device)
        if options.epsilon != "none" and any(method.place == "epsilon" for method in self.methods):
            pipes["epsilon"] = load_model(options.epsilon, dtype=options.dtype, device=options.device)
        self.items = options.count * options.seeds
        if self.items > edits.most:
            self.notes.append(f"there are {edits.most} edits, so that many were made, not {self.items}")
            self.items = edits.most
        self.methods = [method for method in self.methods if method.place in pipes]
        self.problem = EditingProblem(edits, pipes, options.dino, options.clip, options.seed)
        if options.dino is None and edits.judge is None:
            self.notes.append("without --dino there is no structure distance")

    def plan(self) -> list[Planned]:
        made = []
        for method in self.methods:
            for budget in self.options.nfe if method.steps is None else (None,):
                doubled = self.problem.doubled[method.place]
                steps = method.steps if budget is None else method.steps_for(budget, doubled)
                if steps is None:
                    continue  # no step for so few calls
                calls = method.calls(steps, doubled) if budget is None else budget
                made.append(self._planned("edit", method, steps, calls, self.items))
        if self.garments and "all" in self.options.samplers:
            for name, solver, place, counts in TRIPS:
                if place in self.problem.pipes:
                    method = EditMethod(name, solver, place=place, guidance=1.0)
                    for steps in counts:
                        calls = method.calls(steps, False)
                        made.append(self._planned("round trip", method, steps, calls, min(self.items, TRIP_COUNT)))
        return made

    def _planned(self, part: str, method: EditMethod, steps: int, nfe: int, items: int) -> Planned:
        settings = {
            "kind": "editing",
            "part": part,
            "problem": self.problem.fingerprint,
            "versions": _versions(),
            "method": method.settings(),
            "steps": steps,
            "saved": self.options.save_pictures,
        }
        row = {
            "part": part,
            "sampler": method.name,
            "family": method.family,
            "origin": method.origin,
            "model": self.options.model if method.place == "flow" else self.options.epsilon,
            "nfe": nfe,
            "steps": steps,
            "skip": method.skipped(steps),
            "guidance": float(method.guidance),
            "strategy": method.strategy,
            "samples": items,
        }
        return Planned(Cell(settings, items, self.options.batch), row, method)

    def compute(self, planned: Planned, items: range) -> Mapping[str, Any]:
        steps = planned.cell.settings["steps"]
        if planned.row["part"] == "round trip":
            return self.problem.trip(planned.contender, steps, items)
        figures, pictures = self.problem.run(planned.contender, steps, items, self.methods)
        if self.options.save_pictures:
            from .benchmark_run import save_pictures

            words = planned.contender.name.replace(" ", "-").lower()
            folder = Path(self.options.out) / "pictures" / f"{words}-{planned.row['nfe']}"
            save_pictures(folder, 2 * pictures - 1, items)
        return figures

    def merge(self, cell: Cell, arrays: Arrays) -> dict[str, Any]:
        row: dict[str, Any] = {name: _mean(arrays[name]) for name in FIGURES}
        kinds = self.problem.edits.kinds
        for name in ("reached", "kept", "both"):
            for k, kind in enumerate(kinds):
                here = arrays[name][arrays["kind"] == k]
                if np.isfinite(here).any():
                    row[f"{name}_{kind.replace(' ', '_')}"] = _mean(here)
        return {
            **row,
            "calls": number(float(arrays["calls"].mean())),
            "seconds": number(float(arrays["seconds"].sum()) / cell.items, 4),
        }

    def settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "model": options.model,
            "epsilon": options.epsilon if "epsilon" in self.problem.pipes else None,
            **self.problem.edits.about,
            "samples": self.items,
            "first_seed": options.seed,
            "batch": options.batch,
            "structure": self.problem.structure,
            "clip": options.clip,
            "device": self.problem.fingerprint["device"],
            "dtype": self.problem.fingerprint["dtype"]["flow"],
        }

    def markdown(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
        from .editing_output import markdown_table

        return markdown_table(rows)

    def lines(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[str]:
        from .editing_output import sentences

        return sentences(rows)

    def plots(self, rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> list[Path]:
        from .editing_output import editing_plots

        return editing_plots(rows, folder)


def _mean(values: np.ndarray) -> float | None:
    """The mean of what is finite; an infinite PSNR, of equal pictures, says nothing of the others."""
    known = values[np.isfinite(values)]
    return number(float(known.mean())) if len(known) else None


@functools.cache
def _versions() -> dict[str, str]:
    """Versions that an edit and its figures depend on; of our own code the hash of what makes and measures them."""
    import fewstep.pipelines.editing as editing
    import fewstep.samplers as samplers

    here, theirs = Path(__file__).parent, Path(str(editing.__file__)).parent
    methods = Path(str(samplers.__file__)).parent / "continuous"
    files = [here / f"editing_{name}.py" for name in ("edits", "garments", "measures", "methods", "pie", "problem")]
    files += sorted(theirs.glob("models*.py"))
    files += [theirs / f"{name}.py" for name in ("injection", "inversion", "inversion_free", "leg", "sampling")]
    files += [methods / f"{name}.py" for name in ("fireflow", "midpoint", "o_belm", "rf_inversion", "uni_inv")]
    code = hash_of_sources([(file.name, file) for file in files if file.exists()])
    return {name: version(name) for name in ("diffusers", "torch", "transformers")} | {"code": code}
