"""`fewstep generate`: files, the settings inside of them, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from fewstep.pipelines import generate, load, shipped_models

Fewstep = Callable[..., Any]


@pytest.fixture
def make(fewstep: Fewstep, tiny_folder: Path) -> Fewstep:
    """`fewstep generate` with the tiny model."""
    return lambda *words: fewstep("generate", "--model", tiny_folder, "--device", "cpu", "--steps", 3, *words)


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def settings(path: Path | str) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.text["fewstep"])  # type: ignore[attr-defined]


def test_a_picture_is_that_of_the_library(make: Fewstep, tiny_folder: Path) -> None:
    said = make("A red, red boot!", "--sampler", "ghvb", "--momentum", "3.5", "--guidance", "4", "--seed", "7")
    assert said.code == 0
    assert said.out.startswith("3 network calls, ")
    assert said.out.endswith("seconds, outputs/a-red-red-boot-7.png\n")
    pipe = load(tiny_folder, "ghvb", momentum=3.5, device="cpu")
    expected = generate(pipe, "A red, red boot!", steps=3, guidance=4.0, seed=7).images[0]
    assert (pixels("outputs/a-red-red-boot-7.png") == np.asarray(expected)).all()


def test_fields_may_come_before_the_prompt_and_in_every_spelling(make: Fewstep) -> None:
    spellings = [
        ["a boot", "--sampler", "ghvb", "--momentum", "0.5", "--euler-at-final"],
        ["--momentum", "0.5", "--euler-at-final", "a boot", "--sampler", "ghvb"],
        ["--sampler=ghvb", "--momentum=0.5", "--euler_at_final=true", "a", "boot"],
    ]
    for i, words in enumerate(spellings):
        assert make(*words, "--out", f"{i}.png").code == 0
        found = settings(f"{i}.png")
        assert found["prompt"] == "a boot"
        assert found["fields"]["momentum"] == 0.5
        assert found["fields"]["euler_at_final"] is True
    assert make("a boot", "--sampler", "lml ddim", "--kappa", "-0.05", "--gamma-max", "none", "-o", "n.png").code == 0
    assert settings("n.png")["fields"]["kappa"] == -0.05
    assert make("a boot", "--sampler", "ghvb", "--no-euler-at-final", "-o", "m.png").code == 0
    assert settings("m.png")["fields"]["euler_at_final"] is False


def test_several_pictures_go_into_a_folder_each_with_its_seed(make: Fewstep) -> None:
    said = make("a boot", "--count", 3, "--batch", 2, "--seed", 5, "--out", "many", "--json")
    assert said.code == 0
    summary = json.loads(said.out)
    assert summary["seeds"] == [5, 6, 7]
    assert summary["calls"] == 6
    assert sorted(os.listdir("many")) == ["a-boot-5.png", "a-boot-6.png", "a-boot-7.png"]
    assert [settings(file)["seed"] for file in summary["files"]] == [5, 6, 7]
    assert make("a boot", "--out", "many", "--seed", 8).code == 0  # one picture into a folder that is there
    assert Path("many/a-boot-8.png").exists()


def test_settings_are_read_by_others(make: Fewstep) -> None:
    words = ["--negative", "grün", "--grid", "karras", "--guidance", "2.5", "--seed", "3", "--size", "48x32"]
    assert make("ein Stiefel, 靴", *words, "-o", "p.png").code == 0
    found = settings("p.png")
    expected = {"prompt": "ein Stiefel, 靴", "negative": "grün", "grid": "karras", "guidance": 2.5, "seed": 3}
    assert expected.items() <= found.items()
    assert (found["width"], found["height"], found["steps"]) == (48, 32, 3)
    assert found["versions"]["torch"] == torch.__version__
    with Image.open("p.png") as image:
        assert image.size == (48, 32)
        lines = image.text["parameters"].split("\n")  # type: ignore[attr-defined]
    assert lines[:2] == ["ein Stiefel, 靴", "Negative prompt: grün"]
    assert lines[2].startswith("Steps: 3, Sampler: exponential-adams, Schedule type: karras, CFG scale: 2.5, Seed: 3")


def test_upscaling_repeats_pixels(make: Fewstep) -> None:
    make("a boot", "-o", "small.png")
    make("a boot", "-o", "large.png", "--upscale", 3)
    assert (pixels("large.png") == pixels("small.png").repeat(3, 0).repeat(3, 1)).all()


def test_files_are_not_replaced_unless_told(make: Fewstep) -> None:
    assert make("a boot", "-o", "p.png").code == 0
    before = Path("p.png").read_bytes()
    said = make("a bag", "-o", "p.png")
    assert said.code == 2
    assert "'p.png' exists already; choose another --out, or say --overwrite" in said.err
    assert Path("p.png").read_bytes() == before
    assert make("a bag", "-o", "p.png", "--overwrite", "--seed", 1).code == 0
    assert settings("p.png")["prompt"] == "a bag"


@pytest.mark.parametrize(
    "words",
    [
        ["--sampler", "ghvb auto", "--guidance", "9"],
        ["--sampler", "dpm++ 2m karras", "--seed", "4", "--upscale", "2", "--negative", "a bag"],
        ["--sampler", "lml", "--base", "ddim", "--kappa", "-0.5", "--grid", "trailing"],
        ["--sampler", "diffusers:UniPCMultistepScheduler", "--solver-order", "3"],
        ["--dtype", "bfloat16", "--size", "48x32"],
    ],
)
def test_like_repeats_a_picture_to_the_bit(make: Fewstep, fewstep: Fewstep, words: list[str]) -> None:
    assert make("a boot", *words, "-o", "one.png").code == 0
    said = fewstep("generate", "--like", "one.png", "-o", "two.png")
    assert said.code == 0, said.err
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_like_repeats_one_picture_of_a_batch(make: Fewstep, fewstep: Fewstep) -> None:
    make("a boot", "--count", 5, "--batch", 3, "-o", "many")
    for seed in (1, 4):
        assert fewstep("generate", "--like", f"many/a-boot-{seed}.png", "-o", f"{seed}.png").code == 0
        assert Path(f"{seed}.png").read_bytes() == Path(f"many/a-boot-{seed}.png").read_bytes()


def test_options_override_what_like_says(make: Fewstep, fewstep: Fewstep) -> None:
    make("a boot", "--sampler", "ghvb", "--momentum", "3.5", "--guidance", "2", "--count", 2, "-o", "many")
    like = ["generate", "--like", "many/a-boot-1.png"]
    assert fewstep(*like, "a bag", "--guidance", 5, "-o", "p.png").code == 0
    found = settings("p.png")
    assert (found["prompt"], found["guidance"], found["seed"]) == ("a bag", 5.0, 1)
    assert found["fields"]["momentum"] == 3.5
    assert fewstep(*like, "--momentum", 1.5, "--seed", 9, "-o", "q.png").code == 0
    assert settings("q.png")["fields"]["momentum"] == 1.5
    assert settings("q.png")["seed"] == 9
    assert fewstep(*like, "--sampler", "ddim karras", "-o", "r.png").code == 0
    found = settings("r.png")
    assert (found["sampler"], found["grid"]) == ("adams-bashforth", "karras")
    assert "momentum" not in found["fields"]


def _with_text(path: Path, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("fewstep", text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


GOOD = {
    "model": "garments",
    "prompt": "a boot",
    "sampler": "ghvb",
    "fields": {},
    "grid": None,
    "steps": 3,
    "guidance": 3.0,
    "negative": None,
    "seed": 0,
    "width": 32,
    "height": 32,
    "dtype": "float32",
}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "they are no JSON"),
        ("[" * 100000, "they are no JSON"),
        ("[1]", "they are no table"),
        (json.dumps({**GOOD, "steps": "3"}), "damaged: steps is '3'"),
        (json.dumps({**GOOD, "seed": True}), "damaged: seed is True"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "prompt"}), "damaged: prompt is None"),
        (json.dumps({**GOOD, "batch": {"seed": 0, "count": 10**9}}), "damaged: batch is"),
        (json.dumps({**GOOD, "batch": {"seed": 5, "count": 2}}), "damaged: batch is"),
        (json.dumps({**GOOD, "sampler": "ghvv"}), "unknown sampler 'ghvv'"),
        (json.dumps({**GOOD, "fields": {"momentum": [1]}}), "momentum"),
        (json.dumps({**GOOD, "fields": {"momentun": 1}}), "no field 'momentun', did you mean 'momentum'?"),
        (json.dumps({**GOOD, "fields": {"sampler": "x", "pipe": 1}}), "no field 'sampler'"),
        (json.dumps({**GOOD, "model": "no/such/model/at/all"}), "no model"),
    ],
)
def test_damaged_settings_are_refused(fewstep: Fewstep, tmp_path: Path, text: str, sentence: str) -> None:
    _with_text(tmp_path / "p.png", text)
    said = fewstep("generate", "--like", "p.png", "-o", "q.png")
    assert said.code == 2
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not Path("q.png").exists()


def test_like_wants_a_picture_of_ours(fewstep: Fewstep, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    for name, sentence in (
        ("gone.png", "there is no picture 'gone.png'"),
        (".", "there is no picture '.'"),
        ("text.png", "'text.png' is not a picture that can be read"),
        ("plain.png", "'plain.png' holds no fewstep settings"),
        ("photo.jpg", "'photo.jpg' holds no fewstep settings"),
    ):
        said = fewstep("generate", "--like", name)
        assert said.code == 2
        assert sentence in said.err


def test_compare_makes_one_labelled_sheet(make: Fewstep, fewstep: Fewstep, tiny_folder: Path) -> None:
    said = make("a boot", "--compare", "ghvb, dpm++2m,ddim", "--count", 3, "--momentum", 1.5, "--json")
    assert said.code == 0, said.err
    summary = json.loads(said.out)
    assert summary["files"] == ["outputs/a-boot-0-compare.png"]
    assert [row["sampler"] for row in summary["samplers"]] == ["ghvb", "dpm++2m", "ddim"]
    assert summary["calls"] == 9
    sheet = pixels(summary["files"][0])
    assert sheet.shape[0] > 3 * 128
    assert sheet.shape[1] > 3 * 128
    assert (sheet[:, :100] < 60).any()  # dark words beside the rows
    # every picture is on it, its pixels as squares of 4 by 4, at its row and column
    for row, (sampler, fields) in enumerate({"ghvb": {"momentum": 1.5}, "dpm++ 2m": {}, "ddim": {}}.items()):
        pipe = load(tiny_folder, sampler, device="cpu", **fields)
        for column, image in enumerate(generate(pipe, "a boot", steps=3, count=3).images):
            cell = np.asarray(image).astype(int).repeat(4, 0).repeat(4, 1)
            y, x = sheet.shape[0] - 16 - 134 * (3 - row) + 6, sheet.shape[1] - 16 - 134 * (3 - column) + 6
            assert abs(sheet[y : y + 128, x : x + 128] - cell).max() <= 1
    assert fewstep("generate", "--like", summary["files"][0], "-o", "again.png").code == 0
    assert (pixels("again.png") == sheet).all()


def test_a_field_in_one_name_is_kept_beside_the_option(make: Fewstep) -> None:
    names = ["ghvb auto", "ghvb"]
    said = make("a boot", "--compare", ",".join(names), "--momentum", 0.5, "--count", 1, "-o", "both.png")
    assert said.code == 0, said.err
    make("a boot", "--compare", "ghvb auto", "--count", 1, "-o", "alone.png")
    both, alone = pixels("both.png"), pixels("alone.png")
    upper, lower = (both[both.shape[0] - 16 - 128 - d : both.shape[0] - 16 - d, -230:] for d in (134, 0))
    assert (upper == alone[alone.shape[0] - 16 - 128 : alone.shape[0] - 16, -230:]).all()
    assert (upper != lower).any()
    said = make("a boot", "--compare", "ghvb auto", "--momentum", 0.5)
    assert said.code == 2
    assert "none of ghvb auto takes momentum beside what its name says" in said.err


def test_a_grid_in_one_name_is_not_the_next_ones(make: Fewstep) -> None:
    one = json.loads(make("a boot", "--compare", "dpm++ 2m karras, ddim", "--count", 1, "-o", "a.png", "--json").out)
    make("a boot", "--compare", "ddim, dpm++ 2m karras", "--count", 1, "-o", "b.png")
    a, b = pixels(one["files"][0]), pixels("b.png")
    bottom, top = slice(a.shape[0] - 16 - 128, a.shape[0] - 16), slice(a.shape[0] - 16 - 262, a.shape[0] - 16 - 134)
    assert (a[bottom, -200:] == b[top, -200:]).all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "--steps", "0"], "steps must be at least 1, got 0"),
        (["x", "--steps", "1001"], "steps must be at most 1000"),
        (["x", "--guidance", "-1"], "guidance must be a finite number of at least 0, got -1.0"),
        (["x", "--seed", "-1"], "seed must be at least 0"),
        (["x", "--count", "0"], "count must be at least 1"),
        (["x", "--batch", "0"], "batch must be at least 1"),
        (["x", "--upscale", "0"], "upscale must be 1 to 64, got 0"),
        (["x", "--size", "36"], "must be multiples of 8"),
        (["x", "--size", "big"], "size must be N or WIDTHxHEIGHT"),
        (["x", "--dtype", "float8"], "dtype must be float32, float16 or bfloat16"),
        (["x", "--device", "warp"], "unknown device 'warp'"),
        (["x", "--grid", "karas"], "did you mean 'karras'"),
        (["x", "--sampler", "ghvv"], "unknown sampler 'ghvv', did you mean 'ghvb'"),
        (["x", "--sampler", "ghvb", "--momentum", "7.2"], "momentum must be in (0, 5] or 'auto', got 7.2"),
        (["x", "--sampler", "ghvb", "--momentum", "much"], "momentum must be in (0, 5] or 'auto', got 'much'"),
        (["x", "--sampler", "ghvb", "--momentum"], "--momentum needs a value"),
        (["x", "--sampler", "ghvb", "--momentun", "2"], "no option --momentun, did you mean '--momentum'?"),
        (["x", "--stepss", "3"], "no option --stepss, did you mean '--steps'?"),
        (["x", "-q"], "no option -q"),
        (["x", "--momentum", "2"], "no option --momentum"),
        (["x", "--compare", "ghvb,ghvv"], "unknown sampler 'ghvv', did you mean 'ghvb'"),
        (["x", "--compare", ","], "--compare takes names of samplers"),
        (["x", "--compare", "ghvb", "--sampler", "ddim"], "give --sampler or --compare, not both"),
        (["x", "--model", "garmnets"], "no model 'garmnets'"),
        (["x", "--out", "p.jpg"], "files end in .png; got 'p.jpg'"),
        (["x", "--out", "p.png", "--count", "2"], "2 pictures need a folder"),
        ([], "say what the pictures should show"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(make: Fewstep, words: list[str], sentence: str) -> None:
    said = make(*words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert os.listdir() == []


def test_targets_that_cannot_be_written(make: Fewstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    said = make("a boot", "--out", "file/p.png")
    assert said.code == 2
    assert "'file/p.png' cannot be written" in said.err
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "a-boot-0.png").mkdir()
    said = make("a boot", "--out", "folder.png")
    assert said.code == 2
    assert "is a folder" in said.err

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    said = make("a boot", "--out", "p.png")
    assert said.code == 2
    assert said.err == "Error: 'p.png' cannot be written: No space left on device\n"
    assert sorted(os.listdir()) == ["file", "folder.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission(make: Fewstep, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    said = make("a boot", "--out", "closed/p.png")
    assert said.code == 2
    assert "no permission" in said.err


def test_no_black_picture_from_damaged_weights(fewstep: Fewstep, tiny_folder: Path, tmp_path: Path) -> None:
    pipe = load(tiny_folder, device="cpu")
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] = torch.nan
    pipe.save_pretrained(tmp_path / "model")
    said = fewstep("generate", "a boot", "--model", "model", "--steps", 2, "--out", "p.png")
    assert said.code == 2
    assert "not finite numbers, so no picture was made" in said.err
    assert os.listdir() == ["model"]


def test_an_interrupted_run_writes_nothing(make: Fewstep, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fewstep.pipelines.generation.own_run", interrupt)
    said = make("a boot")
    assert said.code == 130
    assert os.listdir() == []


def test_a_method_that_does_nothing_says_so(make: Fewstep) -> None:
    said = make("a boot", "--sampler", "lml", "--kappa", "0", "-o", "p.png")
    assert said.code == 0
    assert "Note: LML with kappa = 0 equals its base solver" in said.err


@pytest.mark.skipif("garments" not in shipped_models(), reason="the package holds no model yet")
def test_the_first_command_of_the_readme(fewstep: Fewstep) -> None:
    said = fewstep("generate", "a red ankle boot on a white background", "--steps", 8, "--device", "cpu")
    assert said.code == 0, said.err
    file = "outputs/a-red-ankle-boot-on-a-white-background-0.png"
    assert file in said.out
    picture = pixels(file)
    assert picture.shape == (32, 32, 3)
    assert picture[0].mean() > 200  # the background
    assert (picture[..., 0] - picture[..., 2] > 80).mean() > 0.1  # the boot
    assert settings(file)["model"] == "garments"
    assert fewstep("generate", "--like", file, "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path(file).read_bytes()


EXTRAS = ["--guidance", "4", "--guidance-mode", "cfg-zero", "--guidance-interval", "0.5,2"]


def test_guidance_and_cache_reach_the_picture_and_its_settings(make: Fewstep, tiny_folder: Path) -> None:
    cache = "ab:order=1,interval=2,warmup_steps=1,tail_steps=0"
    said = make("a boot", *EXTRAS, "--cache", "ab:1,2,warmup=1,tail=0", "--steps", "4", "-o", "one.png")
    assert said.code == 0
    assert said.out.startswith("2 network calls, 2 skipped, ")
    pipe = load(tiny_folder, guidance="cfg-zero", interval=(0.5, 2), device="cpu")
    expected = generate(pipe, "a boot", steps=4, guidance=4.0, cache=cache).images[0]
    assert (pixels("one.png") == np.asarray(expected)).all()
    found = settings("one.png")
    assert (found["guidance_mode"], found["guidance_interval"], found["cache"]) == ("cfg-zero", "0.5,2.0", cache)


def test_calls_at_half_the_batch_are_said(make: Fewstep) -> None:
    assert "4 network calls (2 at half the batch), " in make("a boot", *EXTRAS, "--steps", "4").out
    made = json.loads(make("a boot", *EXTRAS, "--seed", "1", "--json").out)
    assert {"calls", "skipped", "halved", "seconds"} <= made.keys()


def test_like_repeats_guidance_and_cache(make: Fewstep, fewstep: Fewstep) -> None:
    assert make("a boot", *EXTRAS, "--cache", "ab:1,2,warmup=1", "-o", "one.png").code == 0
    assert fewstep("generate", "--like", "one.png", "-o", "two.png").code == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    without = ["--guidance-interval", "all", "--cache", "none"]
    assert fewstep("generate", "--like", "one.png", *without, "-o", "3.png").code == 0
    found = settings("3.png")
    assert (found["guidance_mode"], found["guidance_interval"], found["cache"]) == ("cfg-zero", None, "none")
    assert make("a boot", "--guidance", "4", "--guidance-mode", "cfg-zero", "-o", "4.png").code == 0
    assert (pixels("3.png") == pixels("4.png")).all()


def test_a_sheet_has_them_too(make: Fewstep, fewstep: Fewstep) -> None:
    words = ["--cache", "ab:1,2,warmup=1,tail=0", "--compare", "ghvb,ddim", "--count", "2", "--steps", "4"]
    assert make("a boot", *EXTRAS, *words, "-o", "s.png").out.startswith("4 network calls, 4 skipped, ")
    assert fewstep("generate", "--like", "s.png", "-o", "again.png").code == 0
    assert (pixels("s.png") == pixels("again.png")).all()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--guidance-mode", "cfg-zer"], "did you mean 'cfg-zero'"),
        (["--guidance-interval", "1"], "two noise levels"),
        (["--guidance-interval", "5,1"], "0 <= low <= high"),
        (["--cache", "abc:2"], "unknown cache 'abc'"),
        (["--cache", "ab:order=9"], "order must be"),
        (["--cache", "ab:2,2", "--sampler", "diffusers:EulerAncestralDiscreteScheduler"], "draws noise in every step"),
    ],
)
def test_guidance_and_cache_mistakes_are_sentences(make: Fewstep, words: list[str], sentence: str) -> None:
    said = make("a boot", *words)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize("name", ["guidance_mode", "guidance_interval", "cache"])
def test_damaged_guidance_in_a_picture_is_refused(make: Fewstep, fewstep: Fewstep, name: str) -> None:
    assert make("a boot", "-o", "one.png").code == 0
    info = PngImagePlugin.PngInfo()
    info.add_text("fewstep", json.dumps({**settings("one.png"), name: 7}))
    Image.new("RGB", (8, 8)).save("bad.png", pnginfo=info)
    said = fewstep("generate", "--like", "bad.png", "-o", "two.png")
    assert said.code == 2
    assert "Traceback" not in said.err
