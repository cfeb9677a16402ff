"""Files of texts: what is read with blanks, what is written, and the settings that make a text again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically

from .pictures import check_targets, slug

#: Settings of a run, with the kinds that they may have in a file.
KINDS: dict[str, tuple[type, ...]] = {
    "prompt": (str, type(None)),
    "infill": (str, type(None)),
    "blank": (str, type(None)),
    "model": (str,),
    "solver": (str, type(None)),
    "fields": (dict,),
    "steps": (int, type(None)),
    "calls": (int, type(None)),
    "length": (int, type(None)),
    "guidance": (int, float),
    "temperature": (int, float, type(None)),
    "top_p": (int, float, type(None)),
    "top_k": (int, type(None)),
    "context": (int, type(None)),
    "seed": (int,),
    "count": (int,),
    "batch": (int,),
    "dtype": (str, type(None)),
    "device": (str, type(None)),
}


def read_text(path: Path) -> str:
    """A text file, in UTF-8.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file.
        ValueError: something else than UTF-8.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, and a text file is needed")
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not text in UTF-8 (its byte {error.start} does not belong there)") from None
    return text.replace("\r\n", "\n")


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of a run, from the JSON file that it wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no settings in it, or damaged ones.
    """
    try:
        found = json.loads(read_text(path))
        settings = found["settings"]
        chosen = {name: settings[name] for name in KINDS if name in settings}
    except (json.JSONDecodeError, KeyError, TypeError):
        settings, chosen = None, {}
    if not isinstance(settings, dict) or not chosen:
        raise ValueError(f"{str(path)!r} holds no settings of `fewstep text`; give the .json file that it wrote")
    for name, value in chosen.items():
        if not isinstance(value, KINDS[name]) or isinstance(value, bool):
            raise ValueError(f"the settings in {str(path)!r} are damaged: {name} is {value!r}")
    return chosen


def file_names(out: Path, title: str, seeds: Sequence[int]) -> tuple[list[Path], Path]:
    """Where the texts go, and their settings.

    A name that ends in .json holds both. Any other name is a text, for several texts a folder; the settings lie beside
    them in a .json file.

    Raises:
        ValueError: several texts and the name of one.
    """
    if out.suffix.lower() == ".json" and not out.is_dir():
        return [], out
    if out.is_dir() or (len(seeds) > 1 and not out.suffix):
        name = slug(title).replace("picture", "text") if slug(title) == "picture" else slug(title)
        texts = [out / f"{name}-{seed}.txt" for seed in seeds]
        return texts, out / f"{name}-{seeds[0]}.json"
    if len(seeds) > 1:
        raise ValueError(f"{len(seeds)} texts need a folder or a .json file, and {str(out)!r} is the name of one text")
    return [out], out.with_suffix(".json")


def check_files(texts: Sequence[Path], settings: Path, overwrite: bool) -> None:
    """Refuse targets that exist or cannot be written, before anything is computed."""
    check_targets([*texts, settings], overwrite)


def write_texts(files: Sequence[Path], target: Path, texts: Sequence[str], made: Mapping[str, Any]) -> list[str]:
    """Write the texts and what made them; names of what was written."""
    for file, text in zip(files, texts, strict=True) if files else ():
        write_atomically(file, text.encode("utf-8"))
    write_atomically(target, (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    return [str(file) for file in (*files, target)]
