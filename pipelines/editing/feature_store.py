"""Where recorded attention features are kept: on the device, in host memory or on disk, within a stated budget."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

PLACES = ("device", "host", "disk")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class FeatureKey(NamedTuple):
    """What a recorded tensor belongs to. Whole numbers and words, never noise levels: two legs round those apart.

    Attributes:
        interval: step of the grid, counted from the noise end: 0 touches pure noise.
        stage: ``edge`` for a call at an edge of the interval, ``mid`` for one at its middle; ``start`` for the opening
            call of an inversion, which sampling has no partner for.
        branch: ``cond`` or ``uncond``, the half of classifier-free guidance.
        block: number of the block among those that can be injected.
        tensor: ``q``, ``k`` or ``v``.
    """

    interval: int
    stage: str
    branch: str
    block: int
    tensor: str

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> FeatureKey:
        """The key of its text ``interval/stage/branch/block/tensor``."""
        interval, stage, branch, block, tensor = text.split("/")
        return cls(int(interval), stage, branch, int(block), tensor)


@dataclass(frozen=True)
class FeatureMemory:
    """Where features live and how much room they may take.

    Attributes:
        place: ``device`` (with the model: fastest), ``host`` (main memory) or ``disk`` (files in a folder of its own,
            which goes when the store does).
        budget: bytes that may be used, as a number or "500MB", "2GiB"; None is no limit.
        folder: where the folder on disk is made; None is the system's place for temporary files.
    """

    place: str = "host"
    budget: int | str | None = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            from fewstep.samplers.core.registry import nearest

            raise ValueError(
                f"unknown place for features {self.place!r}{nearest(str(self.place), PLACES)} "
                f"Known are {', '.join(PLACES)}"
            )
        parse_bytes(self.budget)
        if self.folder is not None and self.place != "disk":
            raise ValueError(f"a folder is for features on disk, and these are kept in {self.place} memory")

    @property
    def limit(self) -> int | None:
        """The budget in bytes."""
        return parse_bytes(self.budget)


def parse_bytes(size: int | str | None) -> int | None:
    """Bytes from 1000000, "1MB", "1.5GiB"; None stays None.

    Raises:
        ValueError: no such size, or a negative one.
    """
    if size is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", str(size), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    unit = unit if unit.endswith("B") or not unit else unit + "B"
    if found is None or isinstance(size, bool) or unit not in _UNITS:
        raise ValueError(f"a budget is a number of bytes such as 500MB or 2GiB, got {size!r}")
    return int(float(found[1]) * _UNITS[unit])


def readable_bytes(count: int) -> str:
    """ "0 B", "12.3 MB", "1.1 GB"."""
    if count < 1000:
        return f"{count} B"
    value, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


class FeatureStore:
    """Recorded tensors by `FeatureKey`. Nothing is kept beyond the budget: the tensor that does not fit is refused."""

    def __init__(self, memory: FeatureMemory | None = None) -> None:
        self.memory = memory or FeatureMemory()
        self._held: dict[FeatureKey, torch.Tensor | Path] = {}
        self._bytes: dict[FeatureKey, int] = {}
        self._folder: Path | None = None

    @property
    def bytes(self) -> int:
        """Bytes that are kept."""
        return sum(self._bytes.values())

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[FeatureKey]:
        return iter(self._held)

    def put(self, key: FeatureKey, tensor: torch.Tensor) -> None:
        """Keep a copy of a tensor; one that is there under the same key is replaced.

        Raises:
            ValueError: it does not fit into the budget.
        """
        size = tensor.numel() * tensor.element_size()
        limit = self.memory.limit
        if limit is not None and self.bytes - self._bytes.get(key, 0) + size > limit:
            elsewhere = {
                "device": "keep them in host memory or on disk",
                "host": "keep them on disk",
                "disk": "take more of it",
            }
            raise ValueError(
                f"the features take more than the budget of {readable_bytes(limit)}: {readable_bytes(self.bytes)} are "
                f"kept, and one more tensor takes {readable_bytes(size)}; inject into fewer blocks or fewer steps, "
                f"{elsewhere[self.memory.place]}, or raise the budget"
            )
        if self.memory.place == "device":
            self._held[key] = tensor.detach().clone()
        elif self.memory.place == "host":
            self._held[key] = tensor.detach().to("cpu", copy=True)
        else:
            self._held[key] = self._write(key, tensor.detach())
        self._bytes[key] = size

    def get(self, key: FeatureKey, device: torch.device | str | None = None) -> torch.Tensor:
        """The tensor of a key, on a device.

        Raises:
            KeyError: none was kept.
        """
        held = self._held[key]
        if isinstance(held, Path):
            from safetensors.torch import load_file

            held = load_file(held)["feature"]
        return held if device is None else held.to(device)

    def clear(self) -> None:
        """Forget everything; files on disk are removed."""
        self._held.clear()
        self._bytes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything by the text of its key, in host memory."""
        return {str(key): self.get(key, "cpu") for key in self._held}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], memory: FeatureMemory | None = None) -> FeatureStore:
        """A store that holds what `tensors` gave."""
        store = cls(memory)
        for text, tensor in tensors.items():
            store.put(FeatureKey.parse(text), tensor)
        return store

    def _write(self, key: FeatureKey, tensor: torch.Tensor) -> Path:
        from safetensors.torch import save_file

        if self._folder is None:
            above = None if self.memory.folder is None else Path(self.memory.folder).expanduser()
            if above is not None:
                above.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="fewstep-features-", dir=above))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / (str(key).replace("/", "-") + ".safetensors")
        save_file({"feature": tensor.to("cpu").contiguous()}, path)
        return path
