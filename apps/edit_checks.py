"""What `fewstep edit` reads and refuses before it loads a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures
from .targets import check_target
from .terminal import notes

if TYPE_CHECKING:
    from fewstep.pipelines import Inversion

FLOW_EDIT = "flowedit"
_DEFAULTS = ("garments-flow", "garments")


@dataclass(frozen=True)
class EditSettings:
    """Options that become an `Injection` and a `FeatureMemory`."""

    strategy: str | None
    inject: str | None
    blocks: str | None
    place: str | None

    def injection(self) -> Any:
        from fewstep.pipelines import Injection

        more: dict[str, Any] = {"strategy": self.strategy or "replace_v", "blocks": self.blocks}
        return Injection(**more) if self.inject is None else Injection.parse(self.inject, **more)

    def memory(self) -> Any:
        from fewstep.pipelines import FeatureMemory

        if self.place is None:
            return None
        place, _, budget = self.place.partition(":")
        return FeatureMemory(place.strip(), budget or None)

    def check(self, solver: str, free: bool, gamma: float | None, eta: float | None, warm: bool) -> None:
        """Refuse before loading what would be refused after it."""
        self.injection()
        self.memory()
        if not free:
            from fewstep.samplers.inversion import INVERTERS, inverter

            try:
                made = inverter(solver, **{k: v for k, v in (("gamma", gamma), ("eta", eta)) if v is not None})
            except ValueError as error:
                if "unknown inverter" not in str(error):
                    raise
                from fewstep.samplers.core.registry import nearest

                known = [*INVERTERS, FLOW_EDIT]
                raise ValueError(
                    f"unknown solver {solver!r}{nearest(solver, known)} Known are {', '.join(known)}"
                ) from None
            if warm and not made.can_start_warm:
                able = " and ".join(name for name, make in INVERTERS.items() if make().can_start_warm)
                raise ValueError(f"{made.name} cannot start --warm; {able} can")


def model_name(model: str | None) -> str:
    from fewstep.pipelines.loading import find_model, shipped_models

    if model is not None:
        find_model(model)
        return model
    shipped = shipped_models()
    found = next((name for name in _DEFAULTS if name in shipped), None)
    if found is None:
        raise FileNotFoundError("no model for editing comes with this installation; name one with --model")
    if found != _DEFAULTS[0]:
        notes.print(f"The model {_DEFAULTS[0]} is not here; {found} edits in its place.")
    return found


def prompt_inside(path: Path) -> str:
    """The prompt inside of a picture that fewstep made or edited, else nothing."""
    import json

    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()  # the text may follow the pixels
            prompt = json.loads(getattr(picture, "text", {})[pictures.KEY])["prompt"]
    except (KeyError, TypeError, OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError):
        prompt = None
    if isinstance(prompt, str):
        return prompt
    notes.print("What the picture shows is not said (--from), so it is inverted with an empty prompt.")
    return ""


def edit_files(picture: Path, out: Path | None, target: str, sheet: bool) -> list[Path]:
    """The edit's file, and the sheet's."""
    if out is None:
        file = Path("outputs") / f"{picture.stem}-{pictures.slug(target)}.png"
    elif out.is_dir():
        file = out / f"{picture.stem}-{pictures.slug(target)}.png"
    else:
        file = out
    if file.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG, whose files end in .png; got {str(file)!r}")
    return [file, file.with_name(f"{file.stem}-sheet.png")] if sheet else [file]


def check_files(files: list[Path], picture: Path, mask: Path | None, kept: Path | None, overwrite: bool) -> None:
    """Refuse to write over what is read, over what exists, or where nothing can be written.

    Raises:
        FileExistsError, FileNotFoundError, PermissionError, ValueError: with the path.
    """
    if not picture.is_file():
        raise FileNotFoundError(
            f"there is no picture {str(picture)!r}" + (", it is a folder" if picture.is_dir() else "")
        )
    for what, read in (("the picture", picture), ("the mask", mask)):
        for file in files:
            if read is not None and file.exists() and read.exists() and file.samefile(read):
                raise FileExistsError(
                    f"{str(file)!r} is {what} itself, which is never written over; choose another --out"
                )
    pictures.check_targets(files, overwrite)
    if kept is not None:
        check_target(kept, ".safetensors")
        if kept.exists():
            from fewstep.pipelines.editing.saving import check_header

            check_header(kept)  # whatever else it is, --overwrite does not replace it


def check_numbers(steps: int, skip: int | None, guidance: float | None, seed: int) -> None:
    """Refuse numbers out of range before a model is loaded."""
    from fewstep.pipelines.editing.checks import check_guidance, checked_whole

    checked_whole("steps", steps, 1)
    checked_whole("seed", seed, 0)
    if checked_whole("skip", skip or 0, 0) >= steps:
        raise ValueError(f"skip must be below the {steps} steps, got {skip}")
    if guidance is not None:
        check_guidance(guidance)


def read_levels(blend: str | None) -> tuple[float, float]:
    if blend is None:
        return 0.0, 1.0
    try:
        low, high = (float(part) for part in blend.split(","))
    except ValueError:
        raise ValueError(f"--blend is the lowest and the highest noise level, such as 0,0.8; got {blend!r}") from None
    if not 0 <= low <= high <= 1:
        raise ValueError(f"--blend is the lowest and the highest noise level, in [0, 1]; got {blend!r}")
    return low, high


def kept_inversion(
    pipe: Any, path: Path, memory: Any, picture: Any, prompt: str, arguments: dict[str, Any]
) -> Inversion:
    """The inversion in a file, if it is the one that would be made.

    Raises:
        ValueError: a damaged one, or one of something else.
    """
    from fewstep.pipelines import load_inversion
    from fewstep.pipelines.editing.models import edit_model
    from fewstep.pipelines.editing.reuse import check_model

    inversion = load_inversion(path, memory)
    check_same(inversion, path, picture, prompt, arguments)
    check_model(edit_model(pipe), inversion)
    return inversion


def check_same(inversion: Inversion, path: Path, picture: Any, prompt: str, arguments: dict[str, Any]) -> None:
    """Refuse a kept inversion of something else.

    Raises:
        ValueError: which says what differs.
    """
    import numpy as np

    from fewstep.samplers.inversion import fields_of, inverter

    made = inverter(arguments["solver"], **{k: arguments[k] for k in ("gamma", "eta") if k in arguments})
    first = inversion.pictures[0]
    wrong = []
    same = len(inversion.pictures) == 1 and first.size == picture.size
    same = same and (first.alpha is None) == (picture.alpha is None) and np.allclose(first.rgb, picture.rgb, atol=1e-4)
    if not same or (first.alpha is not None and not np.allclose(first.alpha, picture.alpha, atol=1e-4)):
        wrong.append("another picture")
    if list(inversion.prompts) != [prompt]:
        wrong.append(f"another prompt ({inversion.prompts[0]!r})")
    if inversion.solver != made.name or dict(inversion.fields) != fields_of(made):
        wrong.append(f"another solver ({inversion.solver})")
    for name in ("steps", "skip", "size", *(["seed"] if made.needs_target else [])):
        if inversion.settings.get(name) != arguments[name]:
            wrong.append(f"other {name} ({inversion.settings.get(name)})")
    if wrong:
        raise ValueError(
            f"{str(path)!r} holds an inversion with {', '.join(wrong)}; name another file, or say --overwrite "
            "to make it new"
        )
