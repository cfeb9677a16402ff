"""Files of pictures: names, settings inside of PNG files, contact sheets, and writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

#: Key of the settings in a PNG file's text.
KEY = "fewstep"
#: Shortest side of a picture on a contact sheet, and the longest.
_SMALL, _LARGE = 128, 512


def slug(text: str) -> str:
    """A file name from a prompt: "A red boot!" -> "a-red-boot"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:60].strip("-") or "picture"


def file_names(out: Path | None, prompt: str, seeds: Sequence[int], mark: str = "") -> list[Path]:
    """Where the pictures go: `out` is a file for one picture, a folder for several; by default in ``outputs``.

    Raises:
        ValueError: several pictures and one file name, or a name that does not end in .png.
    """
    names = [f"{slug(prompt)}-{seed}{mark}.png" for seed in seeds]
    if out is None:
        out = Path("outputs")
    elif not out.is_dir() and (len(seeds) == 1 or out.suffix):
        if out.suffix.lower() != ".png":
            raise ValueError(f"pictures are written as PNG, whose files end in .png; got {str(out)!r}")
        if len(seeds) > 1:
            raise ValueError(f"{len(seeds)} pictures need a folder, and {str(out)!r} is the name of one file")
        return [out]
    return [out / name for name in names]


def check_targets(files: Sequence[Path], overwrite: bool) -> None:
    """Refuse targets that exist or cannot be written, before anything is computed.

    Raises:
        FileExistsError, PermissionError, NotADirectoryError: with the path.
    """
    for file in files:
        if file.is_dir():
            raise FileExistsError(f"{str(file)!r} is a folder")
        if file.exists() and not overwrite:
            raise FileExistsError(f"{str(file)!r} exists already; choose another --out, or say --overwrite")
        above = next(folder for folder in file.absolute().parents if folder.exists())
        if not above.is_dir():
            raise NotADirectoryError(f"{str(file)!r} cannot be written: {str(above)!r} is not a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(f"{str(file)!r} cannot be written: no permission to write in {str(above)!r}")


def write_pictures(pictures: Sequence[tuple[Path, Image | np.ndarray, Mapping[str, Any]]]) -> None:
    """Write PNG files with their settings inside, all of them or none.

    Args:
        pictures: (where, what, settings): pictures of PIL, or of 16 bits a channel, (H, W, C) uint16.

    Raises:
        OSError: a file could not be written; none of them is there then.
    """
    parts: list[tuple[Path, Path]] = []
    try:
        for path, image, settings in pictures:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            with open(part, "wb") as file:
                parts.append((part, path))
                _write_one(file, image, settings)
        for part, path in parts:
            os.replace(part, path)
    except OSError as error:
        path = parts[-1][1] if parts else pictures[0][0]
        raise OSError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        for part, _ in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _write_one(file: BinaryIO, image: Image | np.ndarray, settings: Mapping[str, Any]) -> None:
    import numpy as np
    from PIL.PngImagePlugin import PngInfo

    # ASCII alone, so any reader of PNG text understands it
    texts = {KEY: json.dumps(settings), "parameters": readable(settings)}
    if isinstance(image, np.ndarray):
        from fewstep.pipelines.sixteen_bits import encode_png

        file.write(encode_png(image, texts))
        return
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    image.save(file, "PNG", pnginfo=info)


def readable(settings: Mapping[str, Any]) -> str:
    """The settings as other programs write them into pictures: the prompt, then "Steps: 8, Sampler: ..."."""
    fields = settings.get("fields") or {}
    words = {
        "Steps": settings.get("steps"),
        "Sampler": settings.get("compare") or settings.get("sampler"),
        "Schedule type": settings.get("grid"),
        "CFG scale": settings.get("guidance"),
        "Seed": settings.get("seed"),
        "Size": f"{settings['width']}x{settings['height']}" if "width" in settings else None,
        "Model": settings.get("model"),
        **{name.replace("_", " ").capitalize(): value for name, value in fields.items()},
        "Version": f"fewstep {settings.get('versions', {}).get('fewstep', '')}".strip(),
    }
    lines = [str(settings.get("prompt", ""))]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {settings['negative']}")
    lines.append(", ".join(f"{key}: {value}" for key, value in words.items() if value is not None))
    return "\n".join(lines)


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "prompt": (str,),
    "sampler": (str,),
    "fields": (dict,),
    "grid": (str, type(None)),
    "steps": (int,),
    "guidance": (int, float, type(None)),
    "negative": (str, type(None)),
    "seed": (int,),
    "width": (int,),
    "height": (int,),
    "dtype": (str,),
}
_MORE_KINDS: dict[str, tuple[type, ...]] = {
    "device": (str,),
    "compare": (str,),
    "given": (dict,),
    "batch": (dict,),
    "upscale": (int,),
}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a picture was made with, from the picture.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, no settings inside, or damaged ones.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {str(path)!r}")
    try:
        with Image.open(path) as picture:
            picture.load()
            found = getattr(picture, "text", {}).get(KEY)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(f"{str(path)!r} is not a picture that can be read{reason}") from error
    if found is None:
        raise ValueError(f"{str(path)!r} holds no fewstep settings; only PNG files that fewstep wrote do")
    try:
        settings = json.loads(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the fewstep settings in {str(path)!r} are damaged: they are no JSON") from error
    if not isinstance(settings, dict):
        raise ValueError(f"the fewstep settings in {str(path)!r} are damaged: they are no table of settings")
    if settings.get("command") in ("edit", "restore"):
        made = settings["command"]
        raise ValueError(f"{str(path)!r} was made by fewstep {made}; its settings do not make a picture from nothing")
    for name, kinds in {**_KINDS, **{k: v for k, v in _MORE_KINDS.items() if k in settings}}.items():
        value = settings.get(name)
        if (name not in settings and name in _KINDS) or not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"the fewstep settings in {str(path)!r} are damaged: {name} is {value!r}")
    batch = settings.get("batch", {"seed": settings["seed"], "count": 1})
    if not all(type(batch.get(key)) is int for key in ("seed", "count")) or not (
        0 <= settings["seed"] - batch["seed"] < batch["count"] <= 4096
    ):
        raise ValueError(f"the fewstep settings in {str(path)!r} are damaged: batch is {batch!r}")
    return settings


