"""Mean and covariance of features over any number of pictures, in constant memory.

Files are npz archives with `mu` and `sigma`, as other programs for the Fréchet distance read and write them, with
fields of our own beside these.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .reservoir import Reservoir


class Statistics:
    """Streaming moments of features in float64.

    Two parts a and b of the pictures, with n = n_a + n_b and delta = mean_b - mean_a, are joined by

        mean = mean_a + delta n_b / n,      S = S_a + S_b + delta delta^T n_a n_b / n,

    where S is the scatter sum_i (x_i - mean)(x_i - mean)^T (Chan, Golub and LeVeque, 1979). Nothing large is ever
    subtracted, so batches, their order and the number of processes change the result by rounding alone.

    Args:
        reservoir: how many features to keep themselves (for kernel distances, precision and recall); which ones depends
            on the pictures' numbers alone, see `Reservoir`.
        network: name of the feature network, for the file.
        hash: hash of its weights, for the file.

    Attributes:
        count: pictures seen. 0 with moments present: a file from elsewhere that does not say.
    """

    def __init__(self, reservoir: int = 0, *, network: str | None = None, hash: str | None = None) -> None:
        self.count = 0
        self.network = network
        self.hash = hash
        self.reservoir = Reservoir(reservoir)
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None
        self._cov: Tensor | None = None  # given, not gathered

    @classmethod
    def from_moments(cls, mean: Any, cov: Any, count: int = 0, **names: str | None) -> Statistics:
        """Statistics with a known mean (d,) and covariance (d, d); `count` 0 means unknown.

        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, a covariance that is not symmetric.
        """
        mean = torch.as_tensor(mean).detach().to("cpu", torch.float64)
        cov = torch.as_tensor(cov).detach().to("cpu", torch.float64)
        if mean.ndim != 1 or not len(mean) or cov.shape != (len(mean), len(mean)):
            raise ValueError(
                f"a mean has shape (d,) and its covariance (d, d), got {tuple(mean.shape)} and {tuple(cov.shape)}"
            )
        if not (mean.isfinite().all() and cov.isfinite().all()):
            raise ValueError("mean and covariance must be finite, and some of their numbers are not")
        if float((cov - cov.T).abs().max()) > 1e-5 * float(cov.abs().max()):
            raise ValueError("a covariance is symmetric, and this one is not")
        made = cls(**names)  # type: ignore[arg-type]
        made._mean, made._cov, made.count = mean, (cov + cov.T) / 2, count
        made._scatter = made._cov * (count - 1) if count > 1 else None
        return made

    @property
    def dim(self) -> int:
        """Length d of a feature; 0 before the first."""
        return 0 if self._mean is None else len(self._mean)

    @property
    def mean(self) -> Tensor:
        """(d,) float64."""
        if self._mean is None:
            raise ValueError("there are no statistics of no pictures")
        return self._mean

    @property
    def cov(self) -> Tensor:
        """(d, d) float64, the scatter over count - 1; needs two pictures."""
        if self._cov is None:
            if self._scatter is None or self.count < 2:
                raise ValueError(f"a covariance needs at least two pictures, got {self.count}")
            self._cov = self._scatter / (self.count - 1)
        return self._cov

    @property
    def features(self) -> Tensor | None:
        """The features that were kept, (k, d) float32, or None."""
        return self.reservoir.features

    def update(self, features: Tensor, indices: Any = None) -> None:
        """Add features of some pictures.

        Args:
            features: (B, d), finite, on any device; a batch is added with one matrix product in float64 on the host.
            indices: (B,) the pictures' numbers; by default they follow those seen so far.

        Raises:
            ValueError: another shape than before, or features that are not finite.
        """
        if features.ndim != 2:
            raise ValueError(f"features must have shape (B, d), got {tuple(features.shape)}")
        numbers = np.arange(self.count, self.count + len(features)) if indices is None else np.asarray(indices)
        if numbers.shape != (len(features),):
            raise ValueError(f"indices must have shape ({len(features)},), got {numbers.shape}")
        if not len(features):
            return
        rows = features.detach().to("cpu").to(torch.float64)
        if not bool(rows.isfinite().all()):
            bad = int(numbers[int((~rows.isfinite()).any(1).nonzero()[0])])
            raise ValueError(f"the features of picture {bad} are not finite")
        mean = rows.mean(0)
        centred = rows - mean
        self._join(len(rows), mean, centred.T @ centred)
        self.reservoir.add(numbers, features)

    def merge(self, other: Statistics) -> None:
        """Add all that another one has seen.

        Raises:
            ValueError: another feature length or network, or a part of which nobody knows how large it was.
        """
        for key in ("network", "hash"):
            mine, its = getattr(self, key), getattr(other, key)
            if mine is not None and its is not None and mine != its:
                raise ValueError(f"statistics of two networks cannot be merged: {key} {mine!r} and {its!r}")
        if other._mean is None:
            return
        if other.count == 1:
            scatter = torch.zeros(other.dim, other.dim, dtype=torch.float64)
        elif other._scatter is None:
            raise ValueError("statistics from a file that does not say how many pictures it is of cannot be merged")
        else:
            scatter = other._scatter
        self._join(other.count, other._mean, scatter)
        self.network, self.hash = self.network or other.network, self.hash or other.hash
        if other.features is not None:
            self.reservoir.add(other.reservoir.indices, other.features)

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self._mean is None:
            self._mean, self._scatter, self.count = mean, scatter.clone(), count
        else:
            if self._scatter is None or not self.count:
                raise ValueError("statistics from a file that does not say how many pictures it is of cannot grow")
            if len(mean) != len(self._mean):
                raise ValueError(f"features of length {len(mean)} do not fit those of length {len(self._mean)} before")
            total = self.count + count
            delta = mean - self._mean
            self._mean = self._mean + delta * (count / total)
            self._scatter = self._scatter + scatter + torch.outer(delta, delta) * (self.count * count / total)
            self.count = total
        self._cov = None

    def save(self, path: str | Path, features_dtype: str = "float32") -> None:
        """Write an npz file whole or not at all: `mu`, `sigma`, `count`, and what else is known.

        Args:
            path: the file; its folder is made.
            features_dtype: ``float32`` or ``float16``, of the features that were kept.
        """
        arrays: dict[str, Any] = {"mu": self.mean.numpy(), "sigma": self.cov.numpy(), "count": np.int64(self.count)}
        arrays |= {key: np.str_(text) for key in ("network", "hash") if (text := getattr(self, key)) is not None}
        if self.features is not None:
            arrays["features"] = self.features.numpy().astype(features_dtype)
            arrays["indices"] = self.reservoir.indices
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read what `save` wrote, or any npz file with `mu` and `sigma`.

        Raises:
            FileNotFoundError, ValueError: no such file, or one that holds no statistics.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file of statistics {str(path)!r}")
        try:
            with np.load(path, allow_pickle=False) as file:
                held = set(file.files) if isinstance(file, np.lib.npyio.NpzFile) else set()
                arrays = {key: file[key] for key in _FIELDS if key in held}
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{str(path)!r} cannot be read as an npz file of statistics: {error}") from error
        if not {"mu", "sigma"} <= set(arrays):
            raise ValueError(f"{str(path)!r} holds no statistics: these are an npz file with mu and sigma")
        names = {key: str(arrays[key]) if key in arrays else None for key in ("network", "hash")}
        try:
            made = cls.from_moments(arrays["mu"], arrays["sigma"], int(arrays.get("count", 0)), **names)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{str(path)!r} holds no usable statistics: {error}") from error
        if "features" in arrays:
            rows = torch.from_numpy(arrays["features"].astype(np.float32))
            if rows.ndim != 2 or rows.shape[1] != made.dim:
                raise ValueError(f"{str(path)!r} holds features of shape {tuple(rows.shape)}, not (k, {made.dim})")
            made.reservoir = Reservoir(len(rows))
            made.reservoir.add(arrays.get("indices", np.arange(len(rows))), rows)
        return made


_FIELDS = ("mu", "sigma", "count", "network", "hash", "features", "indices")


def write_npz(path: str | Path, arrays: dict[str, Any]) -> None:
    """Write arrays to an npz file whole or not at all."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, and the statistics need a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
