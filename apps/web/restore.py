"""What the tab Restore computes: a picture restored as `fewstep restore` does it, with what it does not know shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..restore_checks import RestoreRequest, check_request
from . import fields as fields_
from .draw import check_whole, whole_of
from .jobs import Job
from .models import RESTORE, Models
from .restore_lines import restore_command, restore_python
from .restore_views import before, figures, grey, picture_of, residual_gain, residual_map
from .settings import MAX_PROMPT, MAX_STEPS
from .shelf import one_file
from .uploads import painted_mask

if TYPE_CHECKING:
    from PIL.Image import Image


#: What stands for "chosen for the task" among the methods.
AUTO = "what suits the task"
#: Most samples, and most pixels of a result: this is a page for several people.
MOST_SAMPLES, MOST_RESULT = 8, 1_048_576


def tasks() -> list[str]:
    """Tasks of the page: all but the one whose operator is code."""
    from fewstep.pipelines.restoration.tasks import TASKS

    return [name for name in TASKS if name != "custom"]


def method_options() -> dict[str, dict[str, Any]]:
    """Method -> its fields."""
    from fewstep.samplers.posterior import posterior_methods

    return {name: {item.name: item for item in dataclasses.fields(cls)} for name, cls in posterior_methods().items()}


@dataclass(frozen=True, eq=False)
class RestoreAsked:
    """What is on the screen.

    Attributes:
        picture: what shall be restored; with `simulate` a clean one that is degraded first.
        mask: what is missing is white; for inpainting.
        method, steps: None for what suits the task.
        options: of the task, those that differ from the defaults.
    """

    picture: Image
    task: str
    model: str
    sigma: float = 0.0
    simulate: bool = False
    mask: Image | None = None
    options: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    prompt: str = ""
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("samples", self.samples, 1, MOST_SAMPLES)
        check_whole("seed", self.seed, 0, 2**62)
        if self.steps is not None:
            check_whole("steps", self.steps, 1, 10 * MAX_STEPS)
        if len(self.prompt) > MAX_PROMPT:
            raise ValueError(f"the prompt has {len(self.prompt)} characters, and at most {MAX_PROMPT} are taken")

    @property
    def name(self) -> str:
        """The picture's file."""
        return Path(str(getattr(self.picture, "filename", "") or "picture.png")).name


def restore_asked(picture: Any, task: str, method: str, entered: dict[str, Any], **values: Any) -> RestoreAsked:
    """A request from widgets.

    Raises:
        ValueError: no picture, a task or method that is not there, or what does not fit the task.
    """
    from fewstep.pipelines.restoration.tasks import find_task
    from fewstep.samplers.core.registry import nearest

    if picture is None:
        raise ValueError("choose a picture first: upload one, or take an example")
    if task not in tasks():
        raise ValueError(f"unknown task {task!r}{nearest(str(task), tasks())} Known are {', '.join(tasks())}")
    known = method_options()
    if method != AUTO and method not in known:
        raise ValueError(f"unknown method {method!r}{nearest(str(method), known)} Known are {', '.join(known)}")
    values["samples"], values["seed"] = (whole_of(name, values[name]) for name in ("samples", "seed"))
    values["steps"] = whole_of("steps", values["steps"]) or None if values.get("steps") is not None else None
    found = find_task(task)
    width, height = picture.size
    factor = 1 if values["simulate"] else found.factor
    if width * height * factor**2 > MOST_RESULT:
        raise ValueError(
            f"the result would have {width * factor} x {height * factor} pixels, and this page makes at most "
            f"{MOST_RESULT // 2**20} megapixel; crop the picture, or use fewstep restore on the command line"
        )
    mask = values.pop("mask", None)
    if task == "inpaint":
        if mask is None:
            raise ValueError("paint what is missing first: open the canvas below the picture")
        mask = painted_mask(mask, picture.size)
    options = {name: value for name, value in values.pop("options").items() if name in found.options}
    if not values["simulate"]:
        options.pop("kernel_seed", None)
    made = {} if method == AUTO else fields_.chosen(known[method], entered)
    return RestoreAsked(
        picture,
        task,
        mask=mask if task == "inpaint" else None,
        options=options,
        method=None if method == AUTO else method,
        fields=made,
        **values,
    )


@dataclass(frozen=True, eq=False)
class RestoreMade:
    """What a run gave.

    Attributes:
        before, after: of one size, for a slider.
        uncertainty: standard deviation of the draws as a picture; None for one draw.
        residual_map: y - A x as a picture, `residual_gain` times as large around grey; None where y is no picture.
        figures: (what, value) to show.
    """

    before: Image
    after: Image
    uncertainty: Image | None
    residual_map: Image | None
    residual_gain: float
    figures: list[tuple[str, str]]
    calls: int
    backward: int
    seconds: float
    file: Path
    command: str
    python: str


def restore(models: Models, asked: RestoreAsked, folder: Path, job: Job, *, hide_source: bool = False) -> RestoreMade:
    """Restore a picture, and write the results into an empty folder.

    Raises:
        Cancelled: the job was cancelled.
        ValueError, FloatingPointError: as the pipeline.
    """
    from fewstep.pipelines.restoration.tasks import find_task

    from .. import restore_output, restore_run
    from ..restore_files import targets_of

    source = asked.model if hide_source else models.source(asked.model, RESTORE)
    options = dict(asked.options)
    given = folder / "input"
    given.mkdir()
    picture = given / (Path(asked.name).stem + ".png")
    asked.picture.save(picture)
    if asked.mask is not None:
        options["mask"] = given / "mask.png"
        asked.mask.save(options["mask"])
    request = RestoreRequest(
        find_task(asked.task),
        sigma=float(asked.sigma),
        options=options,
        simulate=asked.simulate,
        model=source,
        method=asked.method,
        fields=asked.fields,
        steps=asked.steps,
        prompt=asked.prompt or None,
        samples=asked.samples,
        seed=asked.seed,
    )
    check_request(request)
    restore_run.read_measured(request, picture)
    job.part("loading the model")
    pipe = models.get(asked.model, RESTORE)
    pipe.set_progress_bar_config(disable=True)
    job.part("restoring")
    made = restore_run.restore(pipe, request, picture, lambda done, total: job.step(done, total or 0))
    made.settings["options"] = {
        key: Path(str(value)).name if key == "mask" else value for key, value in options.items()
    }
    targets = targets_of(folder / f"{picture.stem}-{asked.task}.png", request)
    restore_output.write(targets, made)
    files = [*targets.files, *([options["mask"]] if asked.mask is not None else [])]
    return RestoreMade(
        before(made),
        picture_of(made.rgb),
        None if made.deviation is None else grey(made.deviation),
        residual_map(made),
        residual_gain(made.settings["noise"]),
        figures(made),
        made.forward,
        made.backward,
        made.seconds,
        one_file(files, targets.result.stem),
        restore_command(asked, picture.name, targets.result.name, source),
        restore_python(asked, picture.name, source),
    )
