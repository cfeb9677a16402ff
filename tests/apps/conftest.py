"""The tiny model of the pipelines' tests, and a command line that runs in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))


@dataclass(frozen=True)
class Said:
    """Exit code and what was written where."""

    code: int
    out: str
    err: str


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
def fewstep(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs the command line in an empty folder."""
    from fewstep.apps.cli import run

    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> Said:
        capsys.readouterr()
        code = run([str(word) for word in words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call
