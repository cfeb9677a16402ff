"""The benchmark of token pictures in the real pipeline: calls are counted, pictures are its own, runs go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from fewstep.eval.tasks import run
from fewstep.eval.token_contenders import contenders, select
from fewstep.eval.token_run import TokenOptions, TokenTask

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

COST = ("seconds", "scheduler_microseconds")
CODES = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import tiny_models

    folder = tmp_path_factory.mktemp("tokens") / "tiny"
    tiny_models.amused(folder / "words", CODES).save_pretrained(folder)
    return folder


def options(model, out, **more):
    given = {"model": str(model), "judge": "garments", "nfe": (4,), "guidance": (1.0,), "count": 3, "seeds": 2}
    return TokenOptions(**{**given, "batch": 3, "out": str(out), **more})


def figures(rows):
    return [{key: value for key, value in row.items() if key not in COST} for row in rows]


def test_every_sampler_makes_exactly_the_calls_and_leaves_no_mask(model, tmp_path):
    task = TokenTask(options(model, tmp_path))
    for contender in contenders("masked", "pictures").values():
        for calls in (5, 8):
            seen: list[int] = []
            network = task.problem.pipe.transformer
            handle = network.register_forward_hook(lambda module, args, output, seen=seen: seen.append(len(args[0])))
            found = task.problem.run(contender, 3.0, calls, range(2), [0, 1])
            handle.remove()
            assert (found.calls, len(seen)) == (calls, calls), contender.name
            assert seen == [4] * calls  # both predictions of guidance in one batch
            assert found.tokens.shape == (2, 4, 4)
            assert int(found.tokens.max()) < CODES, contender.name


def test_pictures_are_those_of_the_pipeline(model, tmp_path):
    task = TokenTask(options(model, tmp_path))
    (made,) = select(["token-adams-bashforth"], "masked", "pictures")
    from fewstep.eval.token_problem import scheduler_of
    from fewstep.samplers import generators

    pipe = task.problem.pipe
    found = task.problem.pictures(task.problem.run(made, 1.0, 4, range(2), [7, 8]).tokens)
    before = pipe.scheduler
    pipe.scheduler = scheduler_of(made, before.config)
    texts = task.problem.prompts[:2]
    own = pipe(texts, num_inference_steps=4, guidance_scale=1.0, generator=generators([7, 8]), output_type="pt").images
    pipe.scheduler = before
    assert found.shape == (2, 3, 32, 32)
    assert torch.allclose((found + 1) / 2, own, atol=0.5 / 255 + 1e-6)


def test_rows_files_and_a_run_that_goes_on(model, tmp_path):
    words = ("token-adams-bashforth", "trapezoidal published", "*Amused*")
    done: list[str] = []

    def interrupt(phase, at, all_, text):
        done.append(text)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(options(model, tmp_path / "run", samplers=words), told=interrupt)
    outcome, lines = run(options(model, tmp_path / "run", samplers=words), str(tmp_path / "copy.json"))
    again, _ = run(options(model, tmp_path / "other", samplers=words))
    assert figures(outcome.rows) == figures(again.rows)
    assert len(outcome.rows) == 3
    assert len(lines) == 1
    assert "FID token-adams-bashforth" in lines[0]
    for row in outcome.rows:
        assert row["samples"] == 6
        assert row["calls"] == 4
        assert row["fid"] > 0
        assert 0 <= row["garment_accuracy"] <= 1
        assert row["fid_spread"] is not None
        assert all(isinstance(value, int | float | str | bool | None) for value in row.values())
    report = json.loads((tmp_path / "copy.json").read_text())
    assert report["rows"] == outcome.rows
    assert report["settings"]["schedule"] == "cosine"
    assert {file.name for file in outcome.files} >= {"results.json", "table.md", "table.csv", "quality.png"}


def test_accuracy_is_the_judges(model, tmp_path):
    task = TokenTask(options(model, tmp_path))
    pictures = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = task.problem.judged(pictures, range(4, 10))
    answers = task.problem.judge.answers(pictures)
    right = [task.problem.answers["colour"][i] for i in range(4, 10)]
    assert found["colour_right"].tolist() == (answers["colour"] == torch.tensor(right)).float().tolist()


def test_keys_hold_what_decides_a_picture(model, tmp_path):
    def keys(**more):
        return [planned.cell.key for planned in TokenTask(options(model, tmp_path, **more)).plan()]

    base = keys()
    assert len(set(base)) == len(base) == len(contenders("masked", "pictures"))
    for more in ({"seed": 1}, {"guidance": (2.0,)}, {"nfe": (5,)}, {"batch": 2}, {"save_pictures": True}):
        assert not set(keys(**more)) & set(base), more
    assert keys(count=9) == base


def test_pictures_can_be_kept(model, tmp_path):
    run(options(model, tmp_path / "run", samplers=("tweedie",), seeds=1, save_pictures=True))
    assert len(list((tmp_path / "run" / "pictures" / "tweedie-g1-4").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"judge": None}, "brings no judge of its own"),
        ({"judge": "verses"}, "the judge of token pictures is garments"),
        ({"model": "garments"}, "tokens are measured on an AmusedPipeline"),
        ({"model": "garmets-tokens"}, "did you mean"),
        ({"samplers": ("maskgit",)}, "on pictures"),
        ({"guidance": (float("nan"),)}, "guidance must be"),
        ({"guidance": ()}, "at least one guidance"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(model, tmp_path, more, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run(options(more.get("model", model), tmp_path, **{k: v for k, v in more.items() if k != "model"}))
