"""`fewstep edit`: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.pipelines import edit, invert, load_model

Fewstep = Callable[..., Any]
WORDS = ("--from", "a red boot", "--to", "a blue boot")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A 40x30 picture with transparency."""
    y, x = np.mgrid[0:30, 0:40]
    values = np.stack([6 * x, 8 * y, 3 * (x + y), np.full_like(x, 128)], axis=2).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def change(fewstep: Fewstep, tiny_folder: Path, photo: Path) -> Fewstep:
    """`fewstep edit photo.png` with the tiny model."""
    return lambda *words: fewstep("edit", "photo.png", "--model", tiny_folder, "--device", "cpu", "--steps", 2, *words)


def settings(path: Path | str) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.text["fewstep"])  # type: ignore[attr-defined]


def test_an_edit_is_that_of_the_library(change: Fewstep, tiny_folder: Path, photo: Path) -> None:
    said = change(*WORDS, "--sheet")
    assert said.code == 0, said.err
    first, second = said.out.splitlines()
    assert first.startswith("Inversion: 3 network calls, ")
    assert "reconstruction: 3 network calls" in first
    assert " dB that the autoencoder allows, latents off by " in first
    assert second.startswith("Edit: 6 network calls, ")
    assert second.endswith("outputs/photo-a-blue-boot.png and outputs/photo-a-blue-boot-sheet.png")
    pipe = load_model(tiny_folder, device="cpu")
    expected = edit(pipe, invert(pipe, photo, "a red boot", steps=2), "a blue boot").image
    with Image.open("outputs/photo-a-blue-boot.png") as image:
        assert image.size == (40, 30)
        assert (np.asarray(image) == np.asarray(expected)).all()
    found = settings("outputs/photo-a-blue-boot.png")
    assert (found["prompt"], found["source"], found["solver"]) == ("a blue boot", "a red boot", "fireflow")
    assert (found["command"], found["picture"], found["strategy"]) == ("edit", "photo.png", "replace_v")
    assert Image.open("outputs/photo-a-blue-boot-sheet.png").width > 3 * 128


def test_the_summary_as_json(change: Fewstep) -> None:
    said = change(*WORDS, "--json", "--solver", "exact", "--strategy", "none", "-o", "out.png")
    assert said.code == 0, said.err
    summary = json.loads(said.out)
    assert summary["files"] == ["out.png"]
    assert summary["inversion"]["calls"] == 2
    assert summary["reconstruction"]["calls"] == 1
    assert summary["reconstruction"]["latent_error"] < 1e-4
    assert summary["injected"] == 0


@pytest.mark.parametrize("solver", ["midpoint", "euler", "ddim", "uni-inv", "rf-inversion", "flowedit"])
def test_every_solver_edits(change: Fewstep, solver: str) -> None:
    said = change(*WORDS, "--solver", solver, "-o", "out.png", "--no-check")
    assert said.code == 0, said.err
    assert "reconstruction" not in said.out
    assert settings("out.png")["solver"] == {"ddim": "euler"}.get(solver, solver)


def test_injection_is_said_in_words(change: Fewstep) -> None:
    said = change(*WORDS, "-o", "out.png", "--strategy", "add_q replace_v", "--inject", "2", "--blocks", "0")
    assert said.code == 0, said.err
    assert "features put back" in said.out
    found = settings("out.png")
    assert (found["strategy"], found["inject_steps"], found["blocks"]) == ("replace_v add_q", 2, "0")
    assert change(*WORDS, "-o", "b.png", "--inject", "0.2", "--memory", "disk:10MB").code == 0


def test_an_inversion_is_kept_and_used_again(change: Fewstep) -> None:
    first = change(*WORDS, "-o", "a.png", "--keep-inversion", "kept.safetensors")
    assert first.code == 0, first.err
    kept = Path("kept.safetensors").read_bytes()
    second = change(*WORDS, "-o", "b.png", "--keep-inversion", "kept.safetensors")
    assert second.out.startswith("Inversion: reused")
    assert Path("kept.safetensors").read_bytes() == kept
    assert (np.asarray(Image.open("a.png")) == np.asarray(Image.open("b.png"))).all()
    other = change("--from", "a bag", "--to", "a boot", "-o", "c.png", "--keep-inversion", "kept.safetensors")
    assert other.code == 2
    assert "another prompt ('a red boot')" in other.err
    other = change(*WORDS, "--solver", "euler", "-o", "c.png", "--keep-inversion", "kept.safetensors")
    assert "another solver (fireflow)" in other.err
    assert not Path("c.png").exists()


def test_a_kept_inversion_belongs_to_its_seed(change: Fewstep) -> None:
    words = (*WORDS, "--solver", "rf-inversion", "--no-check", "--keep-inversion", "kept.safetensors")
    assert change(*words, "--seed", 3, "-o", "a.png").code == 0
    said = change(*words, "--seed", 4, "-o", "b.png")
    assert said.code == 2
    assert "other seed (3)" in said.err
    assert change(*words, "--seed", 3, "-o", "b.png").code == 0
    assert settings("b.png")["seed"] == 3
    free = (*WORDS, "--no-check", "--keep-inversion", "free.safetensors")
    assert change(*free, "--seed", 3, "-o", "c.png").code == 0
    assert change(*free, "--seed", 4, "-o", "d.png").out.startswith("Inversion: reused")
    assert settings("d.png")["seed"] == 3


def test_a_kept_inversion_belongs_to_its_transparency(change: Fewstep, photo: Path) -> None:
    words = (*WORDS, "--no-check", "--keep-inversion", "kept.safetensors")
    assert change(*words, "-o", "a.png").code == 0
    values = np.asarray(Image.open(photo)).copy()
    for alpha in (90, 255):
        values[..., 3] = alpha
        Image.fromarray(values).save(photo)
        assert "another picture" in change(*words, "-o", "b.png").err


