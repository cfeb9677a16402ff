"""What the tab Write computes: texts of a masked language model, as `fewstep text` writes them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..text_command import TextRequest
from . import fields as fields_
from .draw import check_whole, whole_of
from .jobs import Job
from .models import WRITE, Models
from .settings import MAX_STEPS, MAX_TEXT
from .write_lines import shaped, write_command, write_python
from .write_views import MARK, view

#: Most tokens of a text, and most texts.
MOST_TOKENS, MOST_TEXTS = 1024, 4
CONTINUE, FILL = "continue a beginning", "fill blanks"


@dataclass(frozen=True)
class WriteRequest:
    """What is on the screen.

    Attributes:
        prompt: the beginning; None where blanks are filled, or for none.
        infill: the text with blanks.
        length: tokens; None where blanks are filled.
    """

    prompt: str | None
    infill: str | None
    model: str = "verses"
    solver: str = "adams"
    fields: dict[str, Any] = field(default_factory=dict)
    steps: int = 32
    length: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    guidance: float = 1.0
    seed: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        for text in (self.prompt, self.infill):
            if text is not None and len(text) > MAX_TEXT:
                raise ValueError(f"the text has {len(text)} characters, and at most {MAX_TEXT} are taken")
        check_whole("steps", self.steps, 1, 2 * MAX_STEPS)
        check_whole("seed", self.seed, 0, 2**62)
        check_whole("count", self.count, 1, MOST_TEXTS)
        if self.length is not None:
            check_whole("length", self.length, 1, MOST_TOKENS)
        for name, value, most in (("temperature", self.temperature, 10), ("guidance", self.guidance, 20)):
            if not isinstance(value, int | float) or not 0 <= value <= most:
                raise ValueError(f"{name} must be 0 to {most}, got {value!r}")

    @property
    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(self.count)]


def solver_fields() -> dict[str, Mapping[str, Any]]:
    """Solver -> its fields."""
    from fewstep.pipelines.text_solvers import solver_options, solvers

    return {name: solver_options(name) for name in solvers()}


def own_solver(models: Models, name: str) -> str:
    """The solver that a model comes with."""
    from fewstep.pipelines.loading import find_model
    from fewstep.pipelines.text_solvers import solver_in

    return solver_in(find_model(models.source(name, WRITE), "text"))


def write_request(
    mode: str, text: str, blanks: str, entered: dict[str, Any], solver: str, **values: Any
) -> WriteRequest:
    """A request from widgets.

    Args:
        mode: `CONTINUE` or `FILL`.
        text: the beginning.
        blanks: the text with blanks.
        entered: what the widgets of the solver's fields hold.
        solver: its name.
        **values: the rest of `WriteRequest`.
    """
    from fewstep.samplers.core.registry import nearest

    if mode not in (CONTINUE, FILL):
        raise ValueError(f"mode must be {CONTINUE!r} or {FILL!r}, got {mode!r}")
    known = solver_fields()
    if solver not in known:
        raise ValueError(f"unknown solver {solver!r}{nearest(str(solver), known)} Known are {', '.join(known)}")
    for name in ("steps", "length", "seed", "count"):
        values[name] = whole_of(name, values[name])
    made = fields_.chosen(known[solver], entered)
    if mode == FILL:
        return WriteRequest(None, str(blanks or ""), solver=solver, fields=made, **{**values, "length": None})
    return WriteRequest(str(text) or None, None, solver=solver, fields=made, **values)


@dataclass(frozen=True)
class Written:
    """What a run gave.

    Attributes:
        view: the texts as HTML.
        summary: as `fewstep text --out text.json` writes it.
    """

    texts: list[str]
    view: str
    summary: dict[str, Any]
    command: str
    python: str

    def write(self, folder: Path) -> Path:
        """The texts with their settings, as JSON, in a folder."""
        target = folder / "text.json"
        target.write_text(json.dumps(self.summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return target


def write(models: Models, request: WriteRequest, job: Job, *, hide_source: bool = False) -> Written:
    """Write the texts of a request; the job shows them while they appear.

    Raises:
        Cancelled: the job was cancelled.
        ValueError: as `MaskedTextPipeline`.
    """
    from fewstep.pipelines.text_solvers import set_solver, solver_settings, token_scheduler
    from fewstep.samplers import generators

    token_scheduler(request.solver, **request.fields)
    job.part("loading the model")
    pipe = set_solver(copy.copy(models.get(request.model, WRITE)), request.solver, **request.fields)
    job.part("writing")
    shown: dict[int, str] = {}

    def after_call(step: Any) -> None:
        job.step(step.done, step.total)
        shown.update(zip(step.rows, step.texts(MARK), strict=True))
        job.show(view([shown[i] for i in sorted(shown)], request.seeds))

    begin = time.perf_counter()
    made = pipe(
        request.prompt,
        infill=request.infill,
        length=request.length,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        temperature=shaped(request.temperature),
        top_p=shaped(request.top_p),
        num_texts_per_prompt=request.count,
        generator=generators(request.seeds),
        callback=after_call,
    )
    seconds = time.perf_counter() - begin
    source = request.model if hide_source else models.source(request.model, WRITE)
    asked = TextRequest(
        prompt=request.prompt,
        infill=request.infill,
        model=source,
        steps=request.steps,
        length=request.length,
        guidance=request.guidance,
        seed=request.seed,
        count=request.count,
    )
    config = pipe.scheduler.config
    settings = {
        **asdict(asked),
        "temperature": config.get("temperature") if request.temperature == 1 else request.temperature,
        "top_p": config.get("top_p") if request.top_p == 1 else request.top_p,
        **solver_settings(pipe.scheduler),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "versions": {name: version(name) for name in ("fewstep", "diffusers", "transformers", "torch")},
    }
    summary = {
        "texts": made.texts,
        "seeds": request.seeds,
        "calls": made.calls,
        "skipped": made.skipped,
        "sequences": made.sequences,
        "windows": made.windows,
        "seconds": round(seconds, 3),
        "settings": settings,
    }
    final = view(made.texts, request.seeds, _given(pipe, request))
    return Written(made.texts, final, summary, write_command(request, source), write_python(request, source))


def _given(pipe: Any, request: WriteRequest) -> list[bool] | None:
    """Which characters were there before, for models whose tokens are characters."""
    if request.infill is None:
        return None
    codec = pipe._codec()
    tokens = codec.with_blanks(request.infill)
    given = [int(number) != codec.mask for number in tokens]
    return given if len(codec.decode(tokens, MARK)) == len(given) else None
