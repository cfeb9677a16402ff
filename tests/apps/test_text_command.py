"""`fewstep text`: the same texts as the pipeline, files that repeat, blanks, watching, and sentences for bad input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fewstep.pipelines import MaskedTextPipeline, load_text, shipped_texts, token_scheduler
from fewstep.samplers import generators

Fewstep = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a text pipeline with random weights and the solver trapezoidal, theta 0.4."""
    import tiny_texts

    tokenizer = tiny_texts.characters()
    pipe = MaskedTextPipeline(tiny_texts.modern(len(tokenizer)), tokenizer, token_scheduler("trapezoidal", theta=0.4))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


def direct(model: Path, seeds: list[int], solver: str | None = None, **request: Any) -> Any:
    pipe = load_text(model, solver, device="cpu")
    request.setdefault("num_inference_steps", 4)
    return pipe(generator=generators(seeds), num_texts_per_prompt=len(seeds), **request)


def test_texts_are_those_of_the_pipeline(fewstep: Fewstep, model: Path) -> None:
    said = fewstep("text", "To be", "--model", model, "--steps", 4, "--seed", 3)
    made = direct(model, [3], prompt="To be")
    assert said.code == 0
    assert said.out == made.texts[0] + "\n"
    assert said.err.startswith(f"{made.calls} network calls, {made.skipped} skipped, ")
    assert "seconds" in said.err
    several = fewstep("text", "To", "be", "--model", model, "--steps", 4, "--seed", 3, "--count", 2)
    texts = direct(model, [3, 4], prompt="To be").texts
    assert several.out == f"--- seed 3\n{texts[0]}\n--- seed 4\n{texts[1]}\n"


def test_a_text_from_nothing(fewstep: Fewstep, model: Path) -> None:
    said = fewstep("text", "--model", model, "--steps", 4, "--length", 11)
    assert said.out == direct(model, [0], length=11).texts[0] + "\n"


def test_options_reach_the_pipeline(fewstep: Fewstep, model: Path) -> None:
    words = ["--temperature", 0.5, "--top-p", 0.8, "--top-k", 5, "--guidance", 1.5, "--context", 3, "--length", 40]
    said = fewstep("text", "To be", "--model", model, "--calls", 6, "--solver", "tweedie", *words, "--json")
    found = json.loads(said.out)
    made = direct(
        model, [0], "tweedie", prompt="To be", network_calls=6, temperature=0.5, top_p=0.8, top_k=5,
        guidance_scale=1.5, context=3, length=40,
    )  # fmt: skip
    assert found["texts"] == made.texts
    assert (found["calls"], found["skipped"], found["windows"]) == (made.calls, made.skipped, made.windows)
    assert found["settings"]["calls"] == 6
    assert found["settings"]["steps"] is None


def test_fields_of_the_solver_are_options(fewstep: Fewstep, model: Path) -> None:
    words = ["text", "To be", "--model", model, "--steps", 4, "--json"]
    own = json.loads(fewstep(*words).out)
    assert own["settings"]["solver"] == "trapezoidal"
    assert own["settings"]["fields"]["theta"] == 0.4  # what the model came with
    same = json.loads(fewstep(*words, "--solver", "trapezoidal", "--theta", "0.4").out)
    other = json.loads(fewstep(*words, "--solver", "trapezoidal", "--theta=0.9", "--time-grid", "cosine").out)
    assert same["texts"] == own["texts"] != other["texts"]
    assert other["settings"]["fields"] == {
        "theta": 0.9, "stage_probability": "exact", "conflict": "any", "time_grid": "cosine",
    }  # fmt: skip


def test_fields_without_a_solver_are_those_of_the_model_s(fewstep: Fewstep, model: Path) -> None:
    words = ["text", "To be", "--model", model, "--steps", 4, "--json"]
    named = json.loads(fewstep(*words, "--solver", "trapezoidal", "--theta", "0.9").out)
    unnamed = json.loads(fewstep(*words, "--theta", "0.9").out)
    assert unnamed["texts"] == named["texts"]
    kept = json.loads(fewstep(*words, "--time-grid", "cosine").out)
    assert kept["settings"]["solver"] == "trapezoidal"
    assert kept["settings"]["fields"]["theta"] == 0.4


def test_the_temperature_of_a_saved_pipeline_is_repeated(fewstep: Fewstep, model: Path) -> None:
    pipe = load_text(model, device="cpu")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, temperature=0.3, top_p=0.8)
    pipe.save_pretrained("cold")
    first = json.loads(fewstep("text", "To be", "--model", "cold", "--steps", 4, "--json", "--out", "first.json").out)
    assert (first["settings"]["temperature"], first["settings"]["top_p"]) == (0.3, 0.8)
    again = json.loads(fewstep("text", "--like", "first.json", "--json").out)
    assert again["texts"] == first["texts"] != direct(model, [0], prompt="To be").texts
    swapped = json.loads(fewstep("text", "--like", "first.json", "--solver", "tweedie", "--json").out)
    assert swapped["settings"]["temperature"] == 0.3
    assert load_text("cold", "adams", device="cpu").scheduler.config.temperature == 0.3


