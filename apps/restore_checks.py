"""What `fewstep restore` is asked, and what it refuses before it loads a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.pipelines.restoration.tasks import Task, task_defaults

from .words import read_words

#: How the command line spells the options of tasks.
OPTIONS = {
    "mask": "--mask",
    "kernel": "--kernel",
    "blur_sigma": "--blur-sigma",
    "kernel_size": "--kernel-size",
    "kernel_file": "--kernel-file",
    "kernel_seed": "--kernel-seed",
    "luma": "--luma",
    "operator": "--operator",
}
_FILES = ("mask", "kernel_file")
MODEL = "photo-prior"
TILES = ("whole", "canvas", "msr", "hir")


@dataclass(frozen=True)
class RestoreRequest:
    """One run, or one for every picture of a folder, after the options were read.

    Attributes:
        sigma: in the scale of 0 to 255.
        options: of the task's operator, those that were given.
        fields: of the method, those that were given.
        size: (H, W) of the result of a custom task.
    """

    task: Task
    sigma: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    simulate: bool = False
    model: str = MODEL
    method: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    prompt: str | None = None
    guidance: float | None = None
    samples: int = 1
    batch: int = 1
    seed: int = 0
    tile: str | None = None
    window: int | None = None
    overlap: int | None = None
    panorama: bool = False
    sheet: bool = False
    dtype: str | None = None
    device: str | None = None

    def key(self, picture: Path) -> str:
        """What tells whether a file was made by this request of this picture: a hash of settings and contents."""
        told = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        told |= {"task": self.task.name, "device": None, "batch": None}
        whole = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for file in (picture, *(self.options[name] for name in _FILES if name in self.options)):
            whole.update(hashlib.sha256(Path(file).expanduser().read_bytes()).digest())
        return whole.hexdigest()[:32]


def check_request(request: RestoreRequest) -> None:
    """Refuse what would be refused after minutes of loading.

    Raises:
        ValueError, FileNotFoundError: with a sentence.
    """
    from fewstep.pipelines.editing.checks import check_guidance, checked_whole
    from fewstep.samplers.core.registry import nearest

    task = request.task
    for name in request.options:
        if name not in task.options:
            listens = ", ".join(OPTIONS[option] for option in task.options) or "no option of its own"
            raise ValueError(f"{task.name} has no use for {OPTIONS[name]}; it listens to {listens}")
    _check_needs(request)
    for name, least in (("samples", 1), ("batch", 1), ("seed", 0)):
        checked_whole(name, getattr(request, name), least)
    if request.seed + request.samples > 2**63:
        raise ValueError(f"seed must be below 2^63, got {request.seed}")
    for name in ("steps", "window"):
        if getattr(request, name) is not None:
            checked_whole(name, getattr(request, name), 1)
    if request.overlap is not None:
        checked_whole("overlap", request.overlap, 0)
    if request.guidance is not None:
        check_guidance(request.guidance)
    if request.tile is not None and request.tile not in TILES:
        raise ValueError(f"unknown tile {request.tile!r}{nearest(request.tile, TILES)} Known are {', '.join(TILES)}")
    if request.panorama and (request.tile, request.window, request.overlap) != (None, None, None):
        raise ValueError("--panorama lays its own planes; leave --tile, --window and --overlap away")
    if not 0 <= request.sigma <= 255:
        raise ValueError(f"--sigma is the noise in the scale of 0 to 255, got {request.sigma!r}")
    if request.method is not None or request.fields:
        from fewstep.samplers.posterior import posterior_method

        posterior_method(request.method or method_name(request), **request.fields)


def _check_needs(request: RestoreRequest) -> None:
    task, options = request.task.name, request.options
    if task == "inpaint" and "mask" not in options:
        raise ValueError("inpaint needs --mask FILE, a picture of the same size that is white where pixels are missing")
    if task == "denoise" and not request.sigma > 0:
        raise ValueError("denoise needs --sigma, the standard deviation of the noise in the scale of 0 to 255, above 0")
    if task == "custom" and "operator" not in options:
        raise ValueError("custom needs --operator module:function, which returns an object with A (and A_adjoint)")
    if task == "motion-deblur" and not request.simulate and not {"kernel_file", "kernel_seed"} & options.keys():
        raise ValueError(
            "motion-deblur needs the kernel of the blur: --kernel-file FILE; a synthetic one (--kernel-seed) is for "
            "--simulate"
        )
    if {"kernel_file", "kernel_seed"} <= options.keys():
        raise ValueError("give --kernel-file or --kernel-seed, not both")
    if request.size is not None and task != "custom":
        raise ValueError(f"the size of the result follows from {task}; --size is for custom alone")


def space_of(model: str) -> str:
    """Whether a model draws pixels or latents, as far as its folder says; "pixel" for one on the hub."""
    from fewstep.pipelines.loading import find_model

    try:
        index = json.loads((Path(find_model(model)) / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "pixel"
    return "latent" if isinstance(index, dict) and "vae" in index else "pixel"


def method_name(request: RestoreRequest) -> str:
    """The method of a run where nobody names one; the planes of a panorama walk by ddnm, without data of their own."""
    if request.panorama:
        return "ddnm"
    return task_defaults(request.task, 2 * request.sigma / 255, space_of(request.model), request.samples > 1)[0]


def read_fields(
    words: Sequence[str], request: RestoreRequest, options: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """The files among the words of the command line, and the fields of the method.

    Raises:
        ValueError: an option that neither the command nor the method has.
    """
    from fewstep.samplers.posterior import posterior_method, posterior_methods

    chosen = request.method or method_name(request)
    known = {item.name: item for item in dataclasses.fields(posterior_method(chosen))}
    owners: dict[str, list[str]] = {}
    for name, cls in posterior_methods().items():
        for item in dataclasses.fields(cls):
            owners.setdefault(item.name, []).append(name)
    return read_words(words, known, options, chosen, owners, "--method")
