"""Pictures of every format come in, fit a model, and go back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fewstep.pipelines.editing.frames import Frame, restored
from fewstep.pipelines.editing.pictures import psnr, read_picture


def colours(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp"])
def test_lossless_files_give_their_pixels(tmp_path: Path, ending: str) -> None:
    values = colours()
    Image.fromarray(values).save(tmp_path / f"a.{ending}", lossless=True)
    picture = read_picture(tmp_path / f"a.{ending}")
    assert picture.size == (9, 6)
    assert picture.alpha is None
    assert (np.rint(picture.rgb * 255) == values).all()
    assert (np.asarray(picture.image()) == values).all()


def test_sixteen_bits_keep_more_than_eight(tmp_path: Path) -> None:
    values = np.array([[0, 1, 255], [256, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert np.allclose(picture.rgb[..., 0], values / 65535, atol=1e-7)
        assert (picture.rgb[..., 0] == picture.rgb[..., 2]).all()
    assert np.allclose(read_picture(values).rgb[..., 1], values / 65535, atol=1e-7)


def test_grey_palette_and_single_bit_become_colours(tmp_path: Path) -> None:
    grey = Image.fromarray(colours(channels=1)[..., 0])
    for image in (grey, grey.convert("RGB").quantize(256), grey.point(lambda v: 255 * (v > 127)).convert("1")):
        image.save(tmp_path / "a.png")
        rgb = np.rint(read_picture(tmp_path / "a.png").rgb * 255)
        assert (rgb == np.asarray(image.convert("RGB"))).all()


def test_cmyk_is_converted_as_pillow_does(tmp_path: Path) -> None:
    image = Image.frombytes("CMYK", (9, 6), colours(channels=4).tobytes())
    image.save(tmp_path / "a.tiff")
    assert (np.rint(read_picture(tmp_path / "a.tiff").rgb * 255) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    values = colours()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    upright = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(values),
    }[orientation]
    assert (np.rint(read_picture(tmp_path / "a.png").rgb * 255) == upright).all()


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(colours())
    image.save(tmp_path / "a.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.abs(read_picture(tmp_path / "a.png").rgb * 255 - np.asarray(image)).max() <= 1.5
    image.save(tmp_path / "b.png", icc_profile=b"no profile at all")
    assert (np.rint(read_picture(tmp_path / "b.png").rgb * 255) == np.asarray(image)).all()


def test_transparent_pixels_are_laid_over_white_and_come_back(tmp_path: Path) -> None:
    values = colours(8, 8, 4)
    values[:2, :, 3], values[2:4, :, 3] = 0, 255
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (picture.opaque[:2] == 1).all()
    assert np.allclose(picture.opaque[2:4], picture.rgb[2:4])
    frame = Frame.fit(picture.size, 8, 64)
    out = np.asarray(restored(picture, frame, picture.opaque)).astype(int)
    assert (out[..., 3] == values[..., 3]).all()
    solid = values[..., 3] > 200
    assert np.abs(out - values)[solid].max() <= 1
    assert (out[:2] == values[:2]).all()  # the colours under full transparency are the picture's own


def test_arrays_and_images_are_the_same_picture() -> None:
    values = colours()
    for source in (Image.fromarray(values), values, values.astype(np.float32) / 255):
        assert np.allclose(read_picture(source).rgb * 255, values, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (np.zeros((2, 2, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((0, 2, 3), np.uint8), "1 to 4 channels"),
        (np.full((2, 2), 3.0), r"in \[0, 1\]"),
        (np.full((2, 2), np.nan), r"in \[0, 1\]"),
        (np.zeros((2, 2), np.int64), "uint8, uint16"),
    ],
)
def test_what_is_no_picture_is_refused(source: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_picture(source)


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="it is a folder"):
        read_picture(tmp_path)
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ValueError, match="not a picture"):
        read_picture(tmp_path / "a.png")
    Image.fromarray(colours(64, 64)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a picture"):
        read_picture(tmp_path / "b.png")
    with pytest.raises(TypeError, match="a picture is a file"):
        read_picture(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (480, 640), (1, 5000), (63, 65), (3, 2)])
def test_the_aspect_is_kept_and_the_sides_are_multiples(size: tuple[int, int]) -> None:
    frame = Frame.fit(size, 16, 64 * 64)
    assert frame.padded[0] % 16 == frame.padded[1] % 16 == 0
    assert frame.scaled[0] == frame.padded[0] or frame.scaled[1] == frame.padded[1]
    assert 0.5 < frame.padded[0] * frame.padded[1] / 64**2 < 2 or 1 in size
    ratio = min(frame.padded[0] / size[0], frame.padded[1] / size[1])
    assert all(abs(now - max(1, ratio * old)) <= 0.5 for now, old in zip(frame.scaled, size, strict=True))
    if size == (64, 64):
        assert frame.scaled == frame.padded == size


def test_padding_is_undone_exactly_and_scaling_nearly() -> None:
    values = read_picture(colours(30, 41)).rgb
    frame = Frame.fit((41, 30), 8, 32 * 32, "own")
    assert frame.scaled == (41, 30)
    assert frame.padded == (48, 32)
    assert (frame.outside(frame.inside(values)) == values).all()
    smooth = np.stack(np.meshgrid(np.linspace(0, 1, 120), np.linspace(0, 1, 90)), axis=2)[..., [0, 1, 0]]
    frame = Frame.fit((120, 90), 8, 48 * 48)
    back = frame.outside(frame.inside(smooth.astype(np.float32)))
    assert back.shape == smooth.shape
    assert np.abs(back - smooth)[4:-4, 4:-4].max() < 0.02


def test_sizes_that_are_asked_for() -> None:
    assert Frame.fit((100, 50), 16, 1e4, "64x64") == Frame((100, 50), (64, 32), (64, 64))
    assert Frame.fit((100, 50), 16, 1e4, 32).padded == (32, 32)
    with pytest.raises(ValueError, match="the nearest is 64x64"):
        Frame.fit((100, 50), 16, 1e4, "60x60")
    with pytest.raises(ValueError, match="size must be"):
        Frame.fit((100, 50), 16, 1e4, "large")
    assert Frame.fit((100, 100), 16, 200 * 200, None, 0.25).scaled == (100, 100)
    assert Frame.fit((99, 99), 16, 200 * 200, None, 0.25).scaled == (192, 192)


def test_psnr_of_a_uniform_error() -> None:
    a = colours().astype(float) / 255 * 0.9
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a) == float("inf")