def test_a_quoted_sentence_may_begin_with_a_dash(fewstep: Fewstep, model: Path) -> None:
    said = fewstep("text", "-Am I, he said", "--model", model, "--steps", 2)
    assert said.code == 0, said.err
    assert said.out.startswith("-Am I, he said")


def test_the_file_with_blanks_is_not_replaced(fewstep: Fewstep, model: Path) -> None:
    Path("b.txt").write_text("a[MASK]b")
    said = fewstep("text", "--infill", "b.txt", "--model", model, "--out", "./b.txt", "--overwrite")
    assert said.code == 2
    assert "its text would be lost" in said.err
    assert Path("b.txt").read_text() == "a[MASK]b"


@pytest.mark.parametrize("solver", ["adams", "rk2", "tau", "euler", "first-hitting", "confidence"])
def test_every_solver_writes(fewstep: Fewstep, model: Path, solver: str) -> None:
    said = fewstep("text", "To be", "--model", model, "--steps", 3, "--solver", solver)
    assert said.code == 0, said.err
    assert said.out.startswith("To be")
    assert "[MASK]" not in said.out


def test_blanks_of_a_file_are_filled(fewstep: Fewstep, model: Path) -> None:
    Path("blanks.txt").write_text("To be[MASK] or [MASK][MASK] be\n")
    said = fewstep("text", "--infill", "blanks.txt", "--model", model, "--steps", 2)
    assert said.code == 0
    text = said.out[:-1]
    assert (text[:5], text[6:10], text[12:]) == ("To be", " or ", " be\n")
    Path("own.txt").write_bytes("\ufeffTo be_ or __ be\r\n".encode())
    assert fewstep("text", "--infill", "own.txt", "--blank", "_", "--model", model, "--steps", 2).out == said.out


def test_files_repeat_the_run(fewstep: Fewstep, model: Path) -> None:
    words = ["text", "To be", "--model", model, "--steps", 4]
    first = fewstep(*words, "--output", "verse.json", "--seed", 5)
    assert first.code == 0
    held = json.loads(Path("verse.json").read_text())
    assert held["texts"] == [first.out[:-1]]
    assert held["seeds"] == [5]
    assert fewstep("text", "--like", "verse.json").out == first.out
    assert fewstep("text", "--like", "verse.json", "--seed", 6).out != first.out
    again = json.loads(fewstep("text", "Romeo", "--like", "verse.json", "--calls", 3, "--json").out)
    assert again["settings"]["steps"] is None
    assert again["texts"][0].startswith("Romeo")
    Path("b.txt").write_text("a[MASK]b")
    filled = json.loads(fewstep("text", "--like", "verse.json", "--infill", "b.txt", "--json").out)
    assert len(filled["texts"][0]) == 3
    plain = fewstep(*words, "-o", "folder/verse.txt", "--seed", 5)
    assert Path("folder/verse.txt").read_text() == plain.out[:-1] == first.out[:-1]
    assert fewstep("text", "--like", "folder/verse.json").out == first.out
    several = fewstep(*words, "--out", "folder", "--count", 2)
    assert several.code == 0
    assert sorted(p.name for p in Path("folder").iterdir()) == [
        "to-be-0.json", "to-be-0.txt", "to-be-1.txt", "verse.json", "verse.txt",
    ]  # fmt: skip


def test_files_are_not_overwritten_unless_asked(fewstep: Fewstep, model: Path) -> None:
    words = ["text", "To be", "--model", model, "--steps", 2, "--out", "a.txt"]
    Path("a.json").write_text("mine")
    said = fewstep(*words)
    assert (said.code, said.out) == (2, "")
    assert "'a.json' exists already" in said.err
    assert Path("a.json").read_text() == "mine"
    assert not Path("a.txt").exists()
    assert fewstep(*words, "--overwrite").code == 0
    assert json.loads(Path("a.json").read_text())["texts"] == [Path("a.txt").read_text()]
    assert not list(Path().glob(".*"))


