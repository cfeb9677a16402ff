"""Fashion-MNIST in colour, with captions: the data of the small text-to-image model that ships with fewstep.

Each grey 28x28 garment becomes a 32x32 picture of that garment in one of ten colours on one of five backgrounds, and
an English sentence that says so. Everything is a function of its arguments and of a `torch.Generator`, so a recipe can
make its pictures while it trains and still be repeatable.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GARMENTS: tuple[str, ...] = (
    "t-shirt",
    "pair of trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""The ten classes, in the order of Fashion-MNIST's labels."""

# sRGB in [0, 1]. Any two colours, and any colour and background, differ by at least 0.2 in some channel.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.12, 0.14),
    "orange": (0.97, 0.50, 0.06),
    "yellow": (0.97, 0.84, 0.12),
    "green": (0.18, 0.62, 0.20),
    "teal": (0.05, 0.56, 0.58),
    "blue": (0.13, 0.29, 0.84),
    "purple": (0.48, 0.18, 0.68),
    "pink": (0.97, 0.50, 0.72),
    "brown": (0.46, 0.27, 0.13),
    "grey": (0.53, 0.53, 0.54),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.06),
    "beige": (0.91, 0.84, 0.71),
    "light blue": (0.68, 0.84, 0.96),
    "mint": (0.71, 0.94, 0.80),
}

# What people call each garment: the class name first, then the synonyms. A plural takes no article.
NOUNS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "tshirt", "t shirt", "tee"),
    "pair of trousers": ("pair of trousers", "trousers", "pair of pants", "pants"),
    "pullover": ("pullover", "sweater", "jumper"),
    "dress": ("dress",),
    "coat": ("coat", "jacket"),
    "sandal": ("sandal", "sandals"),
    "shirt": ("shirt", "blouse"),
    "sneaker": ("sneaker", "sneakers", "trainer"),
    "bag": ("bag", "handbag"),
    "ankle boot": ("ankle boot", "boot", "ankle boots", "boots"),
}
PLURALS = frozenset({"trousers", "pants", "sandals", "sneakers", "ankle boots", "boots"})

# (template, share). {thing} is "red ankle boot", {a_thing} "a red ankle boot", {noun} "ankle boot", {a_noun} "an ankle
# boot". The first is the canonical caption; the last ones leave something unsaid, so that short prompts work too.
PHRASINGS: tuple[tuple[str, float], ...] = (
    ("{a_thing} on a {background} background", 0.34),
    ("{thing}, {background} background", 0.07),
    ("a photo of {a_thing} against a {background} backdrop", 0.07),
    ("a picture of {a_thing} on a {background} background", 0.07),
    ("{a_noun} in {colour} on {background}", 0.07),
    ("{thing} on {background}", 0.07),
    ("{a_thing}", 0.08),
    ("{thing}", 0.05),
    ("a photo of {a_thing}", 0.04),
    ("{a_noun} in {colour}", 0.03),
    ("{a_noun} on a {background} background", 0.03),
    ("{noun}", 0.03),
    ("{a_noun}", 0.02),
    ("something {colour} on a {background} background", 0.02),
    ("something {colour}", 0.01),
)
CLASS_NAME_SHARE = 0.65
"""How often a caption uses the class name rather than one of its synonyms."""


def load_fashion_mnist(path: str | Path) -> dict[str, np.ndarray]:
    """Read Fashion-MNIST from an .npz file or from a folder with the four original idx files.

    Args:
        path: an .npz file with `x_train`, `y_train`, `x_test`, `y_test`, or a folder with `train-images-idx3-ubyte`,
            `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, gzipped or not.

    Returns:
        `x_train`, `x_test`: uint8 (N, 28, 28), 0 is background. `y_train`, `y_test`: int64 (N,) in 0..9.
    """
    path = Path(path)
    if path.is_dir():
        arrays = {
            f"{letter}_{split}": _idx(path, f"{prefix}-{kind}-ubyte")
            for split, prefix in (("train", "train"), ("test", "t10k"))
            for letter, kind in (("x", "images-idx3"), ("y", "labels-idx1"))
        }
    elif path.is_file():
        with np.load(path, allow_pickle=False) as file:
            missing = {"x_train", "y_train", "x_test", "y_test"} - set(file.files)
            if missing:
                raise ValueError(
                    f"{path.name} holds no {', '.join(sorted(missing))}; it holds {', '.join(file.files)}."
                )
            arrays = {key: file[key] for key in ("x_train", "y_train", "x_test", "y_test")}
    else:
        raise FileNotFoundError(f"There is no Fashion-MNIST at {path}; give the .npz file or the folder of idx files.")
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int64)
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
            raise ValueError(f"x_{split} must be uint8 of shape (N, 28, 28), got {images.dtype} of {images.shape}.")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"y_{split} must hold one label for each of {len(images)} images, got {labels.shape}.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(GARMENTS):
            raise ValueError(f"y_{split} must be in 0..9, got {labels.min()}..{labels.max()}.")
        arrays[f"y_{split}"] = labels
    return arrays


