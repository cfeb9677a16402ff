"""Loading models and swapping samplers, against diffusers' own schedulers and pipelines."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from fewstep.pipelines import (
    DEFAULT_SAMPLER,
    GRIDS,
    generate,
    guidance_settings,
    load,
    set_guidance,
    set_sampler,
    shipped_models,
)
from fewstep.pipelines import loading as loading_module
from fewstep.samplers import GHVB, generators, scheduler_class

SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def pixels(images: list[Any]) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def by_diffusers(folder: Path, scheduler: Any, steps: int = 8, seeds: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Pictures of diffusers alone: its pipeline, its scheduler, its loop."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler(pipe.scheduler.config)
    result = pipe(["a boot"] * len(seeds), num_inference_steps=steps, guidance_scale=4.0, generator=generators(seeds))
    return pixels(result.images)


@pytest.mark.parametrize(
    ("sampler", "name", "options"),
    [
        ("dpm++ 2m", "DPMSolverMultistepScheduler", {}),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("dpmpp_2m trailing", "DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
        ("ddim trailing", "DDIMScheduler", {"timestep_spacing": "trailing"}),
        ("dpm solver++ linspace", "DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
    ],
)
def test_sampler_by_name_makes_the_pictures_of_diffusers(
    tiny_folder: Path, sampler: str, name: str, options: dict[str, Any]
) -> None:
    pipe = load(tiny_folder, sampler, device="cpu")
    ours = pixels(generate(pipe, "a boot", steps=8, guidance=4.0, count=2).images)
    theirs = by_diffusers(tiny_folder, lambda config: getattr(diffusers, name).from_config(config, **options))
    assert abs(ours - theirs).max() <= 1
    other = by_diffusers(tiny_folder, diffusers.LMSDiscreteScheduler.from_config)
    assert abs(ours - other).max() > 1  # random weights do tell samplers apart


def test_a_scheduler_of_diffusers_by_name_is_that_scheduler(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, "diffusers:UniPCMultistepScheduler", device="cpu", solver_order=3)
    assert type(pipe.scheduler) is diffusers.UniPCMultistepScheduler
    ours = pixels(generate(pipe, "a boot", steps=8, guidance=4.0, count=2).images)
    theirs = by_diffusers(
        tiny_folder, lambda config: diffusers.UniPCMultistepScheduler.from_config(config, solver_order=3)
    )
    assert (ours == theirs).all()


def test_default_sampler_and_method_objects(pipe: Any) -> None:
    assert type(pipe.scheduler) is scheduler_class(DEFAULT_SAMPLER)
    method = GHVB(momentum=3.5, weights="moment-matched")
    assert set_sampler(pipe, method) is pipe
    assert pipe.scheduler.method == method
    assert set_sampler(pipe, method, momentum=2.5).scheduler.method == dataclasses.replace(method, momentum=2.5)


def test_swap_keeps_the_forward_process(pipe: Any, tiny_folder: Path) -> None:
    stored = json.loads((tiny_folder / "scheduler" / "scheduler_config.json").read_text())
    for sampler in ("ghvb", "diffusers:EulerDiscreteScheduler", "lml", "diffusers:HeunDiscreteScheduler", "ddim"):
        config = set_sampler(pipe, sampler).scheduler.config
        for key in (
            "beta_start",
            "beta_end",
            "beta_schedule",
            "prediction_type",
            "steps_offset",
            "num_train_timesteps",
        ):
            assert config[key] == stored[key], (sampler, key)
    assert set_sampler(pipe, "diffusers:DDIMScheduler").scheduler.config.clip_sample is False


@pytest.mark.parametrize("grid", list(GRIDS))
def test_a_grid_clears_the_others(pipe: Any, grid: str) -> None:
    for sampler in ("dpm++ 2m karras", "diffusers:DPMSolverMultistepScheduler"):
        set_sampler(pipe, sampler, "beta")
        config = set_sampler(pipe, sampler, grid).scheduler.config
        on = {key for key in SWITCHES if config[key]}
        assert on == {key for key, value in GRIDS[grid].items() if value is True}
        if grid in ("linspace", "leading", "trailing"):
            assert config.timestep_spacing == grid


def test_fields_of_one_method_do_not_reach_the_next(pipe: Any) -> None:
    set_sampler(pipe, "ghvb", momentum=3.5, weights="moment-matched")
    assert set_sampler(pipe, "plms").scheduler.method.weights == "fixed"
    assert set_sampler(pipe, "ghvb").scheduler.method == GHVB()
    config = set_sampler(pipe, "diffusers:DDIMScheduler").scheduler.config
    assert not {"_method", "process", "momentum", "weights"} & set(config)


def test_guidance_scale_follows_the_run_until_it_is_set(pipe: Any) -> None:
    def picture(guidance: float, **fields: Any) -> np.ndarray:
        set_sampler(pipe, "ghvb auto", **fields)
        return pixels(generate(pipe, "a boot", steps=8, guidance=guidance).images)

    assert (picture(12.0) == picture(12.0, guidance_scale=12)).all()
    # the weights are random, so that guidance of the network alone moves few pixels: look at the coefficients
    from fewstep.pipelines.generation import own_run

    set_sampler(pipe, "ghvb auto")
    assert own_run(pipe, 12.0).scheduler.method.guidance_scale == 12.0
    assert pipe.scheduler.method.guidance_scale == GHVB().guidance_scale
    set_sampler(pipe, "ghvb auto", guidance_scale=4)
    assert own_run(pipe, 12.0).scheduler.method.guidance_scale == 4


def test_swaps_log_nothing(pipe: Any) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("diffusers").addHandler(handler)
    try:
        for sampler in (
            "ghvb",
            "diffusers:UniPCMultistepScheduler",
            "diffusers:LMSDiscreteScheduler",
            "heavy-ball",
            "lml",
        ):
            set_sampler(pipe, sampler, "karras")
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert not [record.getMessage() for record in records]


def test_a_fresh_process_loads_in_silence(tiny_folder: Path) -> None:
    code = f"from fewstep.pipelines import load; load({str(tiny_folder)!r}, 'ghvb', device='cpu')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_quiet_puts_the_loudness_back(tiny_folder: Path) -> None:
    diffusers.utils.logging.set_verbosity_warning()
    diffusers.utils.logging.enable_progress_bar()
    load(tiny_folder, device="cpu")
    assert diffusers.utils.logging.get_verbosity() == logging.WARNING
    assert diffusers.utils.logging.is_progress_bar_enabled()


def test_a_saved_pipeline_comes_back_with_its_sampler(pipe: Any, tmp_path: Path) -> None:
    set_sampler(pipe, "ghvb karras", momentum=3.5).save_pretrained(tmp_path / "saved")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert again.scheduler.method == GHVB(momentum=3.5)
    assert type(load(tmp_path / "saved", device="cpu").scheduler) is scheduler_class(DEFAULT_SAMPLER)


def test_a_distilled_model_keeps_its_scheduler_until_told_otherwise(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "lcm")
    index = json.loads((tmp_path / "lcm" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "LCMScheduler"]
    (tmp_path / "lcm" / "model_index.json").write_text(json.dumps(index))
    assert type(load(tmp_path / "lcm", device="cpu").scheduler) is diffusers.LCMScheduler
    assert type(load(tmp_path / "lcm", "ddim", device="cpu").scheduler) is scheduler_class("ddim")


def test_unknown_model_names_the_nearest(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    monkeypatch.setattr(loading_module, "shipped_models", lambda: {"garments": tiny_folder})
    with pytest.raises(FileNotFoundError, match=r"no model 'garmets'.*did you mean 'garments'"):
        load("garmets")


@pytest.mark.parametrize("name", ["no/such/folder/here", "./gone", "/gone/away", ""])
def test_missing_folders_never_reach_the_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError)):
        load(name)


def test_folders_without_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model_index\.json"):
        load(tmp_path)
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        load(tmp_path / "model.bin")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(tmp_path)


class Payload:
    """What a hostile pickle would do."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.mark),))


