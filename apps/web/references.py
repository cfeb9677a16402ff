"""Solutions that comparisons were made with, the last few of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class References:
    """Latents and picture of each, by what it depends on."""

    def __init__(self, most: int = 16) -> None:
        self._found: OrderedDict[Any, tuple[torch.Tensor, Image]] = OrderedDict()
        self._most, self._lock = most, threading.Lock()

    def get(self, key: Any) -> tuple[torch.Tensor, Image] | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Any, value: tuple[torch.Tensor, Image]) -> None:
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.popitem(last=False)
