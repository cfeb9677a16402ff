"""Sets of pictures, read as a stream: a folder, an array in a file, a tensor, or a run that names one of them."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")

#: Members of an npz file that are looked for first.
_USUAL_KEYS = ("pictures", "images", "samples", "arr_0", "x")


@dataclass(frozen=True)
class Batch:
    """Pictures of one size that follow each other.

    Attributes:
        first: number of the first one in the set.
        images: (B, 3, H, W) float32 in [0, 1].
    """

    first: int
    images: Tensor


class PictureSet:
    """A set of pictures with an order. Nothing is read before it is asked for, and never more than a batch.

    Attributes:
        where: what to call it.
        count: number of pictures.
    """

    where: str
    count: int

    def batches(self, size: int) -> Iterator[Batch]:
        """All pictures in order, at most `size` at a time."""
        raise NotImplementedError

    def digest(self) -> str:
        """Hash of the contents and the order, 64 hexadecimal digits."""
        raise NotImplementedError


class Folder(PictureSet):
    """All picture files under a folder, by name; hidden ones are left out. Transparency is dropped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)
        found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        shown = (f for f in found if not any(part.startswith(".") for part in f.relative_to(folder).parts))
        self.files = sorted(shown, key=lambda file: file.relative_to(folder).as_posix())
        self.count = len(self.files)
        if not self.files:
            raise ValueError(f"the folder {self.where!r} holds no pictures ({', '.join(SUFFIXES)})")

    def names(self) -> list[str]:
        """Names relative to the folder."""
        return [file.relative_to(self.folder).as_posix() for file in self.files]

    def batches(self, size: int) -> Iterator[Batch]:
        waiting: list[np.ndarray] = []
        for i, file in enumerate(self.files):
            picture = read_picture(file)
            if waiting and (len(waiting) == size or picture.shape != waiting[0].shape):
                yield Batch(i - len(waiting), as_images(np.stack(waiting)))
                waiting = []
            waiting.append(picture)
        if waiting:
            yield Batch(self.count - len(waiting), as_images(np.stack(waiting)))

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, file in zip(self.names(), self.files, strict=True):
            with file.open("rb") as stream:
                total.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()


