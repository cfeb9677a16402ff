"""One thread for small tensors, and the tiny pipelines of the neighbouring tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for folder in (Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[2] / "pipelines"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
