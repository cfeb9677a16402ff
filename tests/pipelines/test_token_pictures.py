"""Pictures of tokens through the same doors as all others: load, set_sampler, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from fewstep.pipelines import generate, load, set_sampler
from fewstep.pipelines.swapping import options_of, sampler_settings

SOLVERS = ("adams", "trapezoidal", "rk2", "tau", "euler", "tweedie", "first-hitting", "confidence")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("amused")
    tiny_models.amused(made / "words").save_pretrained(made / "tiny")
    return made / "tiny"


@pytest.fixture
def pipe(folder: Path) -> Any:
    return load(folder, device="cpu")


def test_a_model_of_tokens_keeps_the_scheduler_it_came_with(pipe):
    assert type(pipe.scheduler).__name__ == "AmusedScheduler"
    settings = generate(pipe, "a red dress", steps=3, guidance=1.0).settings
    assert (settings["sampler"], settings["grid"]) == ("tokens:confidence", None)


@pytest.mark.parametrize("solver", SOLVERS)
def test_settings_make_the_same_picture_again_in_any_batch(folder, solver):
    first = generate(load(folder, f"tokens:{solver}"), "a red dress", steps=4, guidance=2.0, seed=3, count=3)
    kept = first.settings
    again = load(folder, kept["sampler"], **kept["fields"])
    assert sampler_settings(again.scheduler) == {name: kept[name] for name in ("sampler", "fields", "grid")}
    alone = generate(again, "a red dress", steps=4, guidance=2.0, seed=4, batch=1)
    difference = np.asarray(alone.images[0], dtype=int) - np.asarray(first.images[1])
    assert abs(difference).max() <= 1  # the decoder rounds otherwise in another batch
    assert not np.array_equal(np.asarray(first.images[0]), np.asarray(first.images[1]))


def test_pictures_of_confidence_are_those_of_diffusers(pipe):
    ours = generate(pipe, "a red dress", steps=4, guidance=3.0, seed=9)
    theirs = pipe(
        "a red dress", num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(9)
    ).images[0]
    assert np.array_equal(np.asarray(ours.images[0]), np.asarray(theirs))


def test_fields_reach_the_solver(pipe):
    set_sampler(pipe, "tokens:trapezoidal", theta=0.4)
    assert pipe.scheduler.config["theta"] == 0.4
    assert "theta" in options_of("tokens:trapezoidal")


@pytest.mark.parametrize(
    ("sampler", "grid", "fields", "sentence"),
    [
        ("ghvb", None, {}, "draws tokens, and 'ghvb' moves noise"),
        ("diffusers:DDIMScheduler", None, {}, "draws tokens"),
        ("tokens:adms", None, {}, "did you mean 'adams'"),
        ("tokens:adams", "karras", {}, "no grid of noise levels"),
        ("tokens:trapezoidal", None, {"theta": 7.0}, "theta"),
        ("tokens:trapezoidal", None, {"thata": 0.5}, "has no option 'thata'"),
    ],
)
def test_what_does_not_fit_is_refused(folder, pipe, sampler, grid, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        set_sampler(pipe, sampler, grid, **fields)
    with pytest.raises(ValueError, match=sentence):
        load(folder, sampler, grid=grid, **fields)


def test_a_solver_of_tokens_is_refused_by_a_model_of_noise(tiny_folder):
    with pytest.raises(ValueError, match="draws no tokens"):
        load(tiny_folder, "tokens:adams", device="cpu")
