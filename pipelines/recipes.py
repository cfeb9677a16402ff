"""Recipes: samplers in a JSON file, as `fewstep tune` writes them and as diffusers saves a scheduler."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.samplers import Method


@dataclass(frozen=True)
class SamplerFile:
    """A sampler that was read from a file.

    Attributes:
        method: with its fields.
        noise_levels: where it calls the network, by number of calls (the option of our schedulers); None if anywhere.
        process: ``vp``, ``flow`` or ``edm``, what it was made for.
        tuning: how it was tuned, as far as the file says it.
    """

    method: Method
    noise_levels: Mapping[str, Any] | None
    process: str
    tuning: Mapping[str, Any]


def is_recipe(sampler: Any) -> bool:
    """Whether a sampler is meant to be a file."""
    return isinstance(sampler, str | Path) and str(sampler).endswith(".json")


def read_recipe(path: str | Path) -> SamplerFile:
    """Read a sampler from a scheduler's configuration.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no configuration of a scheduler of this package.
    """
    from fewstep.samplers.schedulers import SCHEDULERS, process_of_config

    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no recipe {str(path)!r}: `fewstep tune` writes one")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        cls = SCHEDULERS.get(config["_class_name"])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{str(path)!r} is not a sampler's configuration, as `fewstep tune` writes it") from None
    if cls is None:
        raise ValueError(
            f"{str(path)!r} is a configuration of {config['_class_name']}; a recipe is one of {', '.join(SCHEDULERS)}"
        )
    names = [item.name for item in dataclasses.fields(cls.method_class) if item.name in config]
    try:
        method = cls.method_class(**{name: config[name] for name in names})
        cls.from_config(config)  # its noise levels too
    except (TypeError, ValueError) as error:
        raise ValueError(f"the recipe {str(path)!r} is damaged: {error}") from error
    return SamplerFile(method, config.get("noise_levels"), process_of_config(config), config.get("_tuning") or {})