class ArrayFile(PictureSet):
    """An array in an npz or npy file, compressed or not: (N, H, W, 3), (N, 3, H, W) or (N, H, W).

    Args:
        path: the file. Of an npz file the member `pictures`, `images`, `samples`, `arr_0` or `x`, or the only one that
            has the shape of pictures.
        signed: floats are in [-1, 1] rather than in [0, 1].
    """

    def __init__(self, path: Path, signed: bool = False) -> None:
        self.path = path
        self.where = str(path)
        self.signed = signed
        self.key: str | None = None
        try:
            if zipfile.is_zipfile(path):
                self.key = self._member()
            with self._array() as (_, shape, dtype):
                self.shape, self.dtype = shape, dtype
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            raise ValueError(f"{self.where!r} cannot be read as an array of pictures: {error}") from error
        if not _is_pictures(self.shape) or not (self.dtype == np.uint8 or self.dtype.kind == "f"):
            raise ValueError(
                f"{self.where!r} holds {self.dtype} of shape {self.shape}; pictures are uint8, or float in [0, 1], of "
                "shape (N, H, W, 3), (N, 3, H, W) or (N, H, W)"
            )
        self.count = self.shape[0]
        if not self.count:
            raise ValueError(f"{self.where!r} holds no pictures")

    def _member(self) -> str:
        with zipfile.ZipFile(self.path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        shapes = {}
        for name in names:
            self.key = name
            with self._array() as (_, shape, _dtype):
                shapes[name] = shape
        fitting = [name for name, shape in shapes.items() if _is_pictures(shape)]
        chosen = [name for name in _USUAL_KEYS if name in fitting] or fitting
        if not chosen or (len(chosen) > 1 and chosen[0] not in _USUAL_KEYS):
            held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
            raise ValueError(f"it must have one member that is pictures, or name it {_USUAL_KEYS[0]}; it holds {held}")
        return chosen[0]

    @contextmanager
    def _array(self) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
        """The array's bytes from the first on, its shape and its type."""
        with self._stream() as stream:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"numpy files of version {version} are not read here")
            one = np.lib.format.read_array_header_1_0
            shape, fortran, dtype = (one if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
            if dtype.hasobject or (fortran and len(shape) > 1):
                raise ValueError("the array must be of numbers, in C order")
            yield stream, shape, dtype

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        if self.key is None:
            with self.path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as member:
                yield member

    def batches(self, size: int) -> Iterator[Batch]:
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        with self._array() as (stream, _, _dtype):
            for first in range(0, self.count, size):
                rows = min(size, self.count - first)
                data = stream.read(rows * row)
                if len(data) != rows * row:
                    raise ValueError(f"{self.where!r} is cut off after picture {first + len(data) // row}")
                array = np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
                yield Batch(first, as_images(array, self.signed, self.where, first))

    def digest(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.sha256(hashlib.file_digest(stream, "sha256").digest() + bytes([self.signed])).hexdigest()


class Pixels(PictureSet):
    """A tensor or array in memory, of the shapes and types of `ArrayFile`."""

    def __init__(self, pictures: Any, signed: bool = False) -> None:
        array = pictures.detach().cpu() if isinstance(pictures, Tensor) else pictures
        if isinstance(array, Tensor):
            array = (array if array.dtype == torch.uint8 else array.float()).numpy()
        self.array: np.ndarray = np.asarray(array)
        self.signed = signed
        self.where = f"pictures of shape {self.array.shape}"
        good = self.array.dtype == np.uint8 or self.array.dtype.kind == "f"
        if not good or not _is_pictures(self.array.shape) or not len(self.array):
            raise ValueError(
                f"pictures must be uint8, or float in [0, 1], of shape (N, 3, H, W), (N, H, W, 3) or (N, H, W); got "
                f"{self.array.dtype} of {self.array.shape}"
            )
        self.count = len(self.array)

    def batches(self, size: int) -> Iterator[Batch]:
        for first in range(0, self.count, size):
            yield Batch(first, as_images(self.array[first : first + size], self.signed, self.where, first))

    def digest(self) -> str:
        head = f"{self.array.dtype} {self.array.shape} {self.signed}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()


def open_pictures(source: Any, *, signed: bool = False) -> PictureSet:
    """A set of pictures.

    Args:
        source: a folder; an npz or npy file; a JSON result file whose settings name `pictures`, a folder or file beside
            it; a tensor or array.
        signed: floats in arrays are in [-1, 1] rather than in [0, 1].

    Raises:
        FileNotFoundError, ValueError: no such thing, or one without pictures.
    """
    if isinstance(source, PictureSet):
        return source
    if isinstance(source, Tensor | np.ndarray):
        return Pixels(source, signed)
    path = Path(source).expanduser()
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise FileNotFoundError(f"there are no pictures at {str(source)!r}: no such folder or file")
    if path.suffix.lower() == ".json":
        return open_pictures(_pictures_of_run(path), signed=signed)
    if path.suffix.lower() in (".npz", ".npy"):
        return ArrayFile(path, signed)
    one = "one picture" if path.suffix.lower() in SUFFIXES else "of another kind"
    raise ValueError(f"{str(source)!r} is {one}; pictures are a folder, an npz or npy file, or a .json result file")


def _pictures_of_run(path: Path) -> Path:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    settings = report.get("settings") if isinstance(report, dict) else None
    named = settings.get("pictures") if isinstance(settings, dict) else None
    if not isinstance(named, str) or not named:
        raise ValueError(
            f"{str(path)!r} does not say where its pictures are: a result file does in settings.pictures, a path "
            "relative to the file"
        )
    target = path.parent / named
    if target.suffix.lower() == ".json" or not target.exists():
        raise FileNotFoundError(f"{str(path)!r} names its pictures {named!r}, and there is no such folder beside it")
    return target


def _is_pictures(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or (len(shape) == 4 and (shape[-1] in (1, 3) or shape[1] in (1, 3)))


def as_images(array: np.ndarray, signed: bool = False, where: str = "", first: int = 0) -> Tensor:
    """Pictures of any layout and type that `ArrayFile` takes -> (B, 3, H, W) float32 in [0, 1]."""
    x = torch.from_numpy(np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32))
    if x.ndim == 3:
        x = x[:, None]
    elif x.shape[-1] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    if x.dtype == torch.uint8:
        x = x.float() / 255
    else:
        low = -1.0 if signed else 0.0
        small, large = float(x.min()), float(x.max())
        if not (math.isfinite(small) and math.isfinite(large)):
            raise ValueError(
                f"{where} must hold finite floats, and among pictures {first} to {first + len(x) - 1} some are NaN or "
                "infinite"
            )
        if not (low - 1e-3 <= small and large <= 1 + 1e-3):
            hint = "" if signed else "; pictures in [-1, 1] want --signed (signed=True)"
            raise ValueError(
                f"{where} must hold floats in [{low:g}, 1], and pictures {first} to {first + len(x) - 1} have "
                f"{small:.4g} to {large:.4g}{hint}"
            )
        x = ((x + 1) / 2 if signed else x).clamp(0, 1)
    return x.expand(-1, 3, -1, -1).contiguous()


def read_picture(file: Path) -> np.ndarray:
    """A picture file as uint8 (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode in ("F", "I") or image.mode.startswith("I;"):
                raise ValueError(f"it has more than 8 bits a channel ({image.mode})")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture {str(file)!r} cannot be read: {error}") from error