def test_pickled_weights_are_never_opened(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with open(weights.with_suffix(".bin"), "wb") as file:
        pickle.dump(Payload(str(tmp_path / "mark")), file)
    with pytest.raises(ValueError, match="could not be loaded"):
        load(tmp_path / "model", device="cpu")
    assert not (tmp_path / "mark").exists()


def test_code_in_a_model_is_never_run(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    index["scheduler"] = ["hostile", "Scheduler"]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "model" / "scheduler" / "hostile.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(tmp_path / "model", device="cpu")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sampler": "ghvv"}, "unknown sampler 'ghvv', did you mean 'ghvb'"),
        ({"sampler": "ghvb", "momentun": 2}, "no field 'momentun', did you mean 'momentum'"),
        ({"sampler": "ghvb", "momentum": 7.2}, r"momentum must be in \(0, 5\] or 'auto', got 7.2"),
        ({"sampler": "ghvb", "euler_at_final": "maybe"}, "euler_at_final must be True or False"),
        ({"sampler": 3}, "a sampler is a name or a Method"),
        ({"sampler": "diffusers:UniPC"}, "did you mean 'diffusers:UniPCMultistepScheduler'"),
        ({"sampler": "diffusers:AutoencoderKL"}, "diffusers has no scheduler"),
        ({"sampler": "diffusers:DDIMScheduler", "solver_order": 2}, "DDIMScheduler has no option 'solver_order'"),
        ({"sampler": "diffusers:DDIMScheduler", "grid": "karras"}, "no option 'use_karras_sigmas'"),
        (
            {"sampler": "diffusers:FlowMatchEulerDiscreteScheduler"},
            "is for flow-matching models, and this one is a variance-preserving model",
        ),
        ({"grid": "karas"}, "unknown grid 'karas', did you mean 'karras'"),
        ({"dtype": "float12"}, "dtype must be float32, float16 or bfloat16, got 'float12'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, "this machine has no device 'cuda:99'"),
    ],
)
def test_errors_are_sentences(tiny_folder: Path, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load(tiny_folder, **{"device": "cpu", **arguments})


@pytest.mark.skipif("garments" not in shipped_models(), reason="the package holds no model yet")
def test_the_shipped_model_loads_by_name_and_follows_its_prompt() -> None:
    pipe = load(device="cpu")
    assert next(pipe.unet.parameters()).dtype == torch.float32
    made = generate(pipe, ["a red dress on a white background", "a blue dress on a black background"], count=2, steps=8)
    assert made.settings["model"] == "garments"
    assert made.settings["guidance"] == 3.0
    red, blue, red_too, blue_too = pixels(made.images)
    for on_white, on_black in ((red, blue), (red_too, blue_too)):
        assert on_white[0, 0].mean() > 170 > 85 > on_black[0, 0].mean()  # the corners show the background
        middle = on_white[8:24, 12:20].mean((0, 1))
        assert middle[0] > middle[2]
        middle = on_black[8:24, 12:20].mean((0, 1))
        assert middle[2] > middle[0]


def test_guidance_comes_with_loading(tiny_folder: Path) -> None:
    pipe = load(tiny_folder, guidance="cfg-zero", interval="0.5,5", device="cpu")
    settings = guidance_settings(pipe)
    assert (settings.mode, settings.zero_init_steps, str(settings.interval)) == ("cfg-zero", 0, "0.5,5.0")
    assert guidance_settings(load(tiny_folder, device="cpu")).mode == "cfg"
    one = generate(pipe, "a boot", steps=4, guidance=4.0)
    other = generate(
        set_guidance(load(tiny_folder, device="cpu"), "cfg-zero", (0.5, 5)), "a boot", steps=4, guidance=4.0
    )
    assert (pixels(one.images) == pixels(other.images)).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"guidance": "cfgzero"}, "did you mean 'cfg-zero'"), ({"interval": "1"}, '"LO,HI"')],
)
def test_guidance_is_checked_before_a_model_is_loaded(
    arguments: dict[str, Any], sentence: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading_module, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=sentence):
        load(tiny_folder, **arguments)
