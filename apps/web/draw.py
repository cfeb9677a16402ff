"""What the tab Draw computes: pictures from a prompt, as `fewstep generate` makes them."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import pictures
from ..generate_command import Request
from . import fields as fields_
from .draw_lines import draw_python
from .jobs import Job
from .models import DRAW, Models
from .repeat import command
from .settings import MAX_COUNT, MAX_PROMPT, MAX_STEPS

if TYPE_CHECKING:
    from PIL.Image import Image

#: What stands for "as the model has it" among the grids.
OWN_GRID = "the model's own"


@dataclass(frozen=True)
class DrawRequest:
    """What is on the screen.

    Attributes:
        fields: of the sampler, those that differ from their defaults.
        grid, negative, interval: None for nothing asked.
    """

    prompt: str
    model: str = "garments"
    sampler: str = "exponential-adams"
    fields: dict[str, Any] = field(default_factory=dict)
    grid: str | None = None
    steps: int = 8
    guidance: float = 3.0
    guidance_mode: str = "cfg"
    interval: str | None = None
    cache: str | None = None
    negative: str | None = None
    seed: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_prompt(self.negative or "-", "the negative prompt")
        for name, value, low, high in (
            ("steps", self.steps, 1, MAX_STEPS),
            ("count", self.count, 1, MAX_COUNT),
            ("seed", self.seed, 0, 2**63 - 1 - MAX_COUNT),
        ):
            check_whole(name, value, low, high)
        if not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance must be 0 to 100, got {self.guidance!r}")

    def options(self, source: str) -> dict[str, Any]:
        """Options of `fewstep generate`."""
        return {
            "model": source,
            "sampler": self.sampler,
            **self.fields,
            "grid": self.grid,
            "steps": self.steps,
            "guidance": self.guidance,
            "guidance_mode": None if self.guidance_mode == "cfg" else self.guidance_mode,
            "guidance_interval": self.interval,
            "cache": self.cache,
            "negative": self.negative,
            "seed": self.seed,
            "count": None if self.count == 1 else self.count,
        }


def check_prompt(text: Any, what: str = "the prompt", most: int = MAX_PROMPT) -> str:
    """A prompt that is there, and not longer than anyone's.

    Raises:
        ValueError: nothing, or too much.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"say what to draw: {what} is empty")
    if len(text) > most:
        raise ValueError(f"{what} has {len(text)} characters, and at most {most} are taken")
    return text


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in a range.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def samplers() -> dict[str, Any]:
    """The methods that the page offers: every registered one, but those that need a table from elsewhere."""
    from fewstep.samplers import methods

    return {
        name: cls
        for name, cls in methods().items()
        if not any(item.metadata.get("table") for item in dataclasses.fields(cls))
    }


def draw_request(sampler: str, entered: dict[str, Any], **values: Any) -> DrawRequest:
    """A request from widgets: texts stripped, whole numbers whole, empty ones nothing.

    Args:
        sampler: name of the method.
        entered: what the widgets of its fields hold.
        **values: the rest of `DrawRequest`.
    """
    from fewstep.pipelines.swapping import options_of
    from fewstep.samplers.core.registry import nearest

    known = samplers()
    if sampler not in known:
        raise ValueError(f"unknown sampler {sampler!r}{nearest(str(sampler), known)} Known are {', '.join(known)}")
    for name in ("steps", "seed", "count"):
        if name in values:
            values[name] = whole_of(name, values[name])
    if not isinstance(values.get("guidance", 3.0), int | float):
        raise ValueError("guidance must be a number; 1 is none")
    for name in ("negative", "interval", "cache", "grid"):
        text = str(values.get(name) or "").strip()
        values[name] = None if text in ("", "none", "all", OWN_GRID) else text
    return DrawRequest(sampler=sampler, fields=fields_.chosen(options_of(sampler), entered), **values)


def whole_of(name: str, value: Any) -> int:
    """A whole number from a widget, which may hold 8.0 or nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value != int(value):
        raise ValueError(f"{name} must be a whole number, got {'nothing' if value is None else repr(value)}")
    return int(value)


@dataclass(frozen=True)
class Drawn:
    """What a run gave.

    Attributes:
        images, seeds: one of each a picture.
        settings: of each picture, as its file holds them.
        calls, skipped, seconds: what it cost.
        command, python: the same run elsewhere.
    """

    images: list[Image]
    seeds: list[int]
    settings: list[dict[str, Any]]
    calls: int
    skipped: int
    seconds: float
    command: str
    python: str

    def write(self, folder: Path, prompt: str) -> list[Path]:
        """The pictures as PNG files with their settings inside, in an empty folder."""
        files = pictures.file_names(folder, prompt, self.seeds)
        pictures.write_pictures(list(zip(files, self.images, self.settings, strict=True)))
        return files


def check_draw(request: DrawRequest) -> None:
    """Refuse what cannot be before a model is loaded.

    Raises:
        ValueError: a sampler, field, grid, guidance or cache that cannot be.
    """
    from fewstep.pipelines.guidance import check_guidance
    from fewstep.pipelines.swapping import check_sampler
    from fewstep.samplers import parse_cache

    check_sampler(request.sampler, request.grid, **request.fields)
    check_guidance(request.guidance_mode, request.interval)
    parse_cache(request.cache)


def prepared(models: Models, request: DrawRequest) -> Any:
    """A pipeline of the request's own, which shares the networks of the model."""
    from fewstep.pipelines import set_sampler

    pipe = copy.copy(models.get(request.model, DRAW))
    return set_sampler(pipe, request.sampler, request.grid, **request.fields)


def draw(models: Models, request: DrawRequest, job: Job, *, hide_source: bool = False) -> Drawn:
    """Make the pictures of a request.

    Raises:
        Cancelled: the job was cancelled.
        ValueError, FloatingPointError: as `generate`.
    """
    from fewstep.pipelines import generate, set_guidance

    check_draw(request)
    job.part("loading the model")
    pipe = prepared(models, request)
    job.part("sampling", 0, request.steps)
    try:
        set_guidance(pipe, request.guidance_mode, request.interval)  # on the networks, which every run shares
        made = generate(
            pipe,
            request.prompt,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
            count=request.count,
            negative=request.negative,
            cache=request.cache,
            callback=job.step,
        )
    finally:
        set_guidance(pipe)
    source = request.model if hide_source else models.source(request.model, DRAW)
    about = {**made.settings, "model": request.model, "prompt": request.prompt, "upscale": Request.upscale}
    batch_of = {seed: {"seed": batch[0], "count": len(batch)} for batch in made.batches for seed in batch}
    settings = [{**about, "seed": seed, "batch": batch_of[seed]} for seed in made.seeds]
    return Drawn(
        made.images,
        made.seeds,
        settings,
        made.calls,
        made.skipped,
        made.seconds,
        command("generate", [request.prompt], request.options(source)),
        draw_python(request, source),
    )
