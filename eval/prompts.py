"""The prompts of a set of pictures: from a file, or from the pictures that `fewstep generate` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from .pictures import Folder, PictureSet


def prompts_of(pictures: PictureSet, file: str | Path | None = None) -> list[str]:
    """One prompt for each picture, in their order.

    Args:
        pictures: a set.
        file: a text file with one prompt a line, or a JSON file with a list of prompts or an object from file name to
            prompt. None reads what `fewstep generate` writes into its PNG files.

    Raises:
        FileNotFoundError, ValueError: no such file, or not one prompt for each picture.
    """
    if file is not None:
        return _from_file(pictures, Path(file))
    if not isinstance(pictures, Folder):
        raise ValueError("the CLIP score needs the prompts of the pictures: say --prompts FILE, with one a line")
    return [_inside(path) for path in pictures.files]


def _from_file(pictures: PictureSet, file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of prompts {str(file)!r}")
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix.lower() == ".json" else text.splitlines()
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the file of prompts {str(file)!r} cannot be read: {error}") from error
    if isinstance(content, dict):
        if not isinstance(pictures, Folder):
            raise ValueError("prompts by file name need a folder of pictures; give a list in the pictures' order")
        found = []
        for name in pictures.names():
            key = next((k for k in (name, Path(name).name, Path(name).stem) if k in content), None)
            if key is None:
                raise ValueError(f"the file of prompts {str(file)!r} has none for {name!r}")
            found.append(content[key])
        content = found
    if not isinstance(content, list) or not all(isinstance(prompt, str) for prompt in content):
        raise ValueError(f"{str(file)!r} must hold a list of prompts, or an object from file name to prompt")
    if len(content) != pictures.count:
        raise ValueError(f"{str(file)!r} holds {len(content)} prompts for {pictures.count} pictures")
    return content


def _inside(file: Path) -> str:
    from PIL import Image

    try:
        with Image.open(file) as image:
            prompt = json.loads(getattr(image, "text", {})["fewstep"])["prompt"]
    except (OSError, SyntaxError, KeyError, TypeError, json.JSONDecodeError):
        prompt = None
    if not isinstance(prompt, str):
        raise ValueError(
            f"the picture {file.name!r} does not hold its prompt, as those of `fewstep generate` do; say --prompts "
            "FILE, with one a line in the order of the file names"
        )
    return prompt
