"""Pictures of strangers: bounded in bytes and pixels before a pixel is decoded, their type told by their content."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import counted
from .settings import MAX_BYTES, MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

#: Formats that are read, as pillow names them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")

_BAD = "this is not a picture that can be read; PNG, JPEG, WebP, BMP, TIFF and GIF are"
#: Warnings are settings of the process.
_LOCK = threading.Lock()


def read_upload(source: str | Path | bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image:
    """A picture from a file or from bytes, decoded whole.

    Its first frame, upright, with its own size and mode. Nothing of its name is looked at, and its header is read
    before its pixels.

    Raises:
        ValueError: too many bytes or pixels, no picture, or a damaged one; always a sentence without a path.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise ValueError("the picture did not arrive; upload it again")
        size = path.stat().st_size
        _check_bytes(size, max_bytes)
        source = path.read_bytes()
    _check_bytes(len(source), max_bytes)
    return _decoded(source, max_pixels)


def _check_bytes(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"the picture has {size / 2**20:.1f} MB, and at most {most / 2**20:g} MB are taken")
    if size == 0:
        raise ValueError("the file is empty")


def _decoded(content: bytes, most: int) -> Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
            width, height = image.size
            if width * height > most:
                raise _TooLarge(
                    f"the picture has {width} x {height} pixels, and at most {counted(most // 10**6, 'megapixel')} "
                    "are taken; make it smaller"
                )
            if min(width, height) < 8:
                raise _TooLarge(f"the picture has {width} x {height} pixels, and 8 x 8 are the least")
            image.load()
            return ImageOps.exif_transpose(image)
        except _TooLarge as error:
            raise ValueError(str(error)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError("the picture has more pixels than are taken; make it smaller") from None
        except UnidentifiedImageError:
            raise ValueError(_BAD) from None
        except MemoryError:
            raise ValueError("the picture needs more memory than there is; make it smaller") from None
        except Exception:  # whatever a decoder stumbles over, the file is damaged
            raise ValueError("the picture is damaged or incomplete; save it again as PNG and upload that") from None


class _TooLarge(Exception):
    """A sentence of ours among what decoders raise."""


@dataclass(frozen=True)
class Refused:
    """What stands for a picture that was not taken, until the handler says why."""

    sentence: str


def painted(layers: list[Image], size: tuple[int, int]) -> Image | None:
    """What a brush painted, as a mask of the picture's size: white where anything was painted; None for nothing.

    Args:
        layers: RGBA pictures of the canvas.
        size: (width, height) of the picture that the canvas shows.
    """
    from PIL import ImageChops

    mask = None
    for layer in layers:
        alpha = layer.convert("RGBA").getchannel("A").point(lambda value: 255 if value > 31 else 0)
        mask = alpha if mask is None else ImageChops.lighter(mask, alpha.resize(mask.size))
    if mask is None or mask.getextrema()[1] == 0:
        return None
    return painted_mask(mask, size)


def painted_mask(mask: Image, size: tuple[int, int]) -> Image:
    """A mask of black and white, brought to another size without losing a thin stroke."""
    from PIL import Image as Images

    if mask.size == size:
        return mask
    import numpy as np

    share = np.asarray(mask.convert("F").resize(size, Images.Resampling.BOX)) / 255
    # a cell of the picture is white if a quarter of it was painted, or where no stroke is as wide as that, any of it
    white = share > (0.25 if share.max() > 0.25 else 0)
    return Images.fromarray(white.astype(np.uint8) * 255)


def canvas_of(image: Image, low: int = 384, high: int = 768) -> Image:
    """A picture as the brush shows it: small ones enlarged pixel by pixel, large ones reduced."""
    from PIL import Image as Images

    shown = image.convert("RGB")
    factor = -(-low // max(shown.size))
    if factor > 1:
        return shown.resize((shown.width * factor, shown.height * factor), Images.Resampling.NEAREST)
    if max(shown.size) > high:
        shown = shown.copy()
        shown.thumbnail((high, high))
    return shown


def folder_pictures(folders: tuple[Path, ...], most: int = 200) -> dict[str, Path]:
    """Pictures in the folders that the owner allows: "folder/name.png" -> file; no links that lead outside."""
    endings = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    found: dict[str, Path] = {}
    for folder in folders:
        root = folder.resolve()
        for file in sorted(folder.iterdir()):
            real = file.resolve()
            if file.suffix.lower() in endings and real.is_file() and real.is_relative_to(root) and len(found) < most:
                found[f"{root.name}/{file.name}"] = real
    return found
