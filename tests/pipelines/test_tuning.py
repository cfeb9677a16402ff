"""Tuning of pipelines, and recipes as samplers."""

import json
import sys
import warnings

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.pipelines import generate, load, load_model, set_sampler, tune_pipeline
from fewstep.pipelines.recipes import is_recipe, read_recipe
from fewstep.samplers import AdamsBashforth, ExponentialAdams, Tuned, TunedScheduler

PROMPTS = ["a red dress on a white background", "a blue bag on a black background"] * 3


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Of the shipped model, for 3 and 4 calls, and the file it was written to."""
    made = tune_pipeline(load_model("garments"), (4, 3), count=4, rounds=1, guidance=2.0, trajectory=61)
    file = tmp_path_factory.mktemp("recipe") / "recipe.json"
    made.save(file)
    return made, file


def test_what_is_reported_is_what_the_recipe_reaches_on_noise_and_prompts_held_out(recipe):
    """The error in the report, found again through load() alone against 100 steps of another solver."""
    made, file = recipe
    held = made.config["_tuning"]["held_out"]
    assert set(held) == {"3", "4"}
    from fewstep.pipelines.tuning import usual_prompts

    pipe = load("garments", sampler=str(file))
    prompts = usual_prompts(pipe, 8)[1::2]
    seeds = range(1_000_004, 1_000_008)

    def latents(steps):
        return pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(s) for s in seeds],
            output_type="latent",
        ).images

    ours = {n: latents(n) for n in (3, 4)}
    set_sampler(pipe, ExponentialAdams(order=2), "karras")
    truth = latents(100)
    for n, end in ours.items():
        error = float((end - truth).square().mean().sqrt())
        assert error == pytest.approx(held[str(n)]["tuned"]["rmse"], rel=0.05)


def test_the_recipe_loads_everywhere(recipe):
    made, file = recipe
    scheduler = TunedScheduler.from_pretrained(str(file))
    scheduler.set_timesteps(4)
    by_hand = set_sampler(load_model("garments"), str(file)).scheduler
    by_hand.set_timesteps(4)
    assert scheduler.timesteps.tolist() == by_hand.timesteps.tolist()
    assert scheduler.method == by_hand.method
    assert len(scheduler.method.table) == 2
    assert scheduler.timesteps[0] == pytest.approx(999)
    assert json.loads(json.dumps(made.config)) == json.loads(file.read_text())


def test_a_saved_pipeline_keeps_it(recipe, tmp_path):
    _, file = recipe
    pipe = load("garments", sampler=str(file))
    pipe.save_pretrained(tmp_path / "own")
    again = load_model(tmp_path / "own")
    assert isinstance(again.scheduler, TunedScheduler)
    assert again.scheduler.method == pipe.scheduler.method
    a, b = (generate(p, PROMPTS[0], steps=3, guidance=2.0).images[0] for p in (pipe, again))
    assert a.tobytes() == b.tobytes()


def test_another_guidance_is_a_warning_and_another_noise_schedule_an_error(recipe, tmp_path):
    _, file = recipe
    pipe = load("garments", sampler=str(file))
    with pytest.warns(UserWarning, match="tuned for guidance 2; at 5"):
        generate(pipe, PROMPTS[0], steps=3, guidance=5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(pipe, PROMPTS[0], steps=3, guidance=2.0)
    generate(set_sampler(pipe, "ddim"), PROMPTS[0], steps=3, guidance=5.0)
    other = load_model("garments")
    other.scheduler = DDIMScheduler.from_config(other.scheduler.config, beta_end=0.02, beta_schedule="linear")
    with pytest.raises(ValueError, match="made for another noise schedule"):
        set_sampler(other, str(file))
    assert isinstance(other.scheduler, DDIMScheduler)


def test_the_prompts_of_a_shipped_model_are_all_different():
    from fewstep.pipelines.tuning import usual_prompts

    found = usual_prompts(load_model("garments"), 1000)
    assert len(found) == len(set(found)) == 500


def test_other_numbers_of_calls_are_refused_and_other_samplers_are_not_bound(recipe):
    _, file = recipe
    pipe = load("garments", sampler=str(file))
    with pytest.raises(ValueError, match="for 3, 4 network calls, not for 5"):
        generate(pipe, PROMPTS[0], steps=5)
    with pytest.raises(ValueError, match="takes no grid"):
        set_sampler(pipe, str(file), "karras")
    generate(set_sampler(pipe, "ghvb"), PROMPTS[0], steps=5)


def test_a_run_that_is_stopped_has_kept_what_it_found(tmp_path):
    file = tmp_path / "recipe.json"

    def stop(line):
        if line.startswith("4 calls"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_pipeline(
            load_model("garments"), [4, 3], count=2, rounds=0, trajectory=31, report=stop, keep=lambda r: r.save(file)
        )
    found = read_recipe(file)
    assert set(found.noise_levels) == {"3"}
    assert len(generate(load("garments", sampler=file), PROMPTS[0], steps=3).images) == 1


def test_without_scipy_the_grid_that_needs_it_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    made = tune_pipeline(load_model("garments"), [3], count=2, rounds=0, trajectory=31)
    grids = {row["grid"] for row in made.rows}
    assert "beta" not in grids
    assert {"tuned", "karras", "trailing"} < grids


def test_levels_for_a_named_method(tmp_path):
    made = tune_pipeline(load_model("garments"), [4], count=2, rounds=0, method=AdamsBashforth(order=2), trajectory=31)
    file = tmp_path / "levels.json"
    made.save(file)
    found = read_recipe(file)
    assert found.method == AdamsBashforth(order=2)
    scheduler = load("garments", sampler=file).scheduler
    scheduler.set_timesteps(4)
    pairs = found.noise_levels["4"]
    assert scheduler.timesteps.tolist() == pytest.approx([t for _, t in pairs])
    assert scheduler.sigmas[:-1].tolist() == pytest.approx([s for s, _ in pairs])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a sampler's configuration"),
        ("[]", "not a sampler's configuration"),
        ('{"a": 1}', "not a sampler's configuration"),
        ('{"_class_name": "DDIMScheduler"}', "a recipe is one of"),
        ('{"_class_name": "TunedScheduler", "table": [[[1.0], [2.0]]]}', "damaged: the noise levels"),
        ('{"_class_name": "TunedScheduler", "noise_levels": {"3": [[1.0, 2.0]]}}', "damaged: noise_levels has 1"),
        ('{"_class_name": "TunedScheduler", "noise_levels": 5}', "damaged: noise_levels must map"),
        ('{"_class_name": "TunedScheduler", "noise_levels": {"1": [[1.0, 2000.0]]}}', "damaged: .* was trained with"),
        ('{"_class_name": "TunedScheduler", "noise_levels": {"1": [[-1.0, 20.0]]}}', "damaged: .* stay above 0"),
        ('{"_class_name": "TunedScheduler", "noise_levels": {"1": [[NaN, 20.0]]}}', "damaged: .* stay above 0"),
    ],
)
def test_damaged_recipes_are_sentences(tmp_path, text, words):
    file = tmp_path / "bad.json"
    file.write_text(text)
    assert is_recipe(file)
    with pytest.raises(ValueError, match=words):
        read_recipe(file)


def test_a_recipe_for_another_process_is_refused(tmp_path):
    file = tmp_path / "flow.json"
    TunedScheduler(process="flow", noise_levels={"2": [[1.0, 1000.0], [0.5, 500.0]]}).save_config(tmp_path / "flow")
    (tmp_path / "flow" / "scheduler_config.json").rename(file)
    with pytest.raises(ValueError, match="made for a flow model, and this one is a vp model"):
        load("garments", sampler=str(file))
    with pytest.raises(FileNotFoundError, match="no recipe"):
        load("garments", sampler=str(tmp_path / "none.json"))


def test_bad_requests_are_sentences(pipe):
    with pytest.raises(ValueError, match="between 1 and 60"):
        tune_pipeline(pipe, [0], prompts=PROMPTS)
    with pytest.raises(ValueError, match="between 1 and 60"):
        tune_pipeline(pipe, [61], prompts=PROMPTS)
    with pytest.raises(ValueError, match="at least 2 pictures"):
        tune_pipeline(pipe, [4], prompts=PROMPTS, count=1)
    with pytest.raises(ValueError, match="needs prompts"):
        tune_pipeline(pipe, [4])
    with pytest.raises(ValueError, match="at least two prompts"):
        tune_pipeline(pipe, [4], prompts=PROMPTS[:1])
    assert Tuned().table == ()
