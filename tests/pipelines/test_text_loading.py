"""Text pipelines on disk, and what is refused: each with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_texts
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from fewstep.pipelines import (
    MaskedTextPipeline,
    load,
    load_text,
    set_solver,
    shipped_models,
    shipped_texts,
    token_scheduler,
)
from fewstep.pipelines.text_solvers import solver_options, solver_settings, solvers
from fewstep.samplers import TOKEN_METHODS, DiscreteThetaScheduler, generators


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> Any:
    tokenizer = tiny_texts.characters()
    model = tiny_texts.modern(len(tokenizer))
    return quiet(MaskedTextPipeline(model, tokenizer, token_scheduler("trapezoidal", theta=0.4)))


@pytest.fixture(scope="module")
def saved(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "saved"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers: model and tokenizer, no index."""
    folder = tmp_path_factory.mktemp("texts") / "plain"
    pipe.model.save_pretrained(folder)
    pipe.tokenizer.save_pretrained(folder)
    return folder


def written(pipe: Any, **request: Any) -> list[str]:
    return quiet(pipe)("To be", num_inference_steps=4, generator=generators([7]), **request).texts


def test_a_saved_pipeline_writes_the_same(pipe: Any, saved: Path, tmp_path: Path) -> None:
    back = MaskedTextPipeline.from_pretrained(saved)
    assert solver_settings(back.scheduler) == solver_settings(pipe.scheduler)
    assert back.scheduler.config.theta == 0.4
    assert written(back) == written(pipe)
    assert isinstance(DiffusionPipeline.from_pretrained(saved), MaskedTextPipeline)
    assert written(load_text(saved, device="cpu")) == written(pipe)
    index = json.loads((saved / "model_index.json").read_text())
    assert index["scheduler"] == ["fewstep.samplers", "DiscreteThetaScheduler"]
    assert sorted(p.suffix for p in (saved / "model").iterdir()) == [".json", ".safetensors"]
    pipe.save_pretrained(tmp_path / "again")
    assert written(load_text(tmp_path / "again", device="cpu")) == written(pipe)


def test_options_of_the_pipeline_are_saved(pipe: Any, tmp_path: Path) -> None:
    own = MaskedTextPipeline(pipe.model, pipe.tokenizer, pipe.scheduler, condition="none", window=10)
    own.save_pretrained(tmp_path)
    back = MaskedTextPipeline.from_pretrained(tmp_path)
    assert (back.config.condition, back.config.window, back.room) == ("none", 10, 10)


def test_a_model_of_transformers_is_a_pipeline_too(pipe: Any, plain: Path) -> None:
    back = load_text(plain, "trapezoidal", theta=0.4, device="cpu")
    assert written(back) == written(pipe)
    assert type(load_text(plain, device="cpu").scheduler).__name__ == "DiscreteAdamsBashforthScheduler"
    swapped = MaskedTextPipeline.from_pretrained(plain, scheduler=DiscreteThetaScheduler(theta=0.4))
    assert written(swapped) == written(pipe)


def test_dtype_and_device(plain: Path) -> None:
    half = load_text(plain, dtype="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16
    assert len(written(half)[0]) == tiny_texts.WINDOW
    with pytest.raises(ValueError, match="dtype must be float32, float16 or bfloat16"):
        load_text(plain, dtype="float8")
    with pytest.raises(ValueError, match="unknown device"):
        load_text(plain, device="gpu")


def test_a_plain_function_is_not_saved(pipe: Any, tmp_path: Path) -> None:
    size = len(pipe.tokenizer)
    own = MaskedTextPipeline(lambda x: torch.zeros(*x.shape, size), pipe.tokenizer, pipe.scheduler)
    with pytest.raises(ValueError, match="the model, function, has no save_pretrained"):
        own.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="safetensors alone"):
        pipe.save_pretrained(tmp_path / "x", safe_serialization=False)