def enlarged(image: Image, factor: int) -> Image:
    """Every pixel as a square of `factor` by `factor` pixels."""
    from PIL import Image as Images

    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Images.Resampling.NEAREST)


def _cell(image: Image) -> Image:
    image = enlarged(image, max(1, math.ceil(_SMALL / min(image.size))))
    if max(image.size) > _LARGE:
        image = image.copy()
        image.thumbnail((_LARGE, _LARGE))
    return image


def _wrapped(text: str, width: float, length: Any) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        while length(word) > width and len(word) > 1:  # a word wider than the column is cut
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or length(word[:n]) <= width)
            lines.append(word[:cut])
            word = word[cut:]
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and length(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def contact_sheet(
    rows: Sequence[tuple[str, str, Sequence[Image]]], columns: Sequence[str], title: str, note: str = ""
) -> Image:
    """A sheet of pictures: one row a sampler, one column a seed.

    Args:
        rows: (name, smaller text below it, pictures), all with as many pictures as there are columns.
        columns: heading of every column.
        title: above everything; wrapped to the width of the sheet.
        note: a smaller line below the title.
    """
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont

    large, small = ImageFont.load_default(18), ImageFont.load_default(14)
    cells = [[_cell(image) for image in images] for _, _, images in rows]
    width, height = cells[0][0].size
    gap, margin = 6, 16
    names = max(large.getlength(name) for name, _, _ in rows)
    left = margin + int(min(max(names, 140), 260)) + 2 * gap
    total = max(left + len(columns) * (width + gap) + margin - gap, 420)
    headings = _wrapped(title, total - 2 * margin, large.getlength)
    notes = _wrapped(note, total - 2 * margin, small.getlength)
    top = margin + 24 * len(headings) + 20 * len(notes) + gap
    sheet = Images.new("RGB", (total, top + 22 + len(rows) * (height + gap) + margin - gap), "white")
    draw = ImageDraw.Draw(sheet)
    y = margin
    for font, lines, line in ((large, headings, 24), (small, notes, 20)):
        for text in lines:
            draw.text((margin, y), text, fill="black" if font is large else "#555555", font=font)
            y += line
    for j, heading in enumerate(columns):
        draw.text((left + j * (width + gap) + width / 2, top), heading, fill="#555555", font=small, anchor="ma")
    for i, (name, more, _) in enumerate(rows):
        y = top + 22 + i * (height + gap)
        for text in _wrapped(name, left - margin - gap, large.getlength):
            draw.text((margin, y), text, fill="black", font=large)
            y += 22
        for text in _wrapped(more, left - margin - gap, small.getlength):
            if y + 16 <= top + 22 + i * (height + gap) + height:  # what does not fit beside the row is left out
                draw.text((margin, y), text, fill="#555555", font=small)
            y += 17
        for j, image in enumerate(cells[i]):
            sheet.paste(image, (left + j * (width + gap), top + 22 + i * (height + gap)))
    return sheet
