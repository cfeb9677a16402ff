"""Swapping schedulers by configuration: the process, the betas and the fields that survive, and what is refused."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

import fewstep.samplers as fs
from fewstep.samplers.core.process import EDM, Flow, VPDiscrete

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' sigma classes under NumPy 2

OURS = [f"{cls.__name__}Scheduler" for cls in fs.methods().values()]
DEPRECATED = {
    "KarrasVeScheduler": "diffusers.schedulers.deprecated.scheduling_karras_ve",
    "ScoreSdeVpScheduler": "diffusers.schedulers.deprecated.scheduling_sde_vp",
}
KARRAS = [member.name for member in KarrasDiffusionSchedulers]

#: Flow-matching sources: class name and constructor arguments.
FLOW = {
    "FlowMatchEuler": ("FlowMatchEulerDiscreteScheduler", {}),
    "FlowMatchEuler shift 3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "FlowMatchEuler Flux": (
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256},
    ),
    "FlowMatchHeun": ("FlowMatchHeunDiscreteScheduler", {}),
    "FlowMatchHeun shift 3": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "UniPC Wan": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
    "DPMSolver Sana": (
        "DPMSolverMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
}


def made(name: str, **options: Any) -> Any:
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    place = diffusers if hasattr(diffusers, name) else importlib.import_module(DEPRECATED[name])
    return getattr(place, name)(**options)


def ours(name: str) -> Any:
    return getattr(fs, name)


@contextmanager
def config_warnings() -> Iterator[list[str]]:
    """What `diffusers.configuration_utils` logs as a warning inside the block."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("target", OURS)
@pytest.mark.parametrize("source", KARRAS)
def test_swap_from_every_karras_scheduler_and_back(source: str, target: str, tmp_path: Path) -> None:
    """No warning, the source's betas and prediction, the right process; the way back restores the source."""
    src = made(source)
    src.save_pretrained(tmp_path)
    with config_warnings() as said:
        live, saved = ours(target).from_config(src.config), ours(target).from_pretrained(tmp_path)
        back = type(src).from_config(live.config)
    assert said == []
    for swapped in (live, saved):
        if source == "EDMEulerScheduler":
            assert isinstance(swapped.process, EDM)
            assert (swapped.process.sigma_min, swapped.process.sigma_max) == (0.002, 80.0)
        else:
            assert isinstance(swapped.process, VPDiscrete)
            torch.testing.assert_close(swapped.alphas_cumprod, src.alphas_cumprod, rtol=2e-5, atol=1e-7)
            torch.testing.assert_close(swapped.betas, src.betas, rtol=2e-5, atol=1e-7)
    mine = {k: v for k, v in src.config.items() if not k.startswith("_")}
    assert {k: v for k, v in back.config.items() if k in mine} == mine


@pytest.mark.parametrize(
    "source", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]
)
def test_beta_defaults_of_the_source_survive_although_they_differ(source: str) -> None:
    src = made(source)
    swapped = fs.GHVBScheduler.from_config(src.config)
    assert (swapped.config.beta_start, swapped.config.beta_end) == (0.00085, 0.012)
    assert (src.config.beta_start, src.config.beta_end) == (0.00085, 0.012)
    again = type(src).from_config(swapped.config)
    torch.testing.assert_close(again.betas, src.betas, rtol=0, atol=0)


@pytest.mark.parametrize("target", OURS)
@pytest.mark.parametrize("source", FLOW)
def test_a_flow_configuration_gives_a_flow(source: str, target: str, tmp_path: Path) -> None:
    name, options = FLOW[source]
    src = made(name, **options)
    src.save_pretrained(tmp_path)
    shift = options.get("shift", options.get("flow_shift", 1.0))
    with config_warnings() as said:
        live, saved = ours(target).from_config(src.config), ours(target).from_pretrained(tmp_path)
        back = type(src).from_config(live.config)
    assert said == []
    for swapped in (live, saved):
        assert isinstance(swapped.process, Flow)
        assert swapped.process.prediction == "flow_prediction"
        assert swapped.config.prediction_type == "flow_prediction"
        assert swapped.shift == shift
        assert not hasattr(swapped, "betas")
        assert swapped.config.use_dynamic_shifting == options.get("use_dynamic_shifting", False)
    mine = {k: v for k, v in src.config.items() if not k.startswith("_")}
    assert {k: v for k, v in back.config.items() if k in mine} == mine


def test_flow_sigmas_with_an_epsilon_network_stay_epsilon(tmp_path: Path) -> None:
    """prediction_type is a value of the source even where it is its default, live and saved alike."""
    src = made("UniPCMultistepScheduler", use_flow_sigmas=True)
    src.save_pretrained(tmp_path)
    for swapped in (fs.GHVBScheduler.from_config(src.config), fs.GHVBScheduler.from_pretrained(tmp_path)):
        assert isinstance(swapped.process, Flow)
        assert swapped.process.prediction == "epsilon"


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_an_edm_configuration_gives_edm(name: str, tmp_path: Path) -> None:
    src = made(name)
    src.save_pretrained(tmp_path)
    for swapped in (fs.LMLScheduler.from_config(src.config), fs.LMLScheduler.from_pretrained(tmp_path)):
        process = swapped.process
        assert isinstance(process, EDM)
        assert (process.sigma_min, process.sigma_max) == (src.config.sigma_min, src.config.sigma_max)
        assert process.sigma_data == src.config.sigma_data
        assert process.prediction == ("edm_v" if src.config.prediction_type == "v_prediction" else "edm")


