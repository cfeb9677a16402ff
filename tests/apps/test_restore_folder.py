"""`fewstep restore` of folders: what is finished is kept, and a bad file does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_priors
from PIL import Image

Fewstep = Callable[..., Any]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("priors")
    tiny_priors.random_prior().save_pretrained(folder / "random")
    return folder / "random"


@pytest.fixture
def enlarge(fewstep: Fewstep, prior: Path) -> Fewstep:
    words = ("--task", "sr2", "--model", prior, "--device", "cpu", "--steps", 1)
    return lambda *more: fewstep("restore", "old", "new", *words, *more)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png"):
        Image.fromarray(draw.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def times(folder: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def test_finished_pictures_are_kept_and_changed_ones_made_again(enlarge: Fewstep, old: Path) -> None:
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    said = enlarge("--sheet")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "3 restored, 0 kept, 0 failed: new"
    assert names("new") == ["a-sheet.png", "a.png", "b-sheet.png", "b.png", "c-sheet.png", "c.png"]
    assert Image.open("new/b.png").size == (24, 16)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    first = times("new")
    said = enlarge("--sheet", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["kept"] == ["new/a.png", "new/b.png", "new/c.png"]
    assert times("new") == first
    Path("new/b-sheet.png").unlink()
    Path("new/b.png").unlink()  # as a run that was interrupted leaves it
    said = enlarge("--sheet")
    assert said.out.startswith("2 finished before, kept\nb.jpg -> new/b.png: residual ")
    assert {name: time for name, time in times("new").items() if name[0] != "b"} == {
        name: time for name, time in first.items() if name[0] != "b"
    }


def test_results_of_other_settings_or_another_picture_are_not_taken_for_these(enlarge: Fewstep, old: Path) -> None:
    assert enlarge().code == 0
    first = times("new")
    for change in (("--seed", 1), ("--method", "ddnm", "--renoise", "0.5")):
        said = enlarge(*change)
        assert said.code == 2
        assert "exists already; choose another OUTPUT, or say --overwrite" in said.err.replace("\n", " ")
        assert times("new") == first
    assert enlarge("--seed", 1, "--overwrite").code == 0
    assert not set(times("new").values()) & set(first.values())
    Image.new("RGB", (8, 8)).save(old / "a.png")
    assert enlarge("--seed", 1).code == 2
    assert json.loads(enlarge("--seed", 1, "--overwrite", "--json").out)["kept"] == ["new/b.png", "new/c.png"]


def test_a_bad_file_is_told_at_the_end_and_the_others_are_restored(enlarge: Fewstep, old: Path) -> None:
    (old / "bad.png").write_bytes((old / "a.png").read_bytes()[:60])
    (old / "text.png").write_text("hello")
    said = enlarge()
    assert said.code == 1
    assert "bad.png: " in said.err
    assert "2 could not be restored: bad.png, text.png" in said.err
    assert said.out.splitlines()[-1] == "3 restored, 0 kept, 2 failed: new"
    assert names("new") == ["a.png", "b.png", "c.png"]
    said = enlarge("--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert [Path(one["picture"]).name for one in found["failed"]] == ["bad.png", "text.png"]
    assert len(found["kept"]) == 3


def test_masks_come_from_a_folder_by_name(fewstep: Fewstep, prior: Path, old: Path) -> None:
    Path("masks").mkdir()
    for name, column in (("a", 1), ("b", 2)):
        mask = np.zeros((8, 12), np.uint8)
        mask[:, column] = 255
        Image.fromarray(mask).save(f"masks/{name}.png")
    words = ("--task", "inpaint", "--mask", "masks", "--model", prior, "--device", "cpu", "--steps", 1)
    said = fewstep("restore", "old", "new", *words, "--method", "ddnm")
    assert said.code == 1
    assert "there is no mask of the name 'c'" in said.err
    same = (np.asarray(Image.open(old / "a.png")) == np.asarray(Image.open("new/a.png"))).all((0, 2))
    assert list(np.flatnonzero(~same)) == [1]
    Image.new("L", (8, 12), 255).save("masks/c.png")
    assert "must have the size of its picture" in fewstep("restore", "old", "new", *words, "--method", "ddnm").err


def test_two_pictures_of_one_name_get_two_results(enlarge: Fewstep, old: Path) -> None:
    Image.open(old / "a.png").save(old / "a.jpg")
    assert enlarge().code == 0
    assert names("new") == ["a.jpg.png", "a.png.png", "b.png", "c.png"]


def test_folders_that_do_not_go_are_refused(fewstep: Fewstep, prior: Path, old: Path) -> None:
    Path("empty").mkdir()
    words = ("--task", "sr2", "--model", prior)
    for source, out, sentence in (
        ("empty", "new", "there are no pictures in 'empty'"),
        ("old", "old", "never written over"),
        ("old", "new.png", "so OUTPUT is one too"),
        ("none", "new", "there is no picture 'none'"),
    ):
        said = fewstep("restore", source, out, *words)
        assert said.code == 2
        assert sentence in said.err.replace("\n", " ")
    assert not Path("new").exists()


def test_a_full_disk_ends_the_run(enlarge: Fewstep, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from fewstep.apps import pictures

    write = pictures._write_one

    def full(file: Any, *more: Any) -> None:
        if "b.png" in file.name:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, *more)

    monkeypatch.setattr(pictures, "_write_one", full)
    said = enlarge()
    assert said.code == 2
    assert "'new/b.png' cannot be written: No space left on device" in said.err.replace("\n", " ")
    assert names("new") == ["a.png"]
    monkeypatch.setattr(pictures, "_write_one", write)
    again = enlarge("--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["kept"] == ["new/a.png"]
