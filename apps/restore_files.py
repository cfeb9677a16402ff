"""Files of `fewstep restore`: which are read, which are written, and which are there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import pictures
from .restore_checks import RestoreRequest

#: Endings of the files of a folder that are taken for pictures.
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".tga")


@dataclass(frozen=True)
class Targets:
    """Where the result of one picture goes.

    Attributes:
        result: the picture; of several samples their mean.
        samples: the draws, if there are several.
        uncertainty: their standard deviation, if there are several.
        sheet: input | result | reference, if it is asked for.
    """

    result: Path
    samples: tuple[Path, ...] = ()
    uncertainty: Path | None = None
    sheet: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them, the result last: where it is, the others are."""
        rest = [*self.samples, *(file for file in (self.uncertainty, self.sheet) if file is not None)]
        return [*rest, self.result]


def targets_of(result: Path, request: RestoreRequest) -> Targets:
    """The files of a picture, from the name of the first.

    Raises:
        ValueError: a name that does not end in .png.
    """
    if result.suffix.lower() != ".png":
        raise ValueError(f"pictures are written as PNG, whose files end in .png; got {str(result)!r}")

    def beside(mark: str | int) -> Path:
        return result.with_name(f"{result.stem}-{mark}.png")

    several = request.samples > 1
    width = len(str(request.samples))
    return Targets(
        result,
        tuple(beside(f"{i + 1:0{width}}") for i in range(request.samples)) if several else (),
        beside("uncertainty") if several else None,
        beside("sheet") if request.sheet else None,
    )


def single(source: Path, out: Path, request: RestoreRequest) -> Targets:
    """The files of one picture; `out` is a file, or a folder that is there."""
    if not source.is_file():
        raise FileNotFoundError(f"there is no picture {str(source)!r}")
    return targets_of(out / f"{source.stem}.png" if out.is_dir() else out, request)


def listed(source: Path, out: Path, request: RestoreRequest) -> list[tuple[Path, Targets]]:
    """The pictures of a folder by name, and where each of them goes.

    Raises:
        ValueError, NotADirectoryError: no pictures, the same folder twice, a file in the place of the folder.
    """
    if out.is_file() or out.suffix.lower() in ENDINGS:
        raise NotADirectoryError(f"{str(source)!r} is a folder, so OUTPUT is one too; got {str(out)!r}")
    if out.exists() and out.samefile(source):
        raise ValueError("OUTPUT is the folder of the pictures themselves, which are never written over; name another")
    found = sorted(f for f in source.iterdir() if f.is_file() and f.suffix.lower() in ENDINGS and f.name[0] != ".")
    if not found:
        raise ValueError(f"there are no pictures in {str(source)!r} (files that end in {', '.join(ENDINGS)})")
    stems = [file.stem.lower() for file in found]
    names = [file.stem if stems.count(file.stem.lower()) == 1 else file.name for file in found]
    pairs = [(file, targets_of(out / f"{name}.png", request)) for file, name in zip(found, names, strict=True)]
    claimed: dict[str, Path] = {}
    for file, targets in pairs:
        for target in targets.files:
            other = claimed.setdefault(target.name.lower(), file)
            if other != file:
                raise ValueError(
                    f"the results of {other.name!r} and {file.name!r} would share the name {target.name!r}; rename one"
                )
    return pairs


def check_files(targets: Targets, read: Sequence[tuple[str, Path]], overwrite: bool) -> None:
    """Refuse to write over what is read, over what exists, or where nothing can be written.

    Args:
        targets: what will be written.
        read: (what it is, its path) of all that is read.
        overwrite: replace files that exist; never those that are read.

    Raises:
        FileExistsError, PermissionError, NotADirectoryError: with the path.
    """
    for what, source in read:
        for file in targets.files:
            if file.exists() and source.exists() and file.samefile(source):
                raise FileExistsError(f"{str(file)!r} is {what} itself, which is never written over; name another file")
    try:
        pictures.check_targets(targets.files, overwrite)
    except FileExistsError as error:
        raise FileExistsError(str(error).replace("another --out", "another OUTPUT")) from None


def key_inside(file: Path) -> str | None:
    """What a result says that it was made of; None if it is no result of this command."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            found = json.loads(getattr(image, "text", {})[pictures.KEY])["key"]
    except (KeyError, TypeError, OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError):
        return None
    return found if isinstance(found, str) else None


def is_finished(targets: Targets, key: str) -> bool:
    """Whether all files of a picture are there, made with this key."""
    return all(file.is_file() for file in targets.files) and key_inside(targets.result) == key


def mask_of(mask: Path, picture: Path) -> Path:
    """The mask of a picture of a folder: the one file, or that of a folder of masks which has the picture's name.

    Raises:
        FileNotFoundError: there is none.
    """
    if not mask.is_dir():
        return mask
    same = sorted(f for f in mask.iterdir() if f.stem == picture.stem and f.suffix.lower() in ENDINGS)
    if not same:
        raise FileNotFoundError(f"there is no mask of the name {picture.stem!r} in {str(mask)!r}")
    return same[0]
