"""What pictures are compared with: shipped statistics, files of them, or pictures, whose statistics a cache keeps."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .features import FeatureNetwork
from .pictures import PictureSet, open_pictures
from .statistics import Statistics


def find_reference(reference: Any, signed: bool) -> Statistics | PictureSet:
    """Statistics from a file or of that name, or the pictures that they are to be made of."""
    if isinstance(reference, Statistics):
        return reference
    if isinstance(reference, str | Path):
        import fewstep.assets

        shipped = {file.stem: file for file in (Path(fewstep.assets.__file__).parent / "statistics").glob("*.npz")}
        path = Path(reference).expanduser()
        if not path.exists():
            if str(reference) in shipped:
                return Statistics.load(shipped[str(reference)])
            from fewstep.samplers.core.registry import nearest

            raise FileNotFoundError(
                f"there is no reference {str(reference)!r}: no folder or file, and none that is shipped"
                f"{nearest(str(reference), shipped)} Shipped are {', '.join(shipped) or 'none'}"
            )
        if _holds_statistics(path):
            return Statistics.load(path)
    return open_pictures(reference, signed=signed)


def _holds_statistics(path: Path) -> bool:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"mu.npy", "sigma.npy"} <= set(archive.namelist())


def check_reference(known: Statistics, network: FeatureNetwork, of_features: Sequence[str]) -> None:
    """Refuse a reference of another network, or one without the features that some metrics need."""
    if known.hash is not None and known.hash != network.hash:
        raise ValueError(
            f"the reference is of the network {known.network!r} with the hash {known.hash}, and the network here is "
            f"{network.name!r} with the hash {network.hash}: features of other weights cannot be compared"
        )
    if network.dim and known.dim != network.dim:
        raise ValueError(
            f"the reference has features of length {known.dim}, and the network {network.name!r} makes {network.dim}"
        )
    if of_features and known.features is None:
        raise ValueError(f"{of_features[0]} needs features, and the reference holds a mean and a covariance alone")


def default_cache() -> Path:
    """`FEWSTEP_CACHE`, or `fewstep` in `XDG_CACHE_HOME`, or `~/.cache/fewstep`."""
    own = os.environ.get("FEWSTEP_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewstep"


def cache_key(pictures: PictureSet, network: FeatureNetwork, reservoir: int) -> str:
    """Hash of the pictures' contents, the network's name and weights, what it does to sizes, and the reservoir."""
    parts = (pictures.digest(), network.name, network.hash, network.resize, network.dtype, str(reservoir))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def cached_statistics(folder: Path, key: str, make: Callable[[], Statistics]) -> Statistics:
    """What is in the cache under the key, or what `make` returns, which is then put there.

    A cache that cannot be read or written costs the time to compute and a warning, never the result.
    """
    file = folder / "statistics" / f"{key}.npz"
    if file.is_file():
        try:
            return Statistics.load(file)
        except (OSError, ValueError):
            warnings.warn(f"the cached statistics {str(file)!r} cannot be read and are made again", stacklevel=2)
    made = make()
    try:
        made.save(file)
    except (OSError, ValueError) as error:
        warnings.warn(f"the statistics of the reference could not be cached in {str(folder)!r}: {error}", stacklevel=2)
    return made
