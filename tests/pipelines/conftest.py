"""Tiny random models on disk, and one thread for their tiny tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a StableDiffusionPipeline with random weights."""
    import tiny_models

    folder = tmp_path_factory.mktemp("models")
    tiny_models.stable_diffusion(folder / "tokens").save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def pipe(tiny_folder: Path) -> Any:
    from fewstep.pipelines import load

    return load(tiny_folder, device="cpu")
