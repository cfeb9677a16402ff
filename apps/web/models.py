"""The models of the server: each loaded once, when it is first needed, from safetensors alone."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: What a tab needs a model for.
DRAW, WRITE, EDIT, RESTORE = "draw", "write", "edit", "restore"

_EDITABLE = ("Flux", "StableDiffusion3", "StableDiffusionPipeline")


def _index(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def uses_of(folder: Path) -> frozenset[str]:
    """What the pipeline in a folder can be used for, by its index."""
    from fewstep.pipelines.loading import _writes_text

    if _writes_text(folder):
        return frozenset({WRITE})
    import diffusers

    index = _index(folder)
    name = str(index.get("_class_name", ""))
    kind = getattr(diffusers, name, None)
    if kind is None:
        return frozenset()
    scheduler = (index.get("scheduler") or [None, ""])[1] or ""
    known = inspect.signature(kind.__call__).parameters
    uses = set()
    if "prompt" in known and "Amused" not in scheduler:
        uses.add(DRAW)
        if name.startswith(_EDITABLE):
            uses.add(EDIT)
    if name == "DDPMPipeline" or name.startswith("StableDiffusionPipeline"):
        uses.add(RESTORE)
    return frozenset(uses)


class Models:
    """Names of the models, and the loaded ones.

    Args:
        extra: models beside the shipped ones, as `--model` names them.

    Raises:
        FileNotFoundError, ValueError: one of them is not there, or no model.
    """

    def __init__(self, extra: Sequence[str] = ()) -> None:
        from fewstep.pipelines.loading import shipped_models, shipped_texts

        self._sources: dict[str, str] = {}
        self._uses: dict[str, frozenset[str]] = {}
        for source in extra:
            self._add(source)
        for name, folder in {**shipped_models(), **shipped_texts()}.items():
            uses = uses_of(folder)
            if uses:
                self._sources.setdefault(name, name)
                self._uses.setdefault(name, uses)
        self._loaded: dict[tuple[str, str], Any] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def _add(self, source: str) -> None:
        from fewstep.pipelines.loading import find_model

        folder = Path(source).expanduser()
        name = folder.name if folder.is_dir() else source
        try:
            found = find_model(source)
        except ValueError as error:
            try:
                found = find_model(source, "text")
            except (ValueError, FileNotFoundError):
                raise error from None
        # what a model on the hub can do is not known before it is loaded
        uses = uses_of(Path(found)) if Path(found).is_dir() else frozenset({DRAW, EDIT})
        if not uses:
            raise ValueError(f"the model {source!r} makes neither pictures from prompts nor texts")
        if self._sources.get(name, source) != source:
            raise ValueError(f"two models are named {name!r}; rename one of the folders")
        self._sources[name], self._uses[name] = source, uses

    def names(self, use: str) -> list[str]:
        """Names of the models for a use, those of the owner first."""
        return [name for name, uses in self._uses.items() if use in uses]

    def source(self, name: str, use: str) -> str:
        """What `load` takes for a model of the page.

        Raises:
            ValueError: the page has no such model.
        """
        from fewstep.samplers.core.registry import nearest

        known = self.names(use)
        if name not in known:
            raise ValueError(f"unknown model {name!r}{nearest(str(name), known)} Known are {', '.join(known)}")
        return self._sources[name]

    def get(self, name: str, use: str) -> Any:
        """The pipeline, with the scheduler that it came with; loaded at the first call. Copy it before a change."""
        source = self.source(name, use)
        key = (name, use if use in (WRITE, RESTORE) else DRAW)
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._loaded:
                self._loaded[key] = _loaders()[key[1]](source)
            return self._loaded[key]

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are in memory."""
        return sorted({name for name, _ in self._loaded})


def _loaders() -> dict[str, Callable[[str], Any]]:
    from fewstep import pipelines

    return {
        DRAW: pipelines.load_model,
        WRITE: pipelines.load_text,
        RESTORE: lambda source: __import__("fewstep.pipelines", fromlist=["x"]).load_restoration(source),
    }
