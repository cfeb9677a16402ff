"""Prompt-to-prompt: the attention maps of a source branch in the network of a target branch, by forward hooks.

A map is softmax(Q K^T); with Q and K those of the source and V its own, the target puts its own words (or pixels) where
the source has those at the same places (Hertz et al. 2022, arXiv 2208.01626).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ..editing.feature_store import FeatureMemory, FeatureStore
from ..editing.injection import Block, FeatureInjector
from ..editing.strategy import Injection


class AttentionControl:
    """Records the maps of one network call and puts them into others. Use it as a context manager.

    Args:
        unet: a `UNet2DConditionModel`.
        cross_steps: steps in which cross-attention is controlled, from the noise end.
        self_steps: the same for self-attention.

    Raises:
        ValueError: a network whose attention no hook can reach.
    """

    def __init__(self, unet: Any, cross_steps: int, self_steps: int) -> None:
        if getattr(unet, "is_gradient_checkpointing", False):
            raise ValueError(
                "attention cannot be controlled in a network that computes its activations twice; call "
                "disable_gradient_checkpointing() on the U-Net"
            )
        self.steps = {"attn2": cross_steps, "attn1": self_steps}
        self.store: dict[str, FeatureStore] = {}
        self.injectors: dict[str, FeatureInjector] = {}
        for kind, count in self.steps.items():
            blocks = [Block(name, module, norm_axis=2) for name, module in unet.named_modules() if name.endswith(kind)]
            if count and blocks:
                self.store[kind] = FeatureStore(FeatureMemory("device"))
                injection = Injection("replace_q replace_k")
                self.injectors[kind] = FeatureInjector(blocks, injection, self.store[kind], 0)
        self._stack, self._step = ExitStack(), 0

    def __enter__(self) -> AttentionControl:
        for injector in self.injectors.values():
            self._stack.enter_context(injector)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _set(self, mode: str) -> None:
        for kind, injector in self.injectors.items():
            injector.at(mode if self._step < self.steps[kind] else "off", self._step)

    def record(self, step: int) -> None:
        """The next call of the network is the source's at this step."""
        for store in self.store.values():
            store.clear()
        self._step = step
        self._set("record")

    def inject(self) -> None:
        """The next calls are the target's, and get the maps of the source."""
        self._set("inject")

    def rest(self) -> None:
        """The next calls are left alone."""
        self._set("off")
