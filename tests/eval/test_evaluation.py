"""`evaluate`: every metric against its own function on the features of the pictures, whatever the files and batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import save_tiny_clip

import fewstep.assets
from fewstep.eval import (
    ClipScore,
    Statistics,
    clip_mmd,
    evaluate,
    feature_network,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from fewstep.eval.features import FeatureNetwork


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(count: int, seed: int = 0, level: float = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(level, 40, (count, 1, 1, 3)) + rng.normal(0, 20, (count, 12, 12, 3))).clip(0, 255).astype("u1")


def write(folder: Path, array: np.ndarray) -> Path:
    folder.mkdir()
    for i, picture in enumerate(array):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return folder


def six(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.mean((2, 3)), 3 * x.std((2, 3))], 1)


def small_network(name: str = "small", hash: str = "0") -> FeatureNetwork:
    return FeatureNetwork(name, six, hash=hash, dim=6, resize="none")


def features(array: np.ndarray) -> torch.Tensor:
    return six(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)


def moments(x: torch.Tensor) -> Statistics:
    found = Statistics()
    found.update(x)
    return found


@pytest.mark.parametrize("batch", [7, 64])
def test_every_reference_metric_is_its_function(tmp_path: Path, batch: int) -> None:
    fake, real = pixels(90), pixels(120, 1, 140)
    np.savez(tmp_path / "fake.npz", images=fake)
    sources: list[tuple[Any, Any]] = [(tmp_path / "fake.npz", write(tmp_path / "real", real)), (fake, real)]
    x, y = features(fake), features(real)
    for mine, its in sources:
        found = evaluate(
            mine, its, ["fid", "kid", "cmmd", "precision-recall"], network=small_network(), batch=batch, cache=False
        )
        assert found["fid"] == pytest.approx(frechet_distance(moments(x), moments(y)), rel=1e-6)
        assert found["kid"] == pytest.approx(kernel_distance(x, y), rel=1e-6)
        assert found["cmmd"] == pytest.approx(clip_mmd(x, y), rel=1e-4)
        assert [row["count"] for row in found.rows] == [90, 90, 90, 90, 90]
        assert [row["reference_count"] for row in found.rows] == [120, 120, 120, 90, 90]
    everything = evaluate(real, real, ["precision-recall"], network=small_network(), cache=False)
    assert (everything["precision"], everything["recall"]) == precision_recall(y, y) == (1.0, 1.0)


def test_report_says_what_the_numbers_depend_on() -> None:
    found = evaluate(
        pixels(20), pixels(4, 1), ["fid", "kid"], network=small_network(), reservoir=10, sqrtm="pade", cache=False
    )
    expected = {"network": "small", "hash": "0", "features": 6, "resize": "none", "dtype": "float32", "count": 20}
    expected |= {"reservoir": 10, "sqrtm": "pade", "reference_count": 4}
    assert expected.items() <= found.settings.items()
    assert found.rows[1]["count"] == 10
    assert any("20 pictures are below 10,000" in note for note in found.notes)
    assert any("4 pictures of the reference are fewer than the 6 features" in note for note in found.notes)
    json.dumps({"settings": found.settings, "rows": found.rows})


def test_statistics_files_stand_for_their_pictures(tmp_path: Path) -> None:
    fake, real = pixels(60), pixels(70, 1)
    network = small_network()
    whole = evaluate(fake, real, ["fid", "kid"], network=network, cache=False)
    saved = evaluate(real, metrics=[], network=network, save_stats=tmp_path / "real.npz")
    assert saved.rows == []
    again = evaluate(fake, tmp_path / "real.npz", ["fid", "kid"], network=network)
    assert again["fid"] == pytest.approx(whole["fid"], rel=1e-9)
    assert again["kid"] == pytest.approx(whole["kid"], rel=1e-6)
    y = features(real).double()
    np.savez(tmp_path / "foreign.npz", mu=y.mean(0), sigma=torch.cov(y.T))
    foreign = evaluate(fake, tmp_path / "foreign.npz", network=network)
    assert foreign["fid"] == pytest.approx(whole["fid"], rel=1e-6)
    assert any("which network" in note for note in foreign.notes)
    with pytest.raises(ValueError, match="a mean and a covariance alone"):
        evaluate(fake, tmp_path / "foreign.npz", ["kid"], network=network)
    with pytest.raises(ValueError, match="features of other weights"):
        evaluate(fake, tmp_path / "real.npz", network=small_network(hash="1"))


def test_cache_is_used_until_anything_changes(tmp_path: Path, own_cache: Path) -> None:
    folder = write(tmp_path / "real", pixels(30, 1))
    seen: list[int] = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return six(x)

    def measure(hash: str = "0", **options: Any) -> float:
        seen.clear()
        network = FeatureNetwork("counted", counting, hash=hash, dim=6, resize="none")
        return evaluate(pixels(20), folder, network=network, **options)["fid"]

    first = measure()
    assert sum(seen) == 50
    assert measure() == first
    assert sum(seen) == 20
    for options in ({"hash": "1"}, {"cache": False}, {"cache": tmp_path / "another"}):
        assert measure(**options) == first
        assert sum(seen) == 50
    for file in own_cache.rglob("*.npz"):
        file.write_bytes(b"broken")
    with pytest.warns(UserWarning, match="made again"):
        assert measure() == first
    assert measure() == first
    assert sum(seen) == 20
    Image.fromarray(pixels(1, 5)[0]).save(folder / "000.png")
    assert measure() != first
    assert sum(seen) == 50
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be cached"):
        measure(cache=tmp_path / "file")


def test_shipped_statistics_are_those_of_the_shipped_judge() -> None:
    folder = Path(fewstep.assets.__file__).parent / "statistics"
    read = Statistics.load(folder / "garments.npz")
    network = feature_network("judge", device="cpu")
    assert (read.count, read.dim, read.network, read.hash) == (60_000, 96, "judge", network.hash)
    assert read.features is not None
    assert len(read.features) == 2000
    # the sample is of the same pictures as the moments: within five standard errors of every mean
    error = (read.features.double().mean(0) - read.mean).abs() / (read.cov.diagonal() / 2000).sqrt()
    assert float(error.max()) < 5
    assert (folder / "garments.npz").stat().st_size < 1e6
    found = evaluate(pixels(8), "garments", ["fid"])
    assert found.settings["network"] == "judge"
    assert found["fid"] > 100


def test_clip_score_and_pairs_in_the_same_call(tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    fake, clean = pixels(6), pixels(6, 1)
    texts = [f"a red boot {i}" for i in range(6)]
    (tmp_path / "prompts.txt").write_text("\n".join(texts))
    found = evaluate(
        fake,
        metrics=["clip", "psnr"],
        prompts=tmp_path / "prompts.txt",
        clip_model=str(clip),
        pairs=clean,
        batch=4,
    )
    score = ClipScore(clip)
    score.update(torch.from_numpy(fake).permute(0, 3, 1, 2).float() / 255, texts)
    assert found["clip"] == pytest.approx(score.compute(), abs=1e-4)
    psnr = 10 * np.log10(255**2 / ((fake.astype(float) - clean) ** 2).mean((1, 2, 3)))
    assert found["psnr"] == pytest.approx(psnr.mean(), rel=1e-6)
    assert found.statistics is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metrics": ["fod"]}, "did you mean 'fid'"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": ["fid"]}, "a distance to a reference"),
        ({"metrics": ["psnr"]}, "--pairs FOLDER"),
        ({"metrics": ["fid"], "reference": "garmets"}, "did you mean 'garments'"),
        ({"metrics": ["fid"], "reference": "garments", "sqrtm": "newton"}, "Known are eigen"),
        ({"metrics": ["fid"], "reference": "garments", "batch": 0}, "batch must be at least 1"),
        ({"metrics": ["fid"], "reference": "garments", "network": "inception"}, "not of 'inception'"),
        ({"metrics": ["clip"]}, "--prompts FILE"),
    ],
)
def test_bad_requests_are_sentences(options: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        evaluate(pixels(4), **options)


def test_a_network_that_returns_nan_leaves_no_file(tmp_path: Path) -> None:
    broken = FeatureNetwork("broken", lambda x: six(x) * torch.nan, hash="0", dim=6, resize="none")
    with pytest.raises(ValueError, match="picture 0 are not finite"):
        evaluate(pixels(4), metrics=[], network=broken, save_stats=tmp_path / "a.npz")
    assert not list(tmp_path.glob("*.npz*"))


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, fewstep.eval; assert not {'torch', 'torchmetrics', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
