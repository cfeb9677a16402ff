"""Inversions in files: one .safetensors with the tensors, and a JSON text about them in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.samplers.inversion import Inversion as LatentInversion

from ..files import write_atomically
from .feature_store import FeatureMemory, FeatureStore
from .frames import Frame
from .inversion import Inversion
from .pictures import Picture
from .strategy import Injection

_KEY = "fewstep_inversion"
_VERSION = 1


def _whole(values: np.ndarray) -> torch.Tensor:
    """[0, 1] as 8 bits where that loses nothing, else as 16."""
    small = np.rint(values * 255)
    if (np.abs(small / 255 - values) < 1e-6).all():
        return torch.from_numpy(small.astype(np.uint8))
    return torch.from_numpy(np.rint(values * 65535).astype(np.uint16))


def _fraction(values: torch.Tensor) -> np.ndarray:
    array = values.numpy()
    return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)


def save_inversion(inversion: Inversion, path: str | Path) -> None:
    """Write an inversion, whole or not at all.

    Raises:
        ValueError: a name that does not end in .safetensors.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    target = Path(path).expanduser()
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"an inversion is kept in a .safetensors file; got {str(path)!r}")
    latents = inversion.latents
    tensors: dict[str, torch.Tensor] = {"sample": latents.sample, "source": latents.source, "path": inversion.path}
    tensors |= {f"kept.{i}": part for i, part in enumerate(latents.kept)}
    tensors |= {f"inputs.{interval}.{kind}": x for (interval, kind), x in inversion.inputs.items()}
    tensors |= {f"features.{key}": feature for key, feature in inversion.features.tensors().items()}
    for i, picture in enumerate(inversion.pictures):
        tensors[f"rgb.{i}"] = _whole(picture.rgb)
        if picture.alpha is not None:
            tensors[f"alpha.{i}"] = _whole(picture.alpha)
    injection = asdict(inversion.injection)
    about = {
        "version": _VERSION,
        "names": [picture.name for picture in inversion.pictures],
        "frames": [asdict(frame) for frame in inversion.frames],
        "prompts": list(inversion.prompts),
        "solver": inversion.solver,
        "fields": dict(inversion.fields),
        "edges": list(inversion.edges),
        "guidance": inversion.guidance,
        "injection": injection,
        "model": inversion.model,
        "fingerprint": inversion.fingerprint,
        "conditioning": dict(inversion.conditioning),
        "calls": inversion.calls,
        "latent_calls": latents.calls,
        "seconds": inversion.seconds,
        "settings": dict(inversion.settings),
    }
    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    write_atomically(target, save(whole, metadata={_KEY: json.dumps(about)}))


def load_inversion(path: str | Path, memory: FeatureMemory | None = None) -> Inversion:
    """Read an inversion that `Inversion.save` wrote.

    Args:
        path: the file.
        memory: where its features are kept; None is host memory without a limit.

    Raises:
        FileNotFoundError, ValueError: no file, or none that holds a whole inversion.
    """
    header, tensors = _opened(path)
    try:
        about = json.loads(header)
        if about["version"] != _VERSION:
            raise ValueError(
                f"{str(path)!r} was written in version {about['version']} of the format, and this fewstep reads "
                f"{_VERSION}; invert again"
            )
        inversion = _read(about, tensors, memory)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"the inversion {str(path)!r} is damaged: {error}") from error
    if not all(bool(torch.isfinite(part).all()) for part in (inversion.latents.sample, inversion.path)):
        raise ValueError(f"the inversion {str(path)!r} is damaged: it holds values that are no finite numbers")
    return inversion


def check_header(path: str | Path) -> None:
    """Refuse a file that does not say that it holds an inversion; its tensors are not read.

    Raises:
        FileNotFoundError, ValueError: no file, or one that fewstep did not write.
    """
    _opened(path, header_alone=True)


def _opened(path: str | Path, header_alone: bool = False) -> tuple[str, dict[str, torch.Tensor]]:
    """(the JSON text about an inversion, its tensors)."""
    from safetensors import SafetensorError, safe_open

    source = Path(path).expanduser()
    if not source.is_file():
        raise FileNotFoundError(f"there is no inversion {str(path)!r}")
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [] if header_alone or _KEY not in metadata else file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a .safetensors file that can be read: {error}") from error
    if _KEY not in metadata:
        raise ValueError(f"{str(path)!r} holds no inversion; only files that fewstep wrote do")
    return metadata[_KEY], tensors


def _read(about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], memory: FeatureMemory | None) -> Inversion:
    kept = tuple(tensors[f"kept.{i}"] for i in range(sum(name.startswith("kept.") for name in tensors)))
    inputs = {}
    features = {}
    for name, tensor in tensors.items():
        if name.startswith("inputs."):
            _, interval, kind = name.split(".", 2)
            inputs[int(interval), kind] = tensor
        elif name.startswith("features."):
            features[name.removeprefix("features.")] = tensor
    pictures = tuple(
        Picture(_fraction(tensors[f"rgb.{i}"]), _alpha(tensors.get(f"alpha.{i}")), name)
        for i, name in enumerate(about["names"])
    )
    frames = tuple(Frame(**{key: tuple(value) for key, value in frame.items()}) for frame in about["frames"])
    injection = Injection(**{**about["injection"], "ratios": tuple(about["injection"]["ratios"])})
    return Inversion(
        pictures,
        frames,
        tuple(about["prompts"]),
        about["solver"],
        about["fields"],
        tuple(about["edges"]),
        about["guidance"],
        LatentInversion(tensors["sample"], tensors["source"], kept, about["latent_calls"]),
        tensors["path"],
        inputs,
        injection,
        FeatureStore.of(features, memory),
        about["model"],
        about["fingerprint"],
        about["conditioning"],
        about["calls"],
        about["seconds"],
        about["settings"],
    )


def _alpha(values: torch.Tensor | None) -> np.ndarray | None:
    return None if values is None else _fraction(values)
