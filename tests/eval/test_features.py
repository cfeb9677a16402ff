"""Feature networks by name: what they compute, what they are called, and what is refused."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fewstep.assets
from fewstep.eval import Judge, feature_network
from fewstep.eval.features import NETWORKS, check_reachable, hash_of_module

MODULE = """
import torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(3))
    def forward(self, x):
        return x.mean((2, 3)) @ self.weight

mean = Mean()

def largest(x):
    return x.amax((2, 3))

def flat(x):
    return x.flatten()

number = 3
"""


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in the current folder."""
    (tmp_path / "own_features.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    return "own_features"


def test_judge_is_the_shipped_judge() -> None:
    network = feature_network("judge", device="cpu")
    judge = Judge.from_pretrained(Path(fewstep.assets.__file__).parent / "models" / "garments-judge")
    x = images()
    with torch.no_grad():
        assert torch.equal(network(x), judge.features(2 * x - 1))
    assert (network.name, network.dim, network.dtype) == ("judge", 96, "float32")
    assert "32x32" in network.resize
    assert network.hash == hash_of_module(judge)
    assert network(images(2, 64)).shape == (2, 96)


def test_hash_follows_names_shapes_and_values() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(3, 4), nn.Linear(4, 3)
    mark = hash_of_module(one)
    assert len(mark) == 16
    assert mark == hash_of_module(one)
    assert mark != hash_of_module(other)
    assert mark != hash_of_module(one.double())
    assert hash_of_module(nn.BatchNorm2d(3)) != mark  # counts of batches have no dimension


def test_any_importable_callable(module: str) -> None:
    x = images()
    torch.testing.assert_close(feature_network(f"{module}:mean")(x), x.mean((2, 3)))
    torch.testing.assert_close(feature_network(f"{module}:Mean")(x), x.mean((2, 3)))
    largest = feature_network(f"{module}:largest")
    assert largest.dim == 0
    torch.testing.assert_close(largest(x), x.amax((2, 3)))
    assert largest.dim == 3
    assert largest.hash != feature_network(f"{module}:flat").hash
    with pytest.raises(ValueError, match=r"shape \(4, d\), and returned"):
        feature_network(f"{module}:flat")(x)
    with pytest.raises(ValueError, match="did you mean 'largest'"):
        feature_network(f"{module}:largets")
    with pytest.raises(ValueError, match="cannot be called"):
        feature_network(f"{module}:number")
    with pytest.raises(ImportError, match="cannot be imported"):
        feature_network("no_such_module_anywhere:f")


class Scripted(nn.Module):
    """In the manner of the TorchScript Inception: bytes in, and features only if they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        value = self.scale * img.mean(dim=(2, 3))
        return value if return_features else value.sum(dim=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inception_from_a_torchscript_file(tmp_path: Path) -> None:
    torch.jit.script(Scripted()).save(str(tmp_path / "inception.pt"))
    network = feature_network("inception", weights=tmp_path / "inception.pt", device="cpu")
    x = torch.full((2, 3, 5, 5), 0.5)
    torch.testing.assert_close(network(x), torch.full((2, 3), 2 * 128.0))  # 127.5 is rounded to the even 128
    assert network.dim == 3


def test_inception_that_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    begin = time.perf_counter()
    with pytest.raises((ImportError, FileNotFoundError), match="--weights FILE"):
        feature_network("inception")
    assert time.perf_counter() - begin < 60
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        feature_network("inception", weights=tmp_path / "none.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pth")
    with pytest.raises((ImportError, ValueError), match=r"inception|Inception"):
        feature_network("inception", weights=tmp_path / "state.pth")
    with pytest.raises(FileNotFoundError, match="On a machine that is connected, fetch"):
        check_reachable("http://127.0.0.1:9/weights.pth", "inception", " and say --weights FILE,")


def test_unknown_names_and_bad_images_are_sentences() -> None:
    with pytest.raises(ValueError, match="did you mean 'judge'") as caught:
        feature_network("jugde")
    assert all(name in str(caught.value) for name in NETWORKS)
    with pytest.raises(ValueError, match="for inception alone"):
        feature_network("judge", weights="a.pt")
    with pytest.raises(ValueError, match="device"):
        feature_network("judge", device="cuda:7")
    network = feature_network("judge", device="cpu")
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        network(images()[0])
    with pytest.raises(ValueError, match="uint8"):
        network((images() * 255).to(torch.uint8))
