"""Windows of photographs and emoji: the data of the pixel prior `photo-prior`.

Photographs 01 to 18 of the Kodak suite train, 19 to 24 are only ever measured on. Each photograph is held at three
sizes, since a window of a smaller copy shows more of the scene and has sharper edges. Everything drawn is a function of
a `torch.Generator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

TRAINED = tuple(f"{i:02d}" for i in range(1, 19))
HELD_OUT = tuple(f"{i:02d}" for i in range(19, 25))
SCALES = (1.0, 0.7, 0.5)
EMOJI_SHARE = 0.1


def read_photographs(folder: Path, names: tuple[str, ...]) -> list[Tensor]:
    """The photographs of these names, each (3, H, W) uint8.

    Args:
        folder: has NAME.png, itself or in one of its folders.
        names: without their ending.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    found = {file.stem: file for file in sorted(folder.rglob("*.png"))} if folder.is_dir() else {}
    missing = [name for name in names if name not in found]
    if missing:
        raise FileNotFoundError(
            f"{str(folder)!r} has no photograph {', '.join(f'{name}.png' for name in missing)}; the Kodak suite is 24 "
            "files 01.png to 24.png"
        )
    photographs = []
    for name in names:
        with Image.open(found[name]) as picture:
            photographs.append(torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1))
    return photographs


def read_emoji(file: Path) -> Tensor:
    """Emoji with their transparency, (N, 4, 32, 32) uint8, from an npz file with a member `rgba`."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of emoji {str(file)!r}")
    with np.load(file, allow_pickle=False) as content:
        if "rgba" not in content.files:
            raise ValueError(f"{str(file)!r} holds {', '.join(content.files)}; emoji are its member rgba, (N, H, W, 4)")
        return torch.from_numpy(content["rgba"]).permute(0, 3, 1, 2).contiguous()


def shrunk(photograph: Tensor, scale: float) -> Tensor:
    """A smaller copy by antialiased bicubic resampling, (3, H, W) uint8 -> uint8."""
    if scale == 1:
        return photograph
    size = [round(side * scale) for side in photograph.shape[1:]]
    small = F.interpolate(photograph[None].float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return small[0].round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Windows:
    """Random windows of pictures.

    Attributes:
        pictures: (3, H, W) uint8 each, all at least as large as a window.
        emoji: (N, 4, 32, 32) uint8; none if empty.
        size: side of a window, a multiple of 32.
    """

    pictures: list[Tensor]
    emoji: Tensor
    size: int = 64

    @classmethod
    def of(cls, photographs: list[Tensor], emoji: Tensor, size: int = 64) -> Windows:
        """Windows of the photographs at all `SCALES` at which a window fits in."""
        copies = (shrunk(photograph, scale) for photograph in photographs for scale in SCALES)
        fitting = [copy for copy in copies if min(copy.shape[1:]) >= size]
        if not fitting:
            raise ValueError(f"no photograph is as large as a window of {size} pixels")
        return cls(fitting, emoji, size)

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """Random windows, turned and mirrored, their light varied: (count, 3, size, size) in [-1, 1]."""
        area = torch.tensor([float(p.shape[1] * p.shape[2]) for p in self.pictures])
        which = torch.multinomial(area, count, replacement=True, generator=generator)
        numbers = torch.rand(count, 8, generator=generator, dtype=torch.float64)
        rows = [self._window(self.pictures[int(i)], number) for i, number in zip(which, numbers, strict=True)]
        if len(self.emoji):
            for k, number in enumerate(numbers):
                if number[7] < EMOJI_SHARE:
                    rows[k] = self._emoji(generator)
        windows = torch.stack(rows) / 127.5 - 1
        # A third of the windows in another light: the contrast about their mean, and the mean itself.
        varied = (numbers[:, 4] < 1 / 3).float()[:, None, None, None]
        gain = 1 + varied * (numbers[:, 5].float() - 0.5)[:, None, None, None]
        shift = varied * 0.4 * (numbers[:, 6].float() - 0.5)[:, None, None, None]
        mean = windows.mean((1, 2, 3), keepdim=True)
        return ((windows - mean) * gain + mean + shift).clamp(-1, 1)

    def _window(self, picture: Tensor, number: Tensor) -> Tensor:
        size = self.size
        top, left = (int(number[i] * (picture.shape[i + 1] - size + 1)) for i in (0, 1))
        return _turned(picture[:, top : top + size, left : left + size].float(), int(8 * number[2]))

    def _emoji(self, generator: torch.Generator) -> Tensor:
        """Four emoji or more, side by side on a plain ground."""
        side = self.size // 32
        index = torch.randint(len(self.emoji), (side * side,), generator=generator)
        ground = 255 * torch.rand(3, 1, 1, generator=generator)
        drawn = self.emoji[index].float()
        opaque = drawn[:, 3:] / 255
        tiles = drawn[:, :3] * opaque + ground * (1 - opaque)
        rows = tiles.view(side, side, 3, 32, 32).permute(2, 0, 3, 1, 4)
        return rows.reshape(3, self.size, self.size)


def _turned(window: Tensor, way: int) -> Tensor:
    """One of the eight turns and mirrorings of a square."""
    window = torch.rot90(window, way % 4, (1, 2))
    return window.flip(2) if way >= 4 else window


def centre_windows(photographs: list[Tensor], size: int = 64, each: int = 8) -> Tensor:
    """Fixed windows on a lattice inside of every photograph: (len * each, 3, size, size) in [-1, 1]."""
    rows = []
    for photograph in photographs:
        height, width = photograph.shape[1:]
        for k in range(each):
            top = round((height - size) * ((k % 2) + 0.5) / 2)
            left = round((width - size) * (k // 2 + 0.5) / -(-each // 2))
            rows.append(photograph[:, top : top + size, left : left + size].float() / 127.5 - 1)
    return torch.stack(rows)
