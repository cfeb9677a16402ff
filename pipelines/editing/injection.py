"""Feature injection: attention tensors of one run, put back or added into another, by forward hooks.

Inverting a picture records the values (and, if asked for, the queries and keys) of chosen attention blocks in the steps
nearest the noise; sampling with the target prompt puts them back, so that the layout of the picture is kept. They are
taken where Deng et al. take them (FireFlow, arXiv 2412.07517): V after its projection, Q and K after their
normalisation and before the rotary embedding, of the whole joint sequence.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .feature_store import FeatureKey, FeatureStore
from .strategy import Injection, parse_blocks


@dataclass(frozen=True)
class Block:
    """An attention module that features are taken from.

    Attributes:
        name: its path in the denoiser.
        attention: the module, with ``to_q``, ``to_k``, ``to_v`` and perhaps ``norm_q`` and ``norm_k``.
        norm_axis: axis of the tokens in what the norms return; the projections have it at 1.
    """

    name: str
    attention: nn.Module
    norm_axis: int = 1

    def tap(self, tensor: str) -> tuple[nn.Module, int]:
        """The module whose output is Q, K or V before attention, and the axis of its tokens."""
        norm = getattr(self.attention, f"norm_{tensor}", None) if tensor != "v" else None
        if norm is not None:
            return norm, self.norm_axis
        return getattr(self.attention, f"to_{tensor}"), 1


def check_blocks(blocks: Sequence[Block]) -> None:
    """Refuse projections that no hook can reach.

    Raises:
        ValueError: fused projections, or a compiled model.
    """
    for block in blocks:
        if getattr(block.attention, "fused_projections", False):
            raise ValueError(
                f"the projections of {block.name} are fused, and then V is never a tensor of its own; call "
                "unfuse_qkv_projections() on the pipeline's transformer or unet before injecting"
            )
        for tensor in "qkv":
            if not hasattr(block.attention, f"to_{tensor}"):
                raise ValueError(f"{block.name} has no to_{tensor}, so features cannot be injected there")


class FeatureInjector:
    """Forward hooks on the projections of chosen blocks, for one run in this thread. Use it as a context manager.

    Before every call of the model say where the run is (`at`). In mode ``record`` tensors go into the store, in mode
    ``inject`` those of the store go into the model, in mode ``off`` nothing happens. On exit, also by an exception, the
    hooks are gone. Hooks leave attention processors, IP adapters and attention backends alone.

    Attributes:
        recorded, hits, misses: tensors kept, put back, and looked for in vain where a miss is allowed.
    """

    def __init__(self, blocks: Sequence[Block], injection: Injection, store: FeatureStore, image_tokens: int) -> None:
        self.injection = injection
        self.store = store
        self.chosen = parse_blocks(injection.blocks, len(blocks)) if injection.tensors else ()
        self.blocks = {number: blocks[number] for number in self.chosen}
        check_blocks(list(self.blocks.values()))
        self.image_tokens = image_tokens
        self.recorded = self.hits = self.misses = 0
        self._thread = threading.get_ident()
        self._mode = "off"
        self._place: tuple[int, str, str] = (0, "edge", "cond")
        self._handles: list[Any] = []

    def __enter__(self) -> FeatureInjector:
        try:
            for number, block in self.blocks.items():
                for tensor in self.injection.tensors:
                    module, axis = block.tap(tensor)
                    self._handles.append(module.register_forward_hook(self._hook(number, tensor, axis)))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()
        self._mode = "off"

    def at(self, mode: str, interval: int = 0, stage: str = "edge", branch: str = "cond") -> None:
        """Say what the next call of the model is, and whether to ``record``, to ``inject`` or to keep ``off``."""
        self._mode = mode
        self._place = (interval, stage, branch)

    def _hook(self, number: int, tensor: str, axis: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            if self._mode == "off" or threading.get_ident() != self._thread:  # the network may serve other threads
                return None
            if self._mode == "record":
                self.store.put(FeatureKey(*self._place, number, tensor), output)
                self.recorded += 1
                return None
            return self._injected(number, tensor, axis, output)

        return hook

    def _source(self, number: int, tensor: str) -> FeatureKey | None:
        interval, stage, branch = self._place
        key = FeatureKey(interval, stage, branch, number, tensor)
        if key not in self.store and branch == "uncond" and self.injection.branches == "both":
            key = key._replace(branch="cond")
        return key if key in self.store else None

    def _injected(self, number: int, tensor: str, axis: int, own: torch.Tensor) -> torch.Tensor | None:
        if self._place[2] == "uncond" and self.injection.branches == "cond":
            return None
        key = self._source(number, tensor)
        if key is None:
            self.misses += 1
            return None
        source = self.store.get(key, own.device).to(own.dtype)
        if source.shape != own.shape:
            raise ValueError(
                f"the features of {self.blocks[number].name} were recorded with shape {tuple(source.shape)} and the "
                f"model has {tuple(own.shape)} here; size, batch and text length of both runs must be the same"
            )
        self.hits += 1
        ratio = self.injection.ratios["qkv".index(tensor)]
        if ratio != 1:
            source = source * ratio
        value = own
        for word in self.injection.words:
            if word[-1] == tensor:
                value = source if word.startswith("replace") else value + source
        if self.injection.strength != 1:
            value = own + self.injection.strength * (value - own)
        if self.injection.scope == "image" and own.shape[axis] > self.image_tokens:
            text = own.shape[axis] - self.image_tokens  # joint sequences begin with the text
            value = torch.cat([own.narrow(axis, 0, text), value.narrow(axis, text, self.image_tokens)], dim=axis)
        return value
