"""What the tab Edit computes: a picture inverted once, and edited by words as often as one likes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import pictures
from .draw import check_prompt, check_whole, whole_of
from .edit_lines import FLOW_EDIT, edit_command, edit_python
from .jobs import Job
from .models import EDIT, Models
from .settings import MAX_PROMPT, MAX_STEPS
from .shelf import one_file

if TYPE_CHECKING:
    from PIL.Image import Image

#: An inversion above so many bytes of features is not kept between edits.
MOST_KEPT = 256 * 2**20
#: Strategies to choose from; any words of theirs may be combined on the command line.
STRATEGIES = ("replace_v", "add_q replace_v", "add_q", "replace_v replace_k", "none")


def solvers() -> list[str]:
    """Names of the inverters, and FlowEdit."""
    from fewstep.samplers.inversion import INVERTERS

    return [*INVERTERS, FLOW_EDIT]


@dataclass(frozen=True, eq=False)
class EditRequest:
    """What is on the screen.

    Attributes:
        picture: with its file's name in `filename`.
        source, target: what it shows, and what it shall show.
        inject: steps from the noise end in which features of the picture are put back.
        mask: of the picture's size, white may change; None: everything may.
    """

    picture: Image
    source: str
    target: str
    model: str
    solver: str = "fireflow"
    steps: int = 8
    strategy: str = "replace_v"
    inject: int = 1
    guidance: float = 2.0
    skip: int = 0
    mask: Image | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_prompt(self.target, "what it shall show")
        if len(self.source) > MAX_PROMPT:
            raise ValueError(f"what it shows has {len(self.source)} characters, and at most {MAX_PROMPT} are taken")
        check_whole("steps", self.steps, 1, MAX_STEPS)
        check_whole("injection", self.inject, 0, self.steps)
        check_whole("skip", self.skip, 0, self.steps - 1)
        check_whole("seed", self.seed, 0, 2**62)

    @property
    def name(self) -> str:
        """The picture's file."""
        return str(getattr(self.picture, "filename", "") or "picture.png")

    @property
    def key(self) -> str:
        """What an inversion depends on."""
        digest = hashlib.sha256(self.picture.mode.encode() + repr(self.picture.size).encode())
        digest.update(self.picture.tobytes())
        about = (self.source, self.model, self.solver, self.steps, self.skip, self.seed)
        digest.update(repr(about).encode())
        return digest.hexdigest()


def edit_request(picture: Any, source: Any, **values: Any) -> EditRequest:
    """A request from widgets.

    Raises:
        ValueError: no picture, or a value out of range.
    """
    from fewstep.samplers.core.registry import nearest

    if picture is None:
        raise ValueError("choose a picture first: upload one, or take an example")
    for name in ("steps", "inject", "skip", "seed"):
        values[name] = whole_of(name, values[name])
    if values["solver"] not in solvers():
        known = solvers()
        raise ValueError(
            f"unknown solver {values['solver']!r}{nearest(str(values['solver']), known)} Known are {', '.join(known)}"
        )
    mask = values.pop("mask", None)
    if mask is not None and mask.size != picture.size:
        from .uploads import painted_mask

        mask = painted_mask(mask, picture.size)
    return EditRequest(picture, str(source or ""), mask=mask, **values)


@dataclass(frozen=True, eq=False)
class Kept:
    """An inversion that serves the next edit of the same picture.

    Attributes:
        back: the picture again, from the inversion.
        psnr: of that, in dB.
    """

    key: str
    inversion: Any
    back: Image
    psnr: float


@dataclass(frozen=True, eq=False)
class EditMade:
    """What an edit gave and cost.

    Attributes:
        image, back: the edit, and the picture from its own inversion (or the picture itself, without one).
        kept: for the next edit; None where it is too large, or where there is none.
        reused: whether the inversion was there already.
        calls, seconds: of everything that was computed.
    """

    image: Image
    back: Image
    kept: Kept | None
    reused: bool
    psnr: float | None
    calls: int
    seconds: float
    settings: dict[str, Any]
    mask: Image | None
    command: str
    python: str

    def write(self, folder: Path, picture: str) -> Path:
        """The edit as a PNG file with its settings inside; with a mask a zip of both."""
        name = f"{Path(picture).stem}-{pictures.slug(self.settings['prompt'])}.png"
        files = [folder / name]
        pictures.write_pictures([(files[0], self.image, self.settings)])
        if self.mask is not None:
            files.append(folder / "mask.png")
            self.mask.save(files[1])
        return one_file(files, Path(name).stem)


def edit(models: Models, request: EditRequest, kept: Kept | None, job: Job, *, hide_source: bool = False) -> EditMade:
    """Invert, or take the kept inversion, and edit.

    Raises:
        Cancelled: the job was cancelled.
        ValueError, FloatingPointError: as `invert` and `edit`.
    """
    job.part("loading the model")
    pipe = models.get(request.model, EDIT)
    source = request.model if hide_source else models.source(request.model, EDIT)
    said = (edit_command(request, source), edit_python(request, source))
    if request.solver == FLOW_EDIT:
        return _flow_edit(pipe, request, source, said, job)
    from fewstep.pipelines import Injection, invert, reconstruct
    from fewstep.pipelines import edit as edit_pictures

    injection = Injection(strategy=request.strategy, steps=request.inject)
    calls, seconds = 0, 0.0
    reused = kept is not None and kept.key == request.key
    if kept is None or not reused:
        job.part("inverting")
        inversion = invert(
            pipe,
            request.picture,
            request.source,
            steps=request.steps,
            solver=request.solver,
            skip=request.skip,
            seed=request.seed,
            injection=injection,
            progress=_told(job),
        )
        job.part("reconstructing")
        back = reconstruct(pipe, inversion, progress=_told(job))
        calls, seconds = inversion.calls + back.calls, inversion.seconds + back.seconds
        kept = Kept(request.key, inversion, back.image, back.psnr[0])
    job.part("editing")
    made = edit_pictures(
        pipe,
        kept.inversion,
        request.target,
        injection,
        guidance=request.guidance,
        mask=request.mask,
        progress=_told(job),
    )
    return EditMade(
        made.image,
        kept.back,
        kept if kept.inversion.features.bytes <= MOST_KEPT else None,
        reused,
        kept.psnr,
        calls + made.calls,
        seconds + made.seconds,
        _about(made.settings, request, source),
        request.mask,
        *said,
    )


def _flow_edit(pipe: Any, request: EditRequest, source: str, said: tuple[str, str], job: Job) -> EditMade:
    from fewstep.pipelines import FlowEdit, flow_edit

    job.part("editing")
    made = flow_edit(
        pipe,
        request.picture,
        request.source,
        request.target,
        FlowEdit(skip=request.skip or None, guidance=request.guidance),
        steps=request.steps,
        seed=request.seed,
        mask=request.mask,
        progress=_told(job),
    )
    about = _about(made.settings, request, source)
    return EditMade(
        made.image, request.picture, None, False, None, made.calls, made.seconds, about, request.mask, *said
    )


def _told(job: Job) -> Callable[[int, int], None]:
    return lambda done, total: job.step(done, total)


def _about(settings: Any, request: EditRequest, source: str) -> dict[str, Any]:
    about = {**settings, "command": "edit", "model": source, "picture": request.name, "prompt": request.target}
    return about | {"sampler": settings["solver"]}
