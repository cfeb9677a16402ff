"""What the tab Compare computes: several samplers from the same noise, and how far each ends from the solution."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import pictures
from .compare_lines import compare_commands, compare_python
from .draw import check_prompt, check_whole, samplers, whole_of
from .jobs import Job
from .models import DRAW, Models
from .references import References
from .settings import MAX_STEPS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Most samplers and most step counts of one comparison.
MOST_SAMPLERS, MOST_COUNTS = 6, 5
#: Steps of the run that counts as the solution.
REFERENCE_STEPS = 100
#: Samplers of diffusers beside ours.
RIVALS = (
    "diffusers:DPMSolverMultistepScheduler",
    "diffusers:UniPCMultistepScheduler",
    "diffusers:DDIMScheduler",
    "diffusers:PNDMScheduler",
)
#: A difference is shown so many times as bright as it is.
GAIN = 4


@dataclass(frozen=True)
class CompareRequest:
    """What is on the screen."""

    prompt: str
    model: str
    samplers: tuple[str, ...]
    steps: tuple[int, ...]
    guidance: float = 3.0
    grid: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not 1 <= len(self.samplers) <= MOST_SAMPLERS:
            raise ValueError(f"choose 1 to {MOST_SAMPLERS} samplers, not {len(self.samplers)}")
        if not 1 <= len(self.steps) <= MOST_COUNTS:
            raise ValueError(f"give 1 to {MOST_COUNTS} numbers of steps, not {len(self.steps)}")
        for number in self.steps:
            check_whole("steps", number, 1, MAX_STEPS)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        if not isinstance(self.guidance, int | float) or not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance must be 0 to 100, got {self.guidance!r}")


def choices() -> list[str]:
    """Samplers that can be compared."""
    return [*samplers(), *RIVALS]


def parse_steps(text: str) -> tuple[int, ...]:
    """(4, 8, 16) from "4, 8, 16".

    Raises:
        ValueError: anything else.
    """
    words = [word for word in str(text).replace(";", ",").replace(" ", ",").split(",") if word]
    try:
        return tuple(dict.fromkeys(int(word) for word in words))
    except ValueError:
        raise ValueError(f"steps are whole numbers such as 4, 8, 16; got {str(text)[:40]!r}") from None


def compare_request(names: Sequence[str], steps: str, seed: Any, **values: Any) -> CompareRequest:
    """A request from widgets."""
    from fewstep.samplers.core.registry import nearest

    known = choices()
    for name in names or ():
        if name not in known:
            raise ValueError(f"unknown sampler {name!r}{nearest(str(name), known)} Known are {', '.join(known)}")
    return CompareRequest(
        samplers=tuple(dict.fromkeys(names or ())), steps=parse_steps(steps), seed=whole_of("seed", seed), **values
    )


@dataclass(frozen=True)
class Cell:
    """One sampler at one number of steps.

    Attributes:
        error: root mean square distance of the latents to the solution; infinite for a run that diverged.
        difference: from the picture of the solution, `GAIN` times as bright.
        reason: why there is no picture, as a sentence.
    """

    sampler: str
    steps: int
    image: Image | None
    difference: Image | None
    error: float
    calls: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Compared:
    """What a comparison gave."""

    request: CompareRequest
    cells: dict[tuple[str, int], Cell]
    reference: Image
    settings: dict[str, Any]
    calls: int
    seconds: float
    command: str
    python: str

    @property
    def best(self) -> dict[int, float]:
        """Least error at each number of steps."""
        return {n: min(c.error for c in self.cells.values() if c.steps == n) for n in self.request.steps}

    def sheet(self, folder: Path) -> Path:
        """The comparison as one PNG file with its settings inside."""
        from PIL import Image as Images

        asked = self.request
        size = self.reference.size
        rows = []
        for name in asked.samplers:
            row = [self.cells[name, n] for n in asked.steps]
            errors = ", ".join(f"{cell.error:.3f}" for cell in row)
            rows.append(
                (name.replace(":", ": "), f"error {errors}", [c.image or Images.new("RGB", size, "grey") for c in row])
            )
        note = f"{asked.model}, guidance {asked.guidance:g}, seed {asked.seed}"
        sheet = pictures.contact_sheet(rows, [f"{n} steps" for n in asked.steps], asked.prompt, note)
        target = folder / f"{pictures.slug(asked.prompt)}-compare.png"
        pictures.write_pictures([(target, sheet, self.settings)])
        return target


def compare(
    models: Models, references: References, request: CompareRequest, job: Job, *, hide_source: bool = False
) -> Compared:
    """Make the pictures of a comparison.

    A sampler that does not fit the model, or diverges, has its sentence in its cells, and the others are made.

    Raises:
        Cancelled: the job was cancelled.
        ValueError: no sampler fits.
    """
    from fewstep.eval.solver_errors import reference_solvers
    from fewstep.pipelines.swapping import check_sampler
    from fewstep.samplers.schedulers import process_of_config

    for name in request.samplers:
        check_sampler(name, request.grid)
    job.part("loading the model")
    pipe = models.get(request.model, DRAW)
    key = (request.model, request.prompt, request.guidance, request.seed)
    known = references.get(key)
    total = len(request.samplers) * sum(request.steps) + (0 if known else REFERENCE_STEPS)
    run = _Runs(pipe, request, job, total)
    if known is None:
        solver = reference_solvers(process_of_config(dict(pipe.scheduler.config)))[0]
        made = run.one(
            solver.contender.sampler, solver.grid, dict(solver.contender.fields), REFERENCE_STEPS, "solution"
        )
        known = (run.latents, made.images[0])
        references.put(key, known)
    cells: dict[tuple[str, int], Cell] = {}
    settings: dict[str, Any] = {}
    for name in request.samplers:
        for steps in request.steps:
            cells[name, steps], found = _cell(run, name, steps, request.grid, known)
            settings = settings or found
    if not settings:
        raise ValueError(next(iter(cells.values())).reason)
    source = request.model if hide_source else models.source(request.model, DRAW)
    settings |= {
        "model": request.model,
        "prompt": request.prompt,
        "compare": ", ".join(request.samplers),
        "given": {},
        "all_steps": list(request.steps),
        "steps": request.steps[0],
        "seed": request.seed,
        "batch": {"seed": request.seed, "count": 1},
    }
    return Compared(
        request,
        cells,
        known[1],
        settings,
        sum(cell.calls for cell in cells.values()),
        sum(cell.seconds for cell in cells.values()),
        compare_commands(request, source),
        compare_python(request, source),
    )


class _Runs:
    """Runs of one comparison, whose steps add up to one bar."""

    def __init__(self, pipe: Any, request: CompareRequest, job: Job, total: int) -> None:
        self.pipe, self.request, self.job, self.total = pipe, request, job, total
        self.before = 0
        self.latents: Any = None
        job.part("comparing", 0, total)

    def one(self, sampler: str, grid: str | None, fields: dict[str, Any], steps: int, what: str) -> Any:
        """One run; `latents` are its result's."""
        from fewstep.pipelines import generate, set_sampler

        self.job.what = what

        def after_step(done: int, total: int, latents: Any) -> None:
            self.latents = latents
            self.job.step(self.before + round(done / total * steps), self.total)

        try:
            own = set_sampler(copy.copy(self.pipe), sampler, grid, **fields)
            asked = self.request
            return generate(
                own, asked.prompt, steps=steps, guidance=asked.guidance, seed=asked.seed, callback=after_step
            )
        finally:
            self.before += steps


def _cell(run: _Runs, name: str, steps: int, grid: str | None, known: tuple[Any, Image]) -> tuple[Cell, dict[str, Any]]:
    from PIL import ImageChops

    from fewstep.eval.solver_errors import root_mean_square

    try:
        made = run.one(name, grid, {}, steps, name.removeprefix("diffusers:"))
    except (ValueError, FloatingPointError) as refused:
        return Cell(name, steps, None, None, float("inf"), 0, 0.0, str(refused)), {}
    error = float(root_mean_square(run.latents.float() - known[0].float())[0])
    image = made.images[0]
    apart = ImageChops.difference(image, known[1]).point(lambda value: min(255, GAIN * value))
    return Cell(name, steps, image, apart, error, made.calls, made.seconds), made.settings
