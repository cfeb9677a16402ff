"""`fewstep tune` on a tiny model."""

import json
from pathlib import Path

from PIL import Image


def test_tune_then_generate_then_again_like_it(fewstep, tiny_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\na dog\na tree\na car\n")
    said = fewstep(
        "tune", tiny_folder, "--nfe", "3", "--count", 2, "--rounds", 1, "--prompts", prompts, "--out", "r.json",
        "--guidance", 2,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "Tuning cost" in said.out
    config = json.loads(Path("r.json").read_text())
    assert config["_class_name"] == "TunedScheduler"
    assert config["_tuning"]["guidance"] == 2
    assert config["_tuning"]["network_calls"]["trajectory"] == 242
    drawn = fewstep("generate", "a cat", "--model", tiny_folder, "--sampler", "r.json", "--steps", 3, "--out", "a.png")
    assert drawn.code == 0, drawn.err
    assert "3 network calls" in drawn.out
    Path("r.json").unlink()  # the picture knows the recipe by heart
    again = fewstep("generate", "--like", "a.png", "--out", "b.png")
    assert again.code == 0, again.err
    assert Image.open("a.png").tobytes() == Image.open("b.png").tobytes()


def test_mistakes_are_sentences_and_leave_no_file(fewstep, tiny_folder, tmp_path):
    one = tmp_path / "one.txt"
    one.write_text("a cat\n")
    (tmp_path / "there.json").write_text("mine")
    for words, sentence in (
        (("--nfe", "a,b"), "--nfe is a list of whole numbers"),
        (("--nfe", "500"), "between 1 and 60"),
        (("--sampler", "nonsense"), "unknown sampler"),
        (("--prompts", one), "at least two"),
        (("--prompts", "missing.txt"), "there is no file of prompts"),
        (("--rounds", "-1"), "rounds must be at least 0"),
        (("--out", "recipe.txt"), "should end in .json"),
        (("--out", "there.json"), "--overwrite replaces it"),
        (("--guidance", "nan"), "guidance must be a finite number"),
        ((), "needs prompts"),
    ):
        said = fewstep("tune", tiny_folder, *words)
        assert said.code == 2, (words, said.err)
        assert sentence in said.err.replace("\n", " "), (words, said.err)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["there.json"]
    assert (tmp_path / "there.json").read_text() == "mine"
