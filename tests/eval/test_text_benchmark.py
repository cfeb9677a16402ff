"""The benchmark of text samplers: its rows are those of its texts, it stops, goes on and is shared, and refuses."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.eval.task_run import over_seeds, run_task, split_by_seed
from fewstep.eval.tasks import main, options_of, run
from fewstep.eval.text_judge import ngram_law, perplexity, total_variation, unigram_entropy
from fewstep.eval.text_run import TextOptions, TextTask

sys.path.append(str(Path(__file__).parent))

COST = ("seconds", "solver_microseconds")
SCHEMA = {"command", "versions", "machine", "settings", "rows"}


def figures(rows):
    return [{key: value for key, value in row.items() if key not in COST} for row in rows]


def options(out, **more):
    given = {"model": "oracle:chain:0.6", "samplers": ("token-adams-bashforth", "tweedie", "*Amused*"), "nfe": (4, 8)}
    return TextOptions(**{**given, "count": 4, "seeds": 3, "batch": 5, "length": 16, "out": str(out), **more})


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    import tiny_text

    folder = tmp_path_factory.mktemp("text")
    (folder / "real.txt").write_text("abcd efgh\n" * 60)
    (folder / "prompts.txt").write_text("abc\nde fg\n")
    return folder, *tiny_text.save_pair(folder)


def test_rows_are_the_figures_of_the_texts(tmp_path):
    made = options(tmp_path / "run", samplers=("tweedie",), nfe=(6,))
    task = TextTask(made)
    outcome = run_task(task, str(tmp_path / "copy.json"))
    (row,) = outcome.rows
    texts: list[str] = []
    for items in task.plan()[0].cell.parts:
        texts += task.compute(task.plan()[0], items)["texts"].tolist()
    assert len(texts) == row["samples"] == 12
    score = task.model.score(texts)
    each = [perplexity(score.nats[p], score.tokens[p]) for p in split_by_seed(12, 3)]
    assert row["perplexity"] == pytest.approx(np.mean(each), rel=1e-4)
    assert row["perplexity_spread"] == pytest.approx(np.std(each, ddof=1), rel=1e-2)
    assert row["bits_per_character"] == pytest.approx(np.mean(np.log2(each)), rel=1e-4)
    assert row["entropy"] == pytest.approx(np.mean([unigram_entropy(text) for text in texts]), rel=1e-4)
    variation = [total_variation(ngram_law(texts[p], 3), task.model.law(3)) for p in split_by_seed(12, 3)]
    assert row["trigram_tv"] == pytest.approx(np.mean(variation), rel=1e-4)
    assert row["calls"] == 6
    assert row["calls_a_text"] + row["skipped"] == pytest.approx(6, rel=1e-3)
    report = json.loads((tmp_path / "copy.json").read_text())
    assert set(report) == SCHEMA
    assert report["rows"] == outcome.rows
    assert report["settings"]["reference_perplexity"] == pytest.approx(task.model.perplexity(), abs=1e-4)
    assert report["command"] == (
        "fewstep benchmark --task text --model oracle:chain:0.6 --samplers tweedie --nfe 6 --count 4 --batch 5 "
        "--length 16"
    )
    assert all(isinstance(value, int | float | str | bool | None) for value in row.values())  # flat


def test_files_hold_the_rows(tmp_path):
    outcome, lines = run(options(tmp_path / "run"))
    names = {"results.json", "table.md", "table.csv", "quality.png", "quality.svg"}
    assert {file.name for file in outcome.files} == names
    assert len(outcome.rows) == 6
    assert {row["origin"] for row in outcome.rows} == {"own", "published", "diffusers"}
    with (tmp_path / "run" / "table.csv").open() as file:
        assert [float(line["perplexity"]) for line in csv.DictReader(file)] == [r["perplexity"] for r in outcome.rows]
    assert (tmp_path / "run" / "table.md").read_text().count("\n") == 8
    assert any(line.startswith("4 calls: perplexity token-adams-bashforth") for line in lines)


def test_a_run_that_was_stopped_goes_on_and_comes_out_the_same(tmp_path):
    done: list[str] = []

    def interrupt(phase, at, all_, text):
        done.append(text)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(options(tmp_path / "run"), told=interrupt)
    stopped, _ = run(options(tmp_path / "run", limit_time=0.0), str(tmp_path / "no.json"))
    assert not stopped.complete
    assert not (tmp_path / "no.json").exists()
    assert len(stopped.rows) == 1
    parts: list[str] = []
    whole, _ = run(options(tmp_path / "run"), told=lambda phase, at, all_, text: parts.append(text))
    assert len(parts) == 6 * 3 - 4
    assert figures(whole.rows) == figures(run(options(tmp_path / "other"))[0].rows)


def test_what_decides_a_figure_is_in_the_key_of_its_cell(tmp_path):
    def keys(**more):
        return [planned.cell.key for planned in TextTask(options(tmp_path, **more)).plan()]

    base = keys()
    assert len(set(base)) == len(base) == 6
    assert keys(nfe=(8, 4)) == [*base[3:], *base[:3]]
    for more in ({"seed": 1}, {"length": 17}, {"temperature": 0.9}, {"top_p": 0.9}, {"batch": 4}, {"seeds": 2},
                 {"model": "oracle:chain:0.61"}):  # fmt: skip
        assert not set(keys(**more)) & set(base), more
    for more in ({"limit_time": 9.0}, {"processes": 2}, {"count": 5}):
        assert keys(**more) == base, more


def test_two_processes_make_what_one_makes(tmp_path):
    alone, _ = run(options(tmp_path / "one", nfe=(4,)))
    shared, _ = run(options(tmp_path / "two", nfe=(4,), processes=2))
    assert figures(shared.rows) == figures(alone.rows)


def test_a_language_model_is_sampled_judged_and_compared_with_real_text(pair, tmp_path):
    from transformers import AutoModelForMaskedLM

    folder, model, judge = pair
    made = options(tmp_path / "run", model=str(model), judge=str(judge), prompts=str(folder / "prompts.txt"),
                   reference=str(folder / "real.txt"), samplers=("all",), nfe=(5,), count=2, length=24)  # fmt: skip
    task = TextTask(made)
    weights = AutoModelForMaskedLM.from_pretrained(model).state_dict()
    assert all(torch.equal(weights[key], value) for key, value in task.model.network.state_dict().items())
    outcome = run_task(task)
    assert not any(row.get("error") for row in outcome.rows)
    assert {row["sampler"] for row in outcome.rows} >= {"maskgit", "rk2", "diffusers BlockRefinementScheduler"}
    for row in outcome.rows:
        assert row["calls"] <= 5
        assert math.isfinite(row["perplexity"])
        assert 0 < row["trigram_tv"] <= 1
    texts = task.compute(task.plan()[0], range(0, 4))["texts"].tolist()
    assert [len(text) for text in texts] == [21, 19, 21, 19]  # without the prompts
    assert not any("[" in text for text in texts)  # no special token is ever drawn
    assert any("DiscreteDDIMScheduler is for uniform noise" in note for note in outcome.notes)
    assert task.settings()["reference_trigram_tv"] < 0.1  # real text repeats itself


def test_a_model_that_reads_ends_around_a_text_is_shown_them(pair):
    import tiny_text
    from transformers import AutoModelForMaskedLM

    from fewstep.eval.text_models import MaskedText

    tokenizer = tiny_text.tokenizer()
    tokenizer.cls_token, tokenizer.sep_token = "[PAD]", "[UNK]"
    network = AutoModelForMaskedLM.from_pretrained(pair[1])
    model = MaskedText(network, tokenizer)
    tokens = model.start(["abc"], 6)
    by_hand = network(input_ids=torch.tensor([[11, *tokens[0].tolist(), 12]])).logits[:, 1:-1]
    assert torch.allclose(model(tokens, 0.5)[..., :10], by_hand[..., :10])
    assert torch.isneginf(model(tokens, 0.5)[..., 10:]).all()
    with pytest.raises(ValueError, match="has 46 positions"):
        model.start([""], 47)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"model": "versus"}, "brings no judge of its own"),
        ({"model": "versus", "judge": "x"}, "no model 'x'|no model 'versus'"),
        ({"samplers": ("tweddie",)}, "did you mean 'tweedie'"),
        ({"samplers": ("diffusers DiscreteDDIMScheduler",)}, "never seen them"),
        ({"nfe": ()}, "name at least one"),
        ({"nfe": (0,)}, "nfe must be"),
        ({"nfe": (1,), "samplers": ("euler", "rk2")}, "so few network calls"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"top_p": 1.5}, "top_p must be in"),
        ({"length": 1}, "length must be"),
        ({"seeds": 0}, "seeds must be"),
        ({"limit_time": float("nan")}, "limit_time must be"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"judge": "gpt2"}, "an exact model that judges itself; leave --judge away"),
        ({"model": "oracle:chain:nope:2"}, "masked or uniform"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(tmp_path, more, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run(options(tmp_path / "run", **more))
    assert not (tmp_path / "run" / "results.json").exists()


def test_folders_and_files_that_do_not_fit_are_refused(pair, tmp_path):
    folder, model, judge = pair
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long.txt").write_text("abc" * 20)
    (tmp_path / "strange.txt").write_text("xyz")
    fit = {"model": str(model), "judge": str(judge)}
    for more, sentence in (
        ({**fit, "judge": str(tmp_path / "empty")}, "holds no config.json"),
        ({**fit, "judge": str(model)}, "reads what comes after"),  # a BERT can be loaded as a causal model
        ({**fit, "model": str(tmp_path / "empty")}, "holds no config.json"),
        ({**fit, "reference": str(tmp_path / "bytes.txt")}, "not a text file in UTF-8"),
        ({**fit, "reference": str(tmp_path / "none.txt")}, "there is no reference text"),
        ({**fit, "prompts": str(tmp_path / "long.txt")}, "60 tokens, and the length is 16"),
        ({**fit, "prompts": str(tmp_path / "strange.txt")}, "does not know"),
        ({**fit, "length": 500}, "has 48 positions"),
        ({**fit, "out": str(folder / "real.txt")}, "is a file"),
    ):
        given = dict(more)
        with pytest.raises((ValueError, OSError), match=sentence):
            run(options(given.pop("out", tmp_path / "run"), **given))
    with pytest.raises(IsADirectoryError, match="is a folder; --json"):
        run(options(tmp_path / "run"), str(tmp_path))


def test_the_module_takes_the_same_options(tmp_path, capsys):
    words = ["text", "--model", "oracle:chain:0.5", "--samplers", "tweedie,euler", "--nfe", "3", "--count", "2"]
    words += ["--length", "8", "--seeds", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["sampler"] for row in rows] == ["tweedie", "euler"]
    assert rows[0]["perplexity_spread"] is None  # one seed has no spread
    assert main(["txet"]) == 2
    assert "did you mean 'text'" in capsys.readouterr().err
    assert main([]) == 2
    with pytest.raises(ValueError, match="--grids cannot be had with --task text"):
        options_of("text", {"grids": "all"})
    assert options_of("text", {"nfe": "4,8", "samplers": "own,rk2", "length": 9}).nfe == (4, 8)


def test_means_and_spreads_over_seeds():
    assert over_seeds([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert over_seeds([1.5]) == (1.5, None)
    assert over_seeds([1.0, None]) == over_seeds([1.0, math.inf]) == (None, None)
    assert split_by_seed(6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]
