"""Colours of 16 bits come in and go out whole; a writer of their files that is not ours, and Pillow, are the judges."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.pipelines.editing.pictures import read_picture
from fewstep.pipelines.sixteen_bits import encode_png, lower_bytes


def values(channels: int, height: int = 7, width: int = 5) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def plain_png(array: np.ndarray) -> bytes:
    """The simplest PNG that holds the values: no filter, one chunk."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def expected(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    alpha = array[..., -1] if array.shape[2] in (2, 4) else None
    colours = array[..., : array.shape[2] - (alpha is not None)]
    return np.broadcast_to(colours, (*colours.shape[:2], 3)), alpha


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_files_give_all_their_bits(tmp_path: Path, channels: int) -> None:
    array = values(channels)
    for content in (plain_png(array), encode_png(array, {"a": "b"})):
        (tmp_path / "a.png").write_bytes(content)
        picture = read_picture(tmp_path / "a.png")
        rgb, alpha = expected(array)
        assert (np.rint(picture.rgb * 65535) == rgb).all()
        assert picture.alpha is None if alpha is None else (np.rint(picture.alpha * 65535) == alpha).all()
        assert picture.bits == 16


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [3, 4])
def test_tiff_files_give_all_their_bits(tmp_path: Path, channels: int, compression: str | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    array, more = values(channels), {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    for order in "<>":
        tifffile.imwrite(
            tmp_path / "a.tiff", array, photometric="rgb", compression=compression, byteorder=order, **more
        )
        picture = read_picture(tmp_path / "a.tiff")
        rgb, alpha = expected(array)
        assert (np.rint(picture.rgb * 65535) == rgb).all()
        assert picture.alpha is None if alpha is None else (np.rint(picture.alpha * 65535) == alpha).all()


def test_orientation_turns_both_bytes(tmp_path: Path) -> None:
    array = values(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode_png(array)
    raw = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(raw)) + b"eXIf" + raw + struct.pack(">I", zlib.crc32(b"eXIf" + raw))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert (np.rint(read_picture(tmp_path / "a.png").rgb * 65535) == np.rot90(array, -1)).all()


def test_texts_and_upper_bytes_are_what_pillow_reads() -> None:
    from io import BytesIO

    array = values(4)
    image = Image.open(BytesIO(encode_png(array, {"key": "value", "more": "é"})))
    assert (np.asarray(image) == array >> 8).all()
    assert image.text == {"key": "value", "more": "é"}  # type: ignore[attr-defined]


def test_other_files_have_no_lower_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "a.jpg")
    Image.new("I;16", (3, 3)).save(tmp_path / "b.png")
    assert [lower_bytes(tmp_path / name) for name in ("a.png", "a.jpg", "b.png")] == [None] * 3
    with pytest.raises(ValueError, match="16-bit pictures are uint16"):
        encode_png(np.zeros((2, 2, 3), np.uint8))


def test_a_profile_of_another_space_is_applied_in_eight_bits(tmp_path: Path) -> None:
    from PIL import ImageCms

    array = values(3)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encode_png(array)
    for profile, bits in ((srgb, 16), (lab, 8)):
        raw = b"icc\0\0" + zlib.compress(profile)
        chunk = struct.pack(">I", len(raw)) + b"iCCP" + raw + struct.pack(">I", zlib.crc32(b"iCCP" + raw))
        (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
        assert read_picture(tmp_path / "a.png").bits == bits
