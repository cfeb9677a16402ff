"""`fewstep evaluate`: the numbers of the library in a table and in files, and sentences for what cannot be done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fewstep.eval import Statistics, evaluate

Fewstep = Callable[..., Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))


def write(folder: Path, count: int, seed: int = 0) -> Path:
    """Noise around one colour a picture."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        array = rng.normal(rng.uniform(50, 200, 3), 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{i:03}.png")
    return folder


def test_table_and_files_hold_the_numbers_of_the_library(fewstep: Fewstep, tmp_path: Path) -> None:
    fake, real = write(tmp_path / "fake", 30), write(tmp_path / "real", 25, 1)
    words = ["--reference", "real", "--network", "judge", "--metrics", "fid,kid", "--device", "cpu"]
    said = fewstep("evaluate", "fake", *words, "--json", "out/a.json", "--save-stats", "out/fake.npz")
    assert said.code == 0
    expected = evaluate(fake, real, ["fid", "kid"], network="judge", device="cpu", cache=False)
    report = json.loads(Path("out/a.json").read_text())
    assert set(report) == {"command", "versions", "machine", "settings", "rows"}
    assert [row["value"] for row in report["rows"]] == pytest.approx([expected["fid"], expected["kid"]], rel=1e-6)
    assert report["command"].startswith("fewstep evaluate fake --reference real --metrics fid,kid --network judge")
    assert report["settings"]["hash"] == expected.settings["hash"]
    assert f"{expected['fid']:.4f}" in said.out
    for word in ("judge", expected.settings["hash"], "bilinear", "float32", "eigen", "30 to 25"):
        assert word in said.out
    assert "fewer than the 96 features" in said.err
    assert Statistics.load("out/fake.npz").count == 30
    again = fewstep("evaluate", "real", "--reference", "out/fake.npz", "--device", "cpu")  # the network is the file's
    assert again.code == 0
    assert f"{expected['fid']:.4f}" in again.out


def test_a_run_names_its_pictures(fewstep: Fewstep, tmp_path: Path) -> None:
    write(tmp_path / "fake", 5)
    Path("run.json").write_text(json.dumps({"settings": {"pictures": "fake"}, "rows": []}))
    said = fewstep("evaluate", "run.json", "--pairs", "fake")
    assert said.code == 0
    assert "SSIM" in said.out
    assert "5 pictures equal their originals" in said.err
    Path("run.json").write_text(json.dumps({"settings": {}}))
    said = fewstep("evaluate", "run.json", "--pairs", "fake")
    assert said.code == 2
    assert "settings.pictures" in said.err


def test_prompts_inside_of_pictures_are_read(fewstep: Fewstep, tmp_path: Path) -> None:
    from tiny_clip import save_tiny_clip

    save_tiny_clip(tmp_path / "clip")
    write(tmp_path / "fake", 2)
    texts = ["a red boot", "a blue bag"]
    for i, text in enumerate(texts):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("fewstep", json.dumps({"prompt": text}))
        with Image.open(f"fake/00{i}.png") as image:
            image.save(f"fake/00{i}.png", pnginfo=info)
    Path("prompts.txt").write_text("\n".join(texts))
    own = fewstep("evaluate", "fake", "--metrics", "clip", "--clip-model", "clip", "--json", "a.json")
    given = fewstep(
        "evaluate", "fake", "--metrics", "clip", "--clip-model", "clip", "--prompts", "prompts.txt", "--json", "b.json"
    )
    assert own.code == given.code == 0
    one, other = (json.loads(Path(name).read_text())["rows"] for name in ("a.json", "b.json"))
    assert one == other


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["none", "--reference", "garments"], "no such folder or file"),
        (["empty", "--reference", "garments"], "holds no pictures"),
        (["fake"], "--reference FOLDER-or-STATISTICS, --pairs FOLDER"),
        (["fake", "--reference", "fake", "--metrics", "fidd"], "did you mean 'fid'"),
        (["fake", "--reference", "fake", "--network", "jugde"], "did you mean 'judge'"),
        (["fake", "--reference", "garments", "--json", "a.txt"], "should end in .json"),
        (["fake", "--reference", "garments", "--save-stats", "a"], "should end in .npz"),
        (["fake", "--reference", "garments", "--cache", "c", "--no-cache"], "not both"),
        (["fake", "--pairs", "fake", "--metrics", "fid"], "a distance to a reference"),
        (["fake", "--reference", "fake", "--network", "clip:./none"], "no folder"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(fewstep: Fewstep, tmp_path: Path, words: list[str], match: str) -> None:
    write(tmp_path / "fake", 2)
    (tmp_path / "empty").mkdir()
    said = fewstep("evaluate", *words)
    assert said.code == 2
    assert match in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.glob("a*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_target_that_cannot_be_written_is_refused_at_once(fewstep: Fewstep, tmp_path: Path) -> None:
    write(tmp_path / "fake", 2)
    (tmp_path / "locked").mkdir(mode=0o500)
    said = fewstep("evaluate", "fake", "--pairs", "fake", "--json", "locked/a.json")
    assert said.code == 2
    assert "cannot be written" in said.err


def test_help_names_the_networks(fewstep: Fewstep) -> None:
    said = fewstep("evaluate", "--help")
    assert said.code == 0
    for word in ("--reference", "--sqrtm", "--save-stats", "clip:NAME-or-FOLDER"):
        assert word in said.out