def test_overwriting_makes_only_another_inversion_again(change: Fewstep) -> None:
    words = (*WORDS, "-o", "a.png", "--no-check", "--overwrite", "--keep-inversion", "kept.safetensors")
    assert change(*words).code == 0
    first = Path("kept.safetensors").read_bytes()
    assert change(*words).out.startswith("Inversion: reused")
    assert Path("kept.safetensors").read_bytes() == first
    assert change(*words, "--solver", "euler").out.startswith("Inversion: 2 network calls")
    assert Path("kept.safetensors").read_bytes() != first


def test_a_file_that_is_no_inversion_is_never_written_over(change: Fewstep) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(2, np.float32)}, "model.safetensors")
    before = Path("model.safetensors").read_bytes()
    said = change(*WORDS, "--overwrite", "--keep-inversion", "model.safetensors")
    assert said.code == 2
    assert "holds no inversion" in said.err
    assert Path("model.safetensors").read_bytes() == before


def test_a_mask_confines_the_edit(change: Fewstep, photo: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save("mask.png")
    said = change(*WORDS, "--mask", "mask.png", "--blend", "0,0.9", "-o", "out.png")
    assert said.code == 0, said.err
    before, after = np.asarray(Image.open(photo)), np.asarray(Image.open("out.png"))
    assert (before[10:] == after[10:]).all()
    assert (before[:10] != after[:10]).any()


def test_the_prompt_inside_a_picture_is_what_it_shows(fewstep: Fewstep, tiny_folder: Path) -> None:
    words = ("--model", tiny_folder, "--device", "cpu", "--steps", 2)
    assert fewstep("generate", "a green boot", *words, "-o", "made.png").code == 0
    assert fewstep("edit", "made.png", "--to", "a bag", *words, "-o", "out.png").code == 0
    assert settings("out.png")["source"] == "a green boot"
    said = fewstep("edit", "out.png", "--to", "a bag", *words, "-o", "again.png")
    assert said.code == 0, said.err
    assert settings("again.png")["source"] == "a bag"
    with Image.open("out.png") as image:
        image.save("plain.png")
    said = fewstep("edit", "plain.png", "--to", "a bag", *words, "-o", "plainly.png")
    assert said.code == 0, said.err
    assert "inverted with an empty prompt" in said.err
    said = fewstep("generate", "--like", "out.png")
    assert "was made by fewstep edit" in said.err


def test_a_warm_start_is_a_call_fewer(change: Fewstep) -> None:
    said = change(*WORDS, "--warm", "--strategy", "none", "--guidance", "1", "--json", "-o", "warm.png")
    assert said.code == 0, said.err
    assert json.loads(said.out)["calls"] == 2
    assert settings("warm.png")["warm"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--solver", "firefly"), "did you mean 'fireflow'"),
        (("--solver", "euler", "--eta", "0.5"), "euler has no field 'eta'"),
        (("--strategy", "replace"), "unknown strategy 'replace'"),
        (("--inject", "long"), "noise level such as 0.9"),
        (("--blocks", "9"), "there is no block 9"),
        (("--blend", "1"), "lowest and the highest"),
        (("--memory", "cloud"), "unknown place"),
        (("--memory", "host:much"), "a budget is a number of bytes"),
        (("--memory", "host:10B"), "more than the budget of 10 B"),
        (("--mask", "none.png"), "there is no mask"),
        (("--mask", "small.png"), "must have the size of its picture"),
        (("--size", "33"), "multiples of 8"),
        (("--out", "out.jpg"), "files end in .png"),
        (("--out", "photo.png", "--overwrite"), "is the picture itself"),
        (("--out", "small.png"), "exists already"),
        (("--keep-inversion", "kept.pt"), "should end in .safetensors"),
        (("--keep-inversion", "broken.safetensors"), "can be read"),
        (("--size", "4096"), "more than 16 times what this model was made for"),
        (("--solver", "flowedit", "--inject", "1"), "injects no features"),
        (("--solver", "flowedit", "--blend", "0,0.8"), "no inversion, which --blend would be for"),
        (("--solver", "flowedit", "--gamma", "0.5", "--eta", "0.9"), "which --gamma, --eta would be for"),
        (("--solver", "flowedit", "--memory", "disk"), "which --memory would be for"),
        (("--solver", "flowedit", "--warm"), "which --warm would be for"),
        (("--solver", "euler", "--warm"), "euler cannot start --warm; fireflow and midpoint can"),
        (("--solver", "flowedit", "--keep-inversion", "k.safetensors"), "no inversion"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--seed", "-1"), "seed must be at least 0"),
        (("--solver", "exact", "--steps", "1"), "at least 2 intervals"),
        (("--keep-inversion", "broken.safetensors", "--overwrite"), "can be read"),
        (("--model", "garment"), "did you mean"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    change: Fewstep, photo: Path, words: tuple[str, ...], sentence: str
) -> None:
    Image.new("L", (8, 8), 255).save("small.png")
    Path("broken.safetensors").write_bytes(b"no tensors")
    before = photo.read_bytes()
    said = change(*WORDS, *words)
    assert said.code == 2
    assert sentence in said.err.replace("\n", " ")
    assert photo.read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["broken.safetensors", "photo.png", "small.png"]


def test_files_that_are_no_pictures_are_refused(fewstep: Fewstep, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    words = ("--model", tiny_folder, *WORDS)
    assert "there is no picture" in fewstep("edit", "none.png", *words).err
    assert "it is a folder" in fewstep("edit", tmp_path, *words).err
    assert "not a picture that can be read" in fewstep("edit", "text.png", *words).err
    assert fewstep("edit", "text.png").code == 2  # without --to
