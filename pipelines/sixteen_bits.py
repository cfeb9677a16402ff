"""Colours of 16 bits in PNG and TIFF files, of which Pillow alone reads and writes the upper 8."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

#: Byte orders of Pillow's raw modes, and the order that takes the other byte of every pair for the upper one.
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def lower_bytes(path: str | Path) -> Image | None:
    """The lower bytes of a file of 16-bit colours, as an upright 8-bit picture; None for any other file.

    Pillow opens such a file as RGB or RGBA of the upper bytes. Told the opposite byte order, it takes the lower ones.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        tiles = []
        for tile in getattr(image, "tile", ()):
            given: Any = tile.args
            raw = given if isinstance(given, str) else given[0] if isinstance(given, tuple) and given else ""
            colours, _, depth = str(raw).partition(";16")
            if colours not in ("RGB", "RGBA", "LA") or depth not in _OTHER:
                return None
            # grey with alpha: read as four bytes a pixel, of which the second and the fourth are the lower ones
            mode = "RGBA" if colours == "LA" else f"{colours};16{_OTHER[depth]}"
            tiles.append((tile._replace(args=mode if isinstance(given, str) else (mode, *given[1:])), colours))
        if not tiles:
            return None
        image.tile = [tile for tile, _ in tiles]
        image.load()
        upright = ImageOps.exif_transpose(image)
        if tiles[0][1] != "LA":
            return upright
        _, grey, _, alpha = upright.split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))


def encode_png(values: np.ndarray, texts: Mapping[str, str] | None = None) -> bytes:
    """A PNG file of 16 bits a channel.

    Args:
        values: (H, W, C) uint16: grey, grey and alpha, RGB, or RGBA.
        texts: Latin-1 texts by keyword, written before the pixels.

    Raises:
        ValueError: other arrays.
    """
    if values.dtype != np.uint16 or values.ndim != 3 or values.shape[2] not in _COLOUR_TYPES or 0 in values.shape:
        raise ValueError(f"16-bit pictures are uint16 (H, W, 1 to 4), got {values.dtype} {values.shape}")
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, width * channels).view(np.uint8)
    above = np.concatenate([np.zeros((1, rows.shape[1]), np.uint8), rows[:-1]])
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)  # each row minus the one above
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header)]
    for key, text in (texts or {}).items():
        parts.append(_chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1", "replace")))
    return b"".join([*parts, _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
