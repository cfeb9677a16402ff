"""A sample of fixed size from a stream of features, chosen by the pictures' numbers alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def hash_of_index(indices: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): integers (N,) -> well mixed, distinct uint64 (N,)."""
    with np.errstate(over="ignore"):
        z = indices.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Reservoir:
    """The `size` rows whose picture numbers have the smallest hashes.

    Which rows are kept depends on the numbers alone: neither on the order in which they come, nor on batches, nor on
    how many processes share the pictures. Rows are in the order of their hashes, so that any first part of them is a
    random sample as well.

    Args:
        size: rows to keep, at least 0.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"a reservoir keeps at least 0 rows, got {size}")
        self.size = size
        self.indices = np.zeros(0, np.int64)
        self.features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def add(self, indices: np.ndarray, features: Tensor) -> None:
        """Offer rows: picture numbers (N,) and features (N, d), kept as float32 in host memory."""
        if not self.size:
            return
        if len(self.indices) >= self.size:  # nearly all of a long stream ends here, without a copy
            small = hash_of_index(indices) < hash_of_index(self.indices[-1:])
            indices, features = indices[small], features[torch.from_numpy(small).to(features.device)]
        if not len(indices) and self.features is not None:
            return
        rows = features.detach().to("cpu", torch.float32)
        merged = np.concatenate([self.indices, indices.astype(np.int64)])
        kept = np.argsort(hash_of_index(merged), kind="stable")[: self.size]
        self.features = (rows if self.features is None else torch.cat([self.features, rows]))[torch.from_numpy(kept)]
        self.indices = merged[kept]