def test_an_interrupted_run_leaves_no_file(fewstep: Fewstep, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fewstep.pipelines.text_run.run_window", stop)
    said = fewstep("text", "To be", "--model", model, "--out", "a.txt")
    assert said.code == 130
    assert list(Path().iterdir()) == []


def test_watching_shows_the_text_appear(fewstep: Fewstep, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fewstep("text", "To be", "--model", model, "--steps", 6)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60, height=20, highlight=False, color_system=None)
    for module in ("terminal", "text_watch"):
        monkeypatch.setattr(f"fewstep.apps.{module}.notes", console)
    monkeypatch.setattr("fewstep.apps.text_watch._PER_SECOND", 10**9)
    said = fewstep("text", "To be", "--model", model, "--steps", 6, "--watch")
    assert said.out == plain.out
    shown = screen.getvalue()
    assert "call 1 of 12" in shown
    assert "·" in shown
    assert shown.index("call 1 of 12") < shown.index("call 3 of 12")


def test_watching_without_a_terminal_is_plain(fewstep: Fewstep, model: Path) -> None:
    words = ["text", "To be", "--model", model, "--steps", 4]
    watched, plain = fewstep(*words, "--watch"), fewstep(*words)
    assert watched.out == plain.out
    assert "·" not in watched.err
    assert "\x1b" not in watched.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["To é ☃"], "does not know 'é', '☃'"),
        (["", "--length", 0], "the prompt is empty and length is 0"),
        (["To be", "--length", 4], "nothing to write; raise length"),
        (["x" * 25, "--length", 90], "has 25 tokens and the model reads 24 at once"),
        (["x", "--solver", "adams", "--theta", 0.4], "it is a field of rk2 and trapezoidal; say --solver trap"),
        (["x", "--lag", 2], "no option --lag for trapezoidal: it is a field of adams; say --solver adams"),
        (["x", "--solver", "trapezoidal", "--theta", 1.5], "theta must be in (0, 1], got 1.5"),
        (["x", "--solver", "trapezoidal", "--theta", "wide"], "theta"),
        (["x", "--solver", "trapezoidal", "--theta"], "--theta needs a value"),
        (["x", "--solver", "trapez"], "unknown solver 'trapez', did you mean 'trapezoidal'"),
        (["x", "--lenght", 8], "no option --lenght, did you mean '--length'"),
        (["x", "--steps", 0], "steps must be at least 1"),
        (["x", "--steps", 4, "--calls", 4], "--steps or --calls, not both"),
        (["x", "--count", 0], "count must be at least 1"),
        (["x", "--seed", -1], "seed must be at least 0"),
        (["x", "--seed", 2**63], "seed must be below 2^63"),
        (["x", "--temperature", 0], "temperature must be above 0"),
        (["x", "--top-p", 1.2], "top_p must be in (0, 1]"),
        (["x", "--guidance", "nan"], "guidance_scale must be a finite number"),
        (["--guidance", 2], "there is no prompt"),
        (["x", "--context", 24, "--length", 60], "context must be below the 24 tokens"),
        (["x", "--blank", "_"], "give that too"),
        (["x", "--infill", "good.txt"], "a beginning or --infill, not both"),
        (["--infill", "good.txt", "--length", 9], "leave --length away"),
        (["--infill", "none.txt"], "no file 'none.txt'"),
        (["--infill", "latin.txt"], "'latin.txt' is not text in UTF-8 (its byte 2 does not belong there)"),
        (["--infill", "full.txt"], "the text has no blank to fill; a blank is written as '[MASK]'"),
        (["--infill", "good.txt", "--blank", ""], "at least one character"),
        (["--infill", "."], "is a folder, and a text file is needed"),
        (["x", "--like", "good.txt"], "holds no settings of `fewstep text`"),
        (["x", "--like", "damaged.json"], "damaged: steps is 'many'"),
        (["x", "--like", "list.json"], "holds no settings of `fewstep text`"),
        (["x", "--like", "empty.json"], "holds no settings of `fewstep text`"),
        (["x", "--count", 2, "--out", "a.txt"], "2 texts need a folder or a .json file"),
        (["x", "--out", "good.txt/a.txt"], "is not a folder"),
        (["x", "--dtype", "float8"], "dtype must be float32"),
        (["x", "--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_bad_input_is_one_sentence(fewstep: Fewstep, model: Path, words: list[Any], sentence: str) -> None:
    Path("good.txt").write_text("a[MASK]b")
    Path("full.txt").write_text("no blank")
    Path("latin.txt").write_bytes("no\xe9".encode("latin-1"))
    Path("damaged.json").write_text(json.dumps({"settings": {"steps": "many"}}))
    Path("list.json").write_text(json.dumps({"settings": []}))
    Path("empty.json").write_text(json.dumps({"settings": {"theta": 1}}))
    before = sorted(Path().iterdir())
    said = fewstep("text", *words, "--model", model)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_models_that_are_no_text_models_are_refused(fewstep: Fewstep, tiny_folder: Path) -> None:
    assert "no model 'nowhere'" in fewstep("text", "x", "--model", "nowhere").err
    assert "is a StableDiffusionPipeline, not a MaskedTextPipeline" in fewstep("text", "x", "--model", tiny_folder).err
    assert "fewstep generate" in fewstep("text", "x", "--model", "garments").err


@pytest.mark.skipif("verses" not in shipped_texts(), reason="the package holds no text model yet")
def test_the_shipped_model_writes_verses(fewstep: Fewstep) -> None:
    said = fewstep("text", "ROMEO:", "--calls", 8, "--length", 64, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["texts"][0].startswith("ROMEO:")
    assert len(found["texts"][0]) == 64
    assert found["calls"] + found["skipped"] == 8
