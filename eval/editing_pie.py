"""PIE-Bench: 700 edits of photographs and paintings with masks, as its authors publish the folder.

``mapping_file.json`` names for every edit the picture below ``annotation_images``, both prompts, and a mask of the
edited region as pairs (first pixel, number of pixels) on 512x512, row by row. (Ju et al. 2023, Direct Inversion:
Boosting Diffusion-based Editing with 3 Lines of Code, arXiv 2310.01506.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .editing_edits import Edit, EditSet, checked_items

MAPPING, PICTURES = "mapping_file.json", "annotation_images"
SIDE = 512
#: ``editing_type_id`` -> what is changed.
TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
_NEEDED = ("image_path", "original_prompt", "editing_prompt", "mask")


def is_pie_bench(path: str | Path) -> bool:
    """Whether a folder is laid out as PIE-Bench."""
    return (Path(path).expanduser() / MAPPING).is_file()


def decode_mask(runs: Sequence[int], side: int = SIDE) -> np.ndarray:
    """(side, side) float32, 1 where the picture is edited, from pairs (first pixel, number of pixels).

    What leaves the picture is cut, and the outermost pixels count as edited, both as in the published evaluation.

    Raises:
        ValueError: no pairs of whole numbers, or negative ones.
    """
    flat = np.zeros(side * side, dtype=np.float32)
    if len(runs) % 2 or not all(isinstance(value, int) and not isinstance(value, bool) for value in runs):
        raise ValueError(f"a mask is a list of pairs (first pixel, number of pixels), got {len(runs)} entries")
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        if first < 0 or count < 0:
            raise ValueError(f"a mask of {side}x{side} pixels has no run of {count} pixels from pixel {first} on")
        flat[first : first + count] = 1
    mask = flat.reshape(side, side)
    mask[[0, -1], :] = mask[:, [0, -1]] = 1
    return mask


def plain(prompt: str) -> str:
    """A prompt without the brackets that mark its edited words."""
    return prompt.replace("[", "").replace("]", "")


class PieBench(EditSet):
    """The edits of a PIE-Bench folder, in the order of its file. Pictures are read when they are asked for.

    Raises:
        FileNotFoundError: the folder, its file or one of its pictures is not there.
        ValueError: a file that is laid out otherwise.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(TYPES.values())

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        path = self.folder / MAPPING
        if not path.is_file():
            raise FileNotFoundError(f"there is no {MAPPING} in {str(folder)!r}, so it is no PIE-Bench folder")
        text = path.read_bytes()
        try:
            mapping = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f"{path} holds no edits; it is an object with one entry an edit")
        for name, entry in mapping.items():
            _check_entry(path, name, entry)
        self._entries: list[tuple[str, Mapping[str, Any]]] = list(mapping.items())
        missing = [entry["image_path"] for _, entry in self._entries if not self._path(entry).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of {len(self._entries)} pictures are not in {str(self.folder / PICTURES)!r}, such as "
                f"{missing[0]!r}"
            )
        self.most = len(self._entries)
        self.about = {"pictures": "PIE-Bench"}
        self.fingerprint = {"pictures": "pie-bench", "mapping": hashlib.sha256(text).hexdigest()[:16]}

    def edits(self, items: range) -> list[Edit]:
        from fewstep.pipelines.editing.pictures import read_picture

        made = []
        for i in checked_items(self, items):
            name, entry = self._entries[i]
            picture = read_picture(self._path(entry))
            try:
                region = decode_mask(entry["mask"])
            except ValueError as error:
                raise ValueError(f"the mask of {name!r} in {self.folder / MAPPING} cannot be read: {error}") from error
            if picture.size != (SIDE, SIDE):
                raise ValueError(
                    f"{entry['image_path']} has {picture.size[0]}x{picture.size[1]} pixels, and masks of PIE-Bench are "
                    f"for {SIDE}x{SIDE}"
                )
            kind = TYPES.get(str(entry.get("editing_type_id", "0")), TYPES["0"])
            source, target = plain(entry["original_prompt"]), plain(entry["editing_prompt"])
            made.append(Edit(picture.opaque, source, target, kind, region))
        return made

    def _path(self, entry: Mapping[str, Any]) -> Path:
        return self.folder / PICTURES / entry["image_path"]


def _check_entry(path: Path, name: str, entry: Any) -> None:
    missing = [key for key in _NEEDED if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise ValueError(f"edit {name!r} in {path} has no {', '.join(missing)}")
    texts = [key for key in _NEEDED[:3] if not isinstance(entry[key], str)]
    if texts or not isinstance(entry["mask"], list):
        raise ValueError(f"edit {name!r} in {path}: {', '.join(texts) or 'mask'} is not what PIE-Bench holds there")
    if Path(entry["image_path"]).is_absolute() or ".." in Path(entry["image_path"]).parts:
        raise ValueError(f"edit {name!r} in {path} names a picture outside of the folder: {entry['image_path']!r}")