def _idx(folder: Path, name: str) -> np.ndarray:
    """Read one idx file of bytes: two zeros, a type, a rank, the sizes as big-endian int32, then the data."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            break
    else:
        raise FileNotFoundError(f"There is neither {name} nor {name}.gz in {folder}.")
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{file.name} is not an idx file of unsigned bytes.")
    shape = np.frombuffer(raw, ">i4", raw[3], 4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != int(np.prod(shape)):
        raise ValueError(f"{file.name} should hold {int(np.prod(shape))} bytes of data, it holds {data.size}.")
    return data.reshape(shape).copy()


def colourise(
    grey: Tensor,
    colour: Tensor,
    background: Tensor,
    generator: torch.Generator | None = None,
    flip: float = 0.0,
) -> Tensor:
    """Paint grey garments in a colour on a background.

    The garment's mask is soft and has its pinholes closed, so that a dark garment stays garment. The shading is taken
    around the garment's own mean, so that folds and seams stay visible and a dark garment is still painted in the full
    colour asked for.

    Args:
        grey: (B, 28, 28) uint8 in 0..255, or float in [0, 1]; 0 is background.
        colour: (B,) int64, index into `COLOURS`.
        background: (B,) int64, index into `BACKGROUNDS`.
        generator: source of the jitter of the colours and of the flips; None paints the exact colours, unflipped.
        flip: probability of mirroring a garment left to right.

    Returns:
        (B, 3, 32, 32) float32 in [-1, 1].
    """
    if grey.ndim != 3 or grey.shape[1:] != (28, 28):
        raise ValueError(f"grey must have shape (B, 28, 28), got {tuple(grey.shape)}.")
    for name, index, table in (("colour", colour, COLOURS), ("background", background, BACKGROUNDS)):
        if index.shape != grey.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(grey)},), got {tuple(index.shape)}.")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(table):
            raise ValueError(f"{name} must be in 0..{len(table) - 1}, got {int(index.min())}..{int(index.max())}.")
    if generator is None and flip:
        raise ValueError("flip needs a generator to draw from.")

    value = grey.to(torch.float32) / 255 if grey.dtype == torch.uint8 else grey.to(torch.float32)
    value = F.pad(value[:, None], (2, 2, 2, 2))
    if generator is not None and flip:
        mirrored = torch.rand(len(value), generator=generator).lt(flip).to(value.device)
        value = torch.where(mirrored[:, None, None, None], value.flip(-1), value)

    # A morphological closing (dilate, then erode) fills the pinholes that black seams and buttons leave in the mask and
    # keeps the gaps of a sandal or under a bag's handle.
    closed = -F.max_pool2d(-F.max_pool2d(value, 3, 1, 1), 3, 1, 1)
    alpha = (closed / 0.16).clamp(0, 1)
    alpha = alpha * alpha * (3 - 2 * alpha)

    weight = alpha.sum((1, 2, 3), keepdim=True).clamp_min(1e-6)
    mean = (alpha * value).sum((1, 2, 3), keepdim=True) / weight
    shade = (0.95 + 0.75 * (value - mean)).clamp(0.50, 1.25)

    paint = torch.tensor(list(COLOURS.values()), device=value.device)[colour]
    ground = torch.tensor(list(BACKGROUNDS.values()), device=value.device)[background]
    if generator is not None:
        noise = torch.rand(len(value), 2, 4, generator=generator).to(value.device) * 2 - 1
        # Brightness of the paint first, then each channel; the ground moves less, so that white stays white.
        paint = (paint * (1 + 0.06 * noise[:, 0, :1]) + 0.025 * noise[:, 0, 1:]).clamp(0, 1)
        ground = (ground + 0.012 * noise[:, 1, :1] + 0.012 * noise[:, 1, 1:]).clamp(0, 1)
    paint, ground = paint[:, :, None, None], ground[:, :, None, None]

    # Below 1 the shade darkens the paint; above 1 it moves the paint towards white, as a highlight does.
    garment = paint * shade.clamp(max=1) + (1 - paint) * (shade - 1).clamp(min=0)
    return (alpha * garment + (1 - alpha) * ground).mul(2).sub(1).clamp(-1, 1)


def with_article(words: str) -> str:
    """Put "a" or "an" before singular words, and nothing before a plural: "an orange boot", "red trousers"."""
    if any(words == plural or words.endswith(" " + plural) for plural in PLURALS) and "pair of" not in words:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def canonical_caption(garment: int, colour: int, background: int) -> str:
    """The plain caption, for example "a red ankle boot on a white background"."""
    return _fill(PHRASINGS[0][0], GARMENTS[garment], list(COLOURS)[colour], list(BACKGROUNDS)[background])


def captions(garment: int, colour: int, background: int) -> Iterator[tuple[str, float]]:
    """All captions of one picture with their probabilities, which add up to one. Some texts come more than once."""
    colour_name, background_name = list(COLOURS)[colour], list(BACKGROUNDS)[background]
    name, *synonyms = NOUNS[GARMENTS[garment]]
    nouns = [(name, CLASS_NAME_SHARE if synonyms else 1.0)]
    nouns += [(synonym, (1 - CLASS_NAME_SHARE) / len(synonyms)) for synonym in synonyms]
    for template, share in PHRASINGS:
        for noun, noun_share in nouns:
            yield _fill(template, noun, colour_name, background_name), share * noun_share


def caption(garment: int, colour: int, background: int, generator: torch.Generator | None = None) -> str:
    """One caption of a picture: drawn with `generator`, or the canonical one without.

    Args:
        garment: 0..9, index into `GARMENTS`.
        colour: 0..9, index into `COLOURS`.
        background: 0..4, index into `BACKGROUNDS`.
        generator: source of the choice of words.
    """
    if generator is None:
        return canonical_caption(garment, colour, background)
    texts, shares = zip(*captions(garment, colour, background), strict=True)
    choice = torch.multinomial(torch.tensor(shares, dtype=torch.float64), 1, generator=generator)
    return str(texts[int(choice)])


def _fill(template: str, noun: str, colour: str, background: str) -> str:
    thing = f"{colour} {noun}"
    return template.format(
        a_thing=with_article(thing),
        thing=thing,
        a_noun=with_article(noun),
        noun=noun,
        colour=colour,
        background=background,
    )