@pytest.mark.parametrize(
    ("kind", "src"),
    [
        (VPDiscrete, lambda: made("DDIMScheduler", beta_schedule="scaled_linear", prediction_type="v_prediction")),
        (VPDiscrete, lambda: made("HeunDiscreteScheduler")),
        (Flow, lambda: made("FlowMatchEulerDiscreteScheduler")),
        (Flow, lambda: made("FlowMatchEulerDiscreteScheduler", shift=3.0)),
        (EDM, lambda: made("EDMEulerScheduler", sigma_max=40.0)),
        (EDM, lambda: made("EDMEulerScheduler")),
    ],
)
def test_swaps_between_our_classes_keep_process_and_grid(kind: type, src: Any, tmp_path: Path) -> None:
    first = fs.GHVBScheduler.from_config(src().config)
    first.set_timesteps(7)
    for number, name in enumerate(OURS):
        first.save_pretrained(tmp_path / str(number))
        with config_warnings() as said:
            live, saved = ours(name).from_config(first.config), ours(name).from_pretrained(tmp_path / str(number))
        assert said == []
        for swapped in (live, saved):
            assert isinstance(swapped.process, kind)
            swapped.set_timesteps(7)
            if fs.methods()[swapped.method.name].replans:
                assert torch.equal(swapped.sigmas, first.sigmas)
                assert torch.equal(swapped.timesteps, first.timesteps)
            else:  # it calls the network between the noise levels too
                levels = [swapped.process.sigma_of(node) for node in swapped.edges.nodes]
                assert torch.equal(torch.tensor(levels), first.sigmas)


