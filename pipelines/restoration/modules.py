"""Networks made ready for a run, and put back after it: evaluation, frozen weights, checkpointing, a float32 VAE."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch


class _Held:
    """How modules were before the first of the runs that hold them came; runs may overlap in threads."""

    lock = threading.Lock()
    undo: ClassVar[dict[int, tuple[int, list[Callable[[], Any]]]]] = {}


def _make_ready(module: Any, gradient: bool, tiled: bool) -> list[Callable[[], Any]]:
    undo: list[Callable[[], Any]] = []
    if module.training:
        module.eval()
        undo.append(module.train)
    learning = [p for p in module.parameters() if p.requires_grad]
    if learning:
        module.requires_grad_(False)
        undo.append(lambda: [p.requires_grad_(True) for p in learning])
    if gradient and getattr(module, "_supports_gradient_checkpointing", False) and not module.is_gradient_checkpointing:
        module.enable_gradient_checkpointing()
        undo.append(module.disable_gradient_checkpointing)
    wanted = {"use_tiling": tiled} | ({"use_slicing": False} if gradient else {})
    for name, value in wanted.items():
        before = getattr(module, name, value)
        if before != value and (gradient or value):  # without gradients a VAE may stay as its user has set it
            setattr(module, name, value)
            undo.append(partial(setattr, module, name, before))
    if module.dtype == torch.float16 and getattr(getattr(module, "config", None), "force_upcast", False):
        module.to(torch.float32)  # exact, and so is the way back
        undo.append(lambda: module.to(torch.float16))
    return undo


@contextmanager
def ready(modules: list[Any], gradient: bool, tiled: bool = False) -> Iterator[None]:
    """Modules without dropout and with frozen weights; for gradients, with checkpointing.

    Args:
        modules: networks, autoencoder and text encoder.
        gradient: whether they will be differentiated through.
        tiled: whether the autoencoder shall go over large pictures in tiles.

    A VAE in float16 that says ``force_upcast`` computes in float32 meanwhile. Everything is put back at the end.
    """
    held: list[Any] = []
    try:
        with _Held.lock:
            for module in modules:
                depth, undo = _Held.undo.get(id(module), (0, []))
                _Held.undo[id(module)] = (depth + 1, undo + _make_ready(module, gradient, tiled))
                held.append(module)
        yield
    finally:
        with _Held.lock:
            for module in held:
                depth, undo = _Held.undo.pop(id(module))
                if depth > 1:
                    _Held.undo[id(module)] = (depth - 1, undo)
                    continue
                for step in reversed(undo):
                    step()
