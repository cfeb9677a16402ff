"""Uploads of strangers: whatever the bytes are, a picture or a sentence."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fewstep.apps.web.uploads import canvas_of, folder_pictures, painted, painted_mask, read_upload

#: Small limits, so that what is too large can be made here.
LIMITS = {"max_bytes": 200_000, "max_pixels": 250_000}


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


PICTURE = Image.fromarray(np.arange(24 * 20 * 3, dtype=np.uint8).reshape(20, 24, 3))
SEEDS = [saved(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]


def sentence(content: bytes) -> str:
    """The sentence of a refusal; nothing for a picture."""
    try:
        image = read_upload(content, **LIMITS)
    except ValueError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert "Error" not in text
        assert "/" not in text.replace(" / ", "")
        return text
    assert image.width * image.height <= LIMITS["max_pixels"]
    image.convert("RGB")
    return ""


@pytest.mark.parametrize("content", SEEDS)
def test_pictures_of_every_kind_are_read_whole(content):
    assert read_upload(content, **LIMITS).size == (24, 20)


def header(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and that holds a handful of bytes."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"\0" * 50))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_huge_header_is_refused_before_anything_is_decoded(monkeypatch):
    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    assert "pixels" in sentence(header(1_000_000, 1_000_000))
    assert "pixels" in sentence(header(600, 600))
    assert "pixels" in sentence(header(3, 600))


def test_a_decompression_bomb_inside_a_chunk_is_refused():
    bomb = zlib.compress(b"\0" * 100_000_000, 9)
    whole = SEEDS[0]
    assert sentence(whole[:33] + chunk(b"zTXt", b"Comment\0\0" + bomb) + whole[33:]) != ""


def test_what_is_no_picture_is_told_by_its_content_not_its_name(tmp_path):
    for number, content in enumerate((b"", b"<svg onload=alert(1)>", b"%PDF-1.7", b"MZ\0\0", b"#!/bin/sh\nexit\n")):
        file = tmp_path / f"{number}.png"
        file.write_bytes(content)
        with pytest.raises(ValueError):
            read_upload(file, **LIMITS)
    real = tmp_path / "real.txt"
    real.write_bytes(SEEDS[0])
    assert read_upload(real, **LIMITS).size == (24, 20)


def test_a_missing_or_large_file_is_a_sentence_without_its_path(tmp_path):
    (tmp_path / "big.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 300_000)
    for name, said in (("big.png", "MB"), ("none.png", "upload it again")):
        with pytest.raises(ValueError, match=said) as caught:
            read_upload(tmp_path / name, **LIMITS)
        assert str(tmp_path) not in str(caught.value)


def test_polyglots_are_pictures_and_nothing_else():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")
    for tail in (archive.getvalue(), b"<script>alert(1)</script>", b"%PDF-1.4 /JS (x)"):
        image = read_upload(SEEDS[0] + tail, **LIMITS)
        assert b"script" not in saved(image)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(SEEDS),
    st.one_of(
        st.tuples(st.just("cut"), st.integers(0, 400), st.just(b"")),
        st.tuples(st.just("flip"), st.integers(0, 400), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.integers(0, 400), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("prepend"), st.just(0), st.binary(min_size=1, max_size=40)),
    ),
)
def test_damaged_pictures_are_pictures_or_sentences(content, change):
    kind, place, other = change
    place = min(place, len(content))
    if kind == "cut":
        content = content[:place]
    elif kind == "flip":
        content = content[:place] + other + content[place + len(other) :]
    elif kind == "insert":
        content = content[:place] + other + content[place:]
    else:
        content = other + content
    sentence(content)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([seed[:8] for seed in SEEDS] + [b""]))
def test_any_bytes_are_a_picture_or_a_sentence(content, start):
    sentence(start + content)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_any_size_in_a_header_is_refused_or_small(width, height):
    assert sentence(header(width, height)) != ""


def test_a_stroke_becomes_a_mask_of_the_pictures_size():
    layer = Image.new("RGBA", (96, 96))
    layer.paste((0, 0, 0, 255), (48, 0, 96, 96))
    mask = painted([layer], (32, 32))
    assert mask.size == (32, 32)
    assert np.array_equal(np.asarray(mask), np.repeat([[0] * 16 + [255] * 16], 32, axis=0))
    assert painted([Image.new("RGBA", (96, 96))], (32, 32)) is None
    thin = Image.new("L", (96, 96))
    thin.putpixel((48, 48), 255)
    assert painted_mask(thin, (32, 32)).getextrema() == (0, 255)


def test_the_canvas_enlarges_small_pictures_pixel_by_pixel():
    shown = canvas_of(PICTURE)
    assert max(shown.size) >= 384
    assert shown.width % PICTURE.width == 0
    assert shown.resize(PICTURE.size, Image.Resampling.NEAREST).tobytes() == PICTURE.tobytes()


def test_only_pictures_inside_the_allowed_folders_can_be_picked(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        PICTURE.save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "notes.txt").write_text("no picture")
    assert list(folder_pictures((inside,))) == ["in/a.png"]