def test_no_pickle_and_no_code_is_read(plain: Path, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in plain.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_text(folder)
    for words in ({"use_safetensors": False}, {"trust_remote_code": True}):
        with pytest.raises(ValueError, match="safetensors alone, and no code"):
            MaskedTextPipeline.from_pretrained(plain, **words)
    index = json.loads((saved / "model_index.json").read_text())
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model_index.json").write_text(json.dumps({**index, "model": ["subprocess", "Popen"]}))
    with pytest.raises(ValueError, match="no code of a model is run"):
        MaskedTextPipeline.from_pretrained(foreign)


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_texts.characters()
    model = tiny_texts.bert(len(tokenizer))
    model.bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not a trained masked language model"):
        load_text(tmp_path)


def test_folders_without_a_model_are_refused(tmp_path: Path, tiny_folder: Path, plain: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match=r"neither model_index\.json nor config\.json"):
        load_text(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model 'nowhere'"):
        load_text("nowhere")
    with pytest.raises(ValueError, match="StableDiffusionPipeline, not a MaskedTextPipeline"):
        load_text(tiny_folder)
    with pytest.raises(ValueError, match="fewstep text"):
        load(saved)
    for file in plain.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="has no tokenizer that can be read"):
        load_text(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_text(tmp_path)


def test_models_of_text_and_pictures_are_told_apart() -> None:
    assert not shipped_models().keys() & shipped_texts().keys()
    for name in shipped_texts():
        with pytest.raises(ValueError, match="fewstep text"):
            load(name)
    for name in shipped_models():
        with pytest.raises(ValueError, match="fewstep generate"):
            load_text(name)


# -- solvers -------------------------------------------------------------------------------------------------------


def test_every_token_method_has_a_solver() -> None:
    found = {token_scheduler(name).method.name for name in solvers() if name != "confidence"}
    assert found == set(TOKEN_METHODS)


@pytest.mark.parametrize("solver", solvers())
def test_settings_make_the_scheduler_again(solver: str) -> None:
    option, value = ("masking_schedule", "linear") if solver == "confidence" else ("time_grid", "cosine")
    made = token_scheduler(solver, **{option: value})
    settings = solver_settings(made)
    assert settings["solver"] == solver
    again = token_scheduler(settings["solver"], **settings["fields"])
    assert {key: again.config[key] for key in solver_options(solver)} == {
        key: made.config[key] for key in solver_options(solver)
    }


@pytest.mark.parametrize(
    ("solver", "options", "sentence"),
    [
        ("trapezoidel", {}, "unknown solver 'trapezoidel', did you mean 'trapezoidal'"),
        ("trapezoidal", {"thetta": 0.3}, "trapezoidal has no option 'thetta', did you mean 'theta'"),
        ("trapezoidal", {"theta": 0}, r"theta must be in \(0, 1\], got 0"),
        ("trapezoidal", {"theta": 1.5}, r"theta must be in \(0, 1\], got 1.5"),
        ("trapezoidal", {"theta": 1}, "below|in \\(0, 1\\) with exact intervals"),
        ("trapezoidal", {"theta": "wide"}, "theta"),
        ("adams", {"lag": 99}, "lag"),
        ("tau", {"conflict": "an"}, "conflict"),
        ("euler", {"time_grid": "cosin"}, "did you mean 'cosine'"),
        ("confidence", {"masking_schedule": "square"}, "'cosine' or 'linear'"),
        ("adams", {"noise_schedule": "loglinear"}, "log_linear"),
    ],
)
def test_solvers_out_of_range_are_refused_before_a_model_is_loaded(
    solver: str, options: dict[str, Any], sentence: str, plain: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        token_scheduler(solver, **options)
    with pytest.raises(ValueError, match=sentence):
        load_text(plain, solver, **options)


# -- what cannot be ------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_mask_is_refused(pipe: Any) -> None:
    tokenizer = tiny_texts.characters()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="has no mask token"):
        MaskedTextPipeline(pipe.model, tokenizer, token_scheduler())
    with pytest.raises(ValueError, match="number 60 for the tokenizer and 3 for the scheduler"):
        MaskedTextPipeline(pipe.model, pipe.tokenizer, DiscreteThetaScheduler(mask_token_id=3))


def test_sizes_that_differ_are_refused(pipe: Any) -> None:
    size = len(pipe.tokenizer)
    with pytest.raises(ValueError, match=f"vocabulary of {size - 1} tokens and the tokenizer one of {size}"):
        MaskedTextPipeline(tiny_texts.modern(size - 1), pipe.tokenizer, token_scheduler())
    for larger in (size + 3, 128):  # rows beyond the tokenizer are never drawn
        padded = quiet(MaskedTextPipeline(tiny_texts.modern(larger), pipe.tokenizer, token_scheduler()))
        assert int(padded(num_inference_steps=2, generator=generators([0])).tokens[0].max()) < size
    few = MaskedTextPipeline(lambda x: torch.zeros(*x.shape, 9), pipe.tokenizer, token_scheduler())
    with pytest.raises(ValueError, match="probabilities for 9 tokens"):
        quiet(few)()
    flat = MaskedTextPipeline(lambda x: torch.zeros(x.shape), pipe.tokenizer, token_scheduler())
    with pytest.raises(ValueError, match="one row of columns a token"):
        quiet(flat)()
    broken = MaskedTextPipeline(lambda x: torch.full((*x.shape, size), torch.nan), pipe.tokenizer, token_scheduler())
    with pytest.raises(ValueError, match="NaN"):
        quiet(broken)()


def test_other_schedulers_are_refused(pipe: Any) -> None:
    with pytest.raises(TypeError, match="DDIMScheduler is no scheduler of masked tokens"):
        MaskedTextPipeline(pipe.model, pipe.tokenizer, DDIMScheduler())
    with pytest.raises(ValueError, match="uniform noise"):
        MaskedTextPipeline(pipe.model, pipe.tokenizer, DiscreteThetaScheduler(process="uniform"))
    with pytest.raises(ValueError, match="unknown condition 'sigm', did you mean 'sigma'"):
        MaskedTextPipeline(pipe.model, pipe.tokenizer, token_scheduler(), condition="sigm")
    with pytest.raises(ValueError, match="window must be a whole number"):
        MaskedTextPipeline(pipe.model, pipe.tokenizer, token_scheduler(), window=0)
    endless = MaskedTextPipeline(
        lambda x, sigma: torch.zeros(*x.shape, 64), pipe.tokenizer, token_scheduler(noise_schedule="linear")
    )
    with pytest.raises(ValueError, match="sigma is infinite at t = 1"):
        quiet(endless)()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"prompt": "To é ☃ é"}, "does not know 'é', '☃'; leave"),
        ({"prompt": "x" * 25, "length": 40}, "has 25 tokens and the model reads 24 at once"),
        ({"prompt": "To be", "length": 5}, "nothing to write; raise length"),
        ({"length": 0}, "prompt is empty and length is 0"),
        ({"length": -3}, "length must be a whole number of at least 0, got -3"),
        ({"length": 4.5}, "length must be a whole number"),
        ({"prompt": []}, "prompt must be a text or a list of texts"),
        ({"prompt": [3]}, "prompt must be a text or a list of texts"),
        ({"prompt": 3}, "prompt must be a text or a list of texts"),
        ({"prompt": "To [MASK]"}, "given as infill"),
        ({"temperature": "hot"}, "must be numbers"),
        ({"infill": "To be"}, "no blank to fill"),
        ({"infill": "To be", "blank": "#"}, "a blank is written as '#'"),
        ({"infill": "To [MASK] #", "blank": "#"}, "beside the blanks"),
        ({"infill": "To be", "blank": ""}, "at least one character"),
        ({"infill": "To [MASK]", "prompt": "x"}, "neither a prompt nor a length"),
        ({"infill": "To é[MASK]"}, "does not know 'é'"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1"),
        ({"network_calls": 0}, "network_calls must be a whole number of at least 1"),
        ({"guidance_scale": -1}, "guidance_scale must be a finite number of at least 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"guidance_scale": 2.0}, "there is no prompt"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\]"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"context": 24, "length": 50}, "context must be below the 24 tokens"),
        ({"num_texts_per_prompt": 0}, "num_texts_per_prompt"),
        ({"generator": generators([0, 1])}, "2 generators were given for 1 texts"),
        ({"output_type": "pil"}, "output_type must be 'text' or 'tokens'"),
    ],
)
def test_requests_that_cannot_be_are_refused(pipe: Any, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pipe(**request_)


def test_a_tokenizer_without_an_unknown_token_names_characters_too() -> None:
    tokenizer = tiny_texts.characters("ab")
    tokenizer.unk_token = None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["unk_token"] = "[NONE]"
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
    size = len(tokenizer)
    own = quiet(MaskedTextPipeline(lambda x: torch.zeros(*x.shape, size), tokenizer, token_scheduler(), window=8))
    with pytest.raises(ValueError, match="does not know 'x'"):
        own("axb")


def test_unknown_words_of_a_word_tokenizer_are_named(tmp_path: Path) -> None:
    tokenizer = tiny_texts.words(tmp_path)
    own = quiet(MaskedTextPipeline(tiny_texts.bert(len(tokenizer)), tokenizer, token_scheduler()))
    with pytest.raises(ValueError, match="does not know '☃'"):
        own("to be ☃")
    assert own("To BE", num_inference_steps=2, generator=generators([0])).texts[0].startswith("to be")


def test_set_solver_on_a_loaded_pipeline(plain: Path) -> None:
    back = load_text(plain, device="cpu")
    assert set_solver(back, "first-hitting") is back
    made = quiet(back)("To be", num_inference_steps=None, generator=generators([0]))
    assert made.calls == tiny_texts.WINDOW - 5
