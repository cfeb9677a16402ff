"""Adams-Bashforth extrapolation of a denoiser's outputs: skip a call, and let the sampler step with a prediction.

Along a sampling run the outputs f_0, f_1, ... of a denoiser vary smoothly with the index i of the call. Equating the
Adams-Bashforth and Adams-Moulton formulas of order k gives

    f_{i+1} = sum_{j=1..k} (-1)^{j+1} C(k, j) f_{i+1-j} + O(h^k),

the polynomial of degree k - 1 through the last k outputs, one step ahead. Here the polynomial goes through the last k
outputs *that the network really gave*, at the places tau_j where it gave them:

    f(tau) ~ sum_j w_j F_j,      w_j = prod_{l != j} (tau - tau_l) / (tau_j - tau_l),      sum_j w_j = 1.

Pushing predictions back as if they were outputs makes errors grow from window to window, and the binomial weights on
outputs that lie T calls apart are of first order whatever k; anchored weights keep order k.

Reference: Zichao Yu et al., "AB-Cache: Training-Free Acceleration of Diffusion Models via Adams-Bashforth Cached
Feature Reuse", 2025, arXiv 2504.10540. The anchored history, the guard on the weights and the calls at the end are
ours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .config import ABCacheConfig


def lagrange_weights(nodes: Sequence[float], target: float) -> list[float]:
    """Weights of the polynomial through `nodes`, evaluated at `target`; as many as nodes, which must differ."""
    if len(set(nodes)) != len(nodes):
        raise ValueError(f"the nodes of a polynomial must differ, got {list(nodes)}")
    return [
        math.prod((target - other) / (node - other) for j, other in enumerate(nodes) if j != i)
        for i, node in enumerate(nodes)
    ]


def guarded_weights(nodes: Sequence[float], target: float, max_amplification: float | str | None) -> list[float]:
    """`lagrange_weights` of the first nodes only, as many as keep ``sum |w|`` within the limit; at least one.

    ``auto`` is 2^k - 1 for k nodes: the sum of one equal spacing ahead. Regular windows never reach it; after a dense
    start, where the target is many spacings away, it lowers the order until the next outputs are known.
    """
    for count in range(len(nodes), 1, -1):
        weights = lagrange_weights(nodes[:count], target)
        limit = 2**count - 1 if max_amplification == "auto" else max_amplification
        # rounding of thirds must not tip a window that reaches the limit exactly
        if limit is None or sum(map(abs, weights)) <= float(limit) * (1 + 1e-9):
            return weights
    return [1.0]


def planned_mask(config: ABCacheConfig, calls: int) -> list[bool]:
    """Which of `calls` calls are made when nothing unforeseen happens."""
    branch = Branch(config, calls)
    mask = []
    for i in range(calls):
        mask.append(branch.advance())
        if mask[-1]:
            branch.push([torch.zeros(())], float(i))
    return mask


class History:
    """The last `size` real outputs, newest first; each a list of tensors at a call index and a coordinate."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._entries: deque[tuple[int, float | None, list[Tensor]]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._entries)

    def tensors(self) -> Iterator[Tensor]:
        """Everything that is kept."""
        for _, _, outputs in self._entries:
            yield from outputs

    def push(self, index: int, coordinate: float | None, outputs: Iterable[Tensor]) -> None:
        """Keep copies, at least as precise as `dtype`; outputs of other shapes than before make a fresh start."""
        kept = [o.detach().to(torch.promote_types(o.dtype, self.dtype), copy=True) for o in outputs]
        if self._entries:
            before = self._entries[0][2]
            same = [(a.shape, a.dtype, a.device) for a in before] == [(b.shape, b.dtype, b.device) for b in kept]
            if not same:
                self._entries.clear()
        self._entries.appendleft((index, coordinate, kept))

    def clear(self) -> None:
        self._entries.clear()

    def weights(self, index: int, coordinate: float | None, max_amplification: float | str | None) -> list[float]:
        """Weights of the kept outputs, newest first; in the index where a coordinate is missing or repeats."""
        places = [place for _, place, _ in self._entries]
        known = [place for place in places if place is not None]
        if coordinate is None or len(known) < len(places) or len({*known, coordinate}) <= len(places):
            return guarded_weights([float(i) for i, _, _ in self._entries], float(index), max_amplification)
        return guarded_weights(known, coordinate, max_amplification)

    def predict(self, index: int, coordinate: float | None, max_amplification: float | str | None) -> list[Tensor]:
        """sum_j w_j F_j for every tensor of an output, fresh tensors in the kept dtype."""
        if not self._entries:
            raise ValueError("nothing can be extrapolated before the first output is known")
        weights = self.weights(index, coordinate, max_amplification)
        predicted = []
        for parts in zip(*[outputs for _, _, outputs in self._entries], strict=True):
            total = parts[0] * weights[0] if weights[0] != 1.0 else parts[0].clone()
            for weight, part in zip(weights[1:], parts[1:], strict=False):
                total.add_(part, alpha=weight)
            predicted.append(total)
        return predicted


class Branch:
    """One guidance branch of one run: which of its calls are made, and what the others answer.

    Args:
        config: the settings.
        calls: N, calls of this branch in all; None where it is not known, and the tail is off.
    """

    def __init__(self, config: ABCacheConfig, calls: int | None = None) -> None:
        self.config = config
        self.calls = calls
        self.history = History(config.order, config.history_dtype)
        self.mask: list[bool] = []
        self._start = 0  # of the warm-up
        self._last = -1  # index of the last call that was made

    def next_is_real(self) -> bool:
        """Whether the call after this one is going to be made; the counter stays."""
        n, config = len(self.mask), self.config
        if not len(self.history) or (config.interval == 1 and config.compute_mask is None):
            return True
        forced = config.forced(n)
        if forced is not None:
            return forced
        return (
            n - self._start < config.warmup_steps
            or (self.calls is not None and n >= self.calls - config.tail_steps)
            or n - self._last >= config.interval
        )

    def advance(self, must: bool = False) -> bool:
        """Count one call; True if it is to be made, also because the caller says that it must be."""
        real = must or self.next_is_real()
        if real:
            self._last = len(self.mask)
        self.mask.append(real)
        return real

    def push(self, outputs: Iterable[Tensor], coordinate: float | None = None) -> None:
        """Keep what the network gave at the call at hand."""
        self.history.push(len(self.mask) - 1, coordinate, outputs)

    def predict(self, coordinate: float | None = None) -> list[Tensor]:
        """What the network would have given at the call at hand."""
        return self.history.predict(len(self.mask) - 1, coordinate, self.config.max_amplification)

    def restart(self) -> None:
        """Forget the outputs and begin a warm-up with the next call; the count goes on."""
        self.history.clear()
        self._start = len(self.mask)