@pytest.mark.parametrize("name", [*KARRAS, "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize(
    "src",
    [
        lambda: made("DDIMScheduler", beta_schedule="scaled_linear"),
        lambda: made("FlowMatchEulerDiscreteScheduler"),
        lambda: made("EDMEulerScheduler", sigma_max=40.0),
    ],
    ids=["vp", "flow", "edm"],
)
def test_the_process_survives_a_way_through_a_class_that_has_another(src: Any, name: str, tmp_path: Path) -> None:
    """It is the network's, and a class of diffusers that knows nothing of it carries it along."""
    first = fs.GHVBScheduler.from_config(src().config)
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    between = getattr(diffusers, name).from_config(first.config)
    between.save_pretrained(tmp_path)
    live, saved = fs.LMLScheduler.from_config(between.config), fs.LMLScheduler.from_pretrained(tmp_path)
    assert type(live.process) is type(saved.process) is type(first.process)
    assert live.process.prediction == first.process.prediction
    for scheduler in (first, live):
        scheduler.set_timesteps(5)
    assert torch.equal(live.sigmas, first.sigmas)


def test_fields_of_another_method_do_not_leak() -> None:
    source = fs.ExponentialAdamsScheduler(order=2, solver_type="heun", lower_order_final=False)
    target = fs.AdamsBashforthScheduler.from_config(source.config)
    assert target.config.order == target.method.order == 4
    heavy = fs.HeavyBallScheduler.from_config(source.config)
    assert (heavy.config.order, heavy.config.solver_type, heavy.config.lower_order_final) == (2, "midpoint", True)
    assert fs.HeavyBallScheduler.from_config(source.config, order=3).method.order == 3


def test_fields_survive_a_way_through_another_class_of_diffusers(tmp_path: Path) -> None:
    source = fs.GHVBScheduler.from_config(made("DDIMScheduler").config, momentum=3.8)
    through = diffusers.DDIMScheduler.from_config(source.config)
    assert fs.GHVBScheduler.from_config(through.config).method.momentum == 3.8
    through.save_pretrained(tmp_path)
    assert fs.GHVBScheduler.from_pretrained(tmp_path).method.momentum == 3.8
    assert fs.AdamsBashforthScheduler.from_config(through.config).method == fs.AdamsBashforth()


def test_values_that_mean_something_to_another_class_alone_are_left() -> None:
    unipc = made("UniPCMultistepScheduler", solver_type="bh1")
    deis = made("DEISMultistepScheduler", solver_type="logrho")
    for src in (unipc, deis):
        assert fs.ExponentialAdamsScheduler.from_config(src.config).method.solver_type == "midpoint"
    heun = made("DPMSolverMultistepScheduler", solver_type="heun", lower_order_final=False)
    assert fs.ExponentialAdamsScheduler.from_config(heun.config).method == fs.ExponentialAdams(
        solver_type="heun", lower_order_final=False
    )


def test_a_saved_field_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    fs.AdamsBashforthScheduler().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    file.write_text(file.read_text().replace('"weights": "fixed"', '"weights": "fixd"'))
    with pytest.raises(ValueError, match="weights must be one of 'fixed', 'variable', got 'fixd'"):
        fs.AdamsBashforthScheduler.from_pretrained(tmp_path)


def test_an_overriding_argument_wins_over_the_configuration() -> None:
    src = made("DDIMScheduler")
    assert fs.GHVBScheduler.from_config(src.config, timestep_spacing="trailing").config.timestep_spacing == "trailing"
    assert fs.GHVBScheduler.from_config(src.config).config.timestep_spacing == "linspace"
    flow = fs.GHVBScheduler.from_config({}, prediction_type="flow_prediction")
    assert isinstance(flow.process, Flow)
    stated = fs.GHVBScheduler.from_config(src.config, process="flow", prediction_type="flow_prediction", shift=3.0)
    assert isinstance(stated.process, Flow)
    assert stated.shift == 3.0
    made_of_it, rest = fs.GHVBScheduler.from_config(src.config, return_unused_kwargs=True, wanted=3)
    assert made_of_it.method == fs.GHVB()
    assert rest["wanted"] == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"invert_sigmas": True}, "does not support invert_sigmas=True"),
        ({"stochastic_sampling": True}, "does not support stochastic_sampling=True"),
        ({"timestep_type": "continuous"}, "does not support timestep_type='continuous'"),
        ({"prediction_type": "trigflow"}, "trigflow"),
        ({"prediction_type": "flow_prediction", "process": "vp"}, "does not belong to a variance-preserving process"),
        ({"prediction_type": "noise"}, "allowed are epsilon, sample and v_prediction"),
        ({"prediction_type": "sample", "process": "edm"}, "epsilon or v_prediction"),
        ({"process": "flow", "prediction_type": "flow_prediction", "thresholding": True}, "dynamic thresholding"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "at most one of"),
        ({"use_exponential_sigmas": True, "use_lu_lambdas": True}, "at most one of"),
        ({"process": "vq"}, "process must be auto, vp, flow or edm"),
        ({"timestep_spacing": "even"}, "timestep_spacing must be linspace, leading or trailing"),
        ({"final_sigmas_type": "none"}, "the final sigma is zero or sigma_min"),
        ({"beta_schedule": "cubic"}, "unknown beta schedule 'cubic'"),
        ({"momentum": 7.2}, r"momentum must be in \(0, 5\] or 'auto', got 7.2"),
    ],
)
def test_unknown_combinations_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        fs.GHVBScheduler(**options)
    with pytest.raises(ValueError, match=sentence):
        fs.GHVBScheduler.from_config({}, **options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("FlowMapEulerDiscreteScheduler", {}, "flow maps"),
        ("EntropyBoundScheduler", {}, "entropy-bound"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "stochastic_sampling"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type"),
        ("SCMScheduler", {}, "trigflow"),
        ("LTXEulerAncestralRFScheduler", {}, "does not say its forward process"),
        ("KarrasVeScheduler", {}, "does not say its forward process"),
        ("ScoreSdeVeScheduler", {}, "score SDEs"),
        ("ScoreSdeVpScheduler", {}, "score SDEs"),
        ("HeliosScheduler", {}, "Helios"),
        ("CMStochasticIterativeScheduler", {}, "consistency models"),
        ("CosineDPMSolverMultistepScheduler", {}, "Stable Audio"),
        ("CogVideoXDDIMScheduler", {}, "snr_shift_scale"),
        ("IPNDMScheduler", {}, "does not say its forward process"),
        ("VQDiffusionScheduler", {"num_vec_classes": 8}, "VQ-Diffusion"),
    ],
)
def test_schedulers_of_other_kinds_are_refused(
    name: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    src = made(name, **options)
    src.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        fs.GHVBScheduler.from_config(src.config)
    with pytest.raises(ValueError, match=sentence):
        fs.GHVBScheduler.from_pretrained(tmp_path)


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="momentun"):
        fs.GHVBScheduler(momentun=2.5)
    with pytest.raises(ValueError, match="no option 'momentun', did you mean 'momentum'"):
        fs.GHVBScheduler.from_config(made("DDIMScheduler").config, momentun=2.5)


@pytest.mark.parametrize("name", ["DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_nothing_is_logged_on_the_way_back_with_fields_set_by_hand_live_or_saved(name: str, tmp_path: Path) -> None:
    source = made(name)
    with config_warnings() as said:
        mine = fs.GHVBScheduler.from_config(source.config, momentum=3.5)
        back = type(source).from_config(mine.config)
        assert fs.GHVBScheduler.from_config(back.config).method.momentum == 3.5
        mine.save_pretrained(tmp_path)
        type(source).from_pretrained(tmp_path)
        type(source).from_config(fs.GHVBScheduler.from_pretrained(tmp_path).config)
    assert said == []
