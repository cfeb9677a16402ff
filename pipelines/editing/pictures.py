"""Pictures as users have them, brought to a size that a model takes, and given back in the size that they came in.

8 and 16 bit, grey, palette, CMYK, alpha, colour profiles and EXIF orientation are read; what `to_image` makes is 8-bit
RGB or RGBA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sixteen_bits import lower_bytes

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: What transparent pixels are laid over before a model, which knows no transparency, sees them: white.
BACKDROP = 1.0


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in float32.

    Attributes:
        rgb: (H, W, 3) in [0, 1], sRGB, upright.
        alpha: (H, W) in [0, 1], or None for an opaque picture.
        name: where it came from, for sentences and settings.
        bits: of a channel where it came from, 8 or 16.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    name: str = "picture"
    bits: int = 8

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def grey(self) -> bool:
        """Whether it has no colour anywhere."""
        return bool((self.rgb[..., :1] == self.rgb[..., 1:]).all())

    @property
    def opaque(self) -> np.ndarray:
        """(H, W, 3): the picture over white, as a model sees it."""
        if self.alpha is None:
            return self.rgb
        return self.rgb * self.alpha[..., None] + BACKDROP * (1 - self.alpha[..., None])

    def image(self) -> Image:
        """The picture itself, in 8 bits a channel."""
        return to_image(self.rgb, self.alpha)


def open_image(source: str | Path, what: str = "picture") -> Image:
    """A file's (first) picture, decoded.

    Raises:
        FileNotFoundError, ValueError: no such file, or none that holds a picture.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no {what} {str(source)!r}" + (", it is a folder" if path.is_dir() else ""))
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(f"{str(source)!r} is not a picture that can be read{reason}") from error
    return image


def read_picture(source: str | Path | Image | np.ndarray | torch.Tensor | Picture) -> Picture:
    """A picture from a file, from PIL, or from an array.

    Args:
        source: a file's path, a PIL image, or an array (H, W) or (H, W, C) of 1 to 4 channels: unsigned integers of 8
            or 16 bits, or floats in [0, 1]. A picture's EXIF orientation and colour profile are applied.

    Raises:
        FileNotFoundError, ValueError, TypeError: nothing to read, or nothing that is a picture.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path):
        return _from_image(open_image(source), Path(source).name, lower_bytes(Path(source).expanduser()))
    if hasattr(source, "getexif"):
        return _from_image(source, Path(getattr(source, "filename", "") or "picture").name)
    if hasattr(source, "detach"):
        source = source.detach().cpu().float().numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source, "picture")
    raise TypeError(f"a picture is a file, a PIL image or an array (H, W, C), got {type(source).__name__}")


def _from_image(image: Any, name: str, lower: Any = None) -> Picture:
    """`lower` is an upright picture of the lower bytes, for 16-bit colours."""
    from PIL import ImageOps

    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if lower is not None and lower.mode == image.mode and not (profile and _is_foreign(profile)):
        upper = np.asarray(image).astype(np.uint16)
        return _from_array(upper * 256 + np.asarray(lower), name)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
            values = values.astype(np.uint16)  # what older readers make of a 16-bit grey file
        if values.dtype.kind == "f" and values.size and values.max() > 1:
            values = values / 255.0
        return _from_array(values, name)
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if profile:
        image = _in_srgb(image, profile)
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    return _from_array(np.asarray(image), name)


def _is_foreign(profile: bytes) -> bool:
    """Whether a colour profile is of another space than sRGB, as far as its own description says."""
    from PIL import ImageCms

    try:
        return "srgb" not in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).lower()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False


def _in_srgb(image: Any, profile: bytes) -> Any:
    """The picture in sRGB; a profile that does not fit is left aside, as viewers do."""
    from PIL import ImageCms

    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        return ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def _from_array(values: np.ndarray, name: str) -> Picture:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not 1 <= values.shape[2] <= 4 or 0 in values.shape:
        raise ValueError(f"a picture is an array (H, W) or (H, W, C) of 1 to 4 channels, got shape {values.shape}")
    if values.dtype == np.bool_:
        scaled = values.astype(np.float32)
    elif values.dtype == np.uint8 or values.dtype == np.uint16:
        scaled = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    elif values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError(f"{name}: floating-point pictures must hold numbers in [0, 1] alone")
        scaled = values.astype(np.float32)
    else:
        raise ValueError(f"{name}: pictures hold uint8, uint16 or floats in [0, 1], got {values.dtype}")
    alpha = scaled[..., -1] if values.shape[2] in (2, 4) else None
    colours = scaled[..., : values.shape[2] - (alpha is not None)]
    if alpha is not None and (alpha == 1).all():
        alpha = None
    bits = 16 if values.dtype == np.uint16 or values.dtype.kind == "f" else 8
    return Picture(np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours, alpha, name, bits)


def to_image(rgb: np.ndarray, alpha: np.ndarray | None = None) -> Image:
    """(H, W, 3) in [0, 1], with an alpha (H, W) if there is one, as an 8-bit PIL image."""
    from PIL import Image

    if alpha is not None:
        rgb = np.concatenate([rgb, alpha[..., None]], axis=2)
    return Image.fromarray(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two arrays in [0, 1]; infinite where they are equal."""
    error = float(np.mean((np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)
