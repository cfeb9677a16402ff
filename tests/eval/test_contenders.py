"""Contenders make the number of network calls they are asked for, and names mean what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fewstep.eval.benchmark_oracles import OracleProblem
from fewstep.eval.benchmark_problems import ModelProblem, Stopwatch
from fewstep.eval.contenders import Contender, contenders, select

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

HEUN = ("diffusers Heun", "diffusers FlowMatchHeun")  # two calls a step
PROCESSES = ("vp", "flow", "edm")
EVERY = [(process, name) for process in PROCESSES for name in contenders(process)]


@pytest.fixture(scope="module")
def problems():
    return {process: OracleProblem("gaussian", process) for process in PROCESSES}


@pytest.mark.parametrize(("process", "name"), EVERY)
def test_a_contender_makes_as_many_calls_as_asked_or_one_less_where_it_says_so(problems, process, name):
    problem, made = problems[process], contenders(process)[name]
    for nfe in (5, 6, 8):
        run = problem.run(made, None, 3.0, made.steps(nfe), range(3))
        assert run.calls == (nfe - 1 + nfe % 2 if name in HEUN else nfe), nfe
        assert run.latents.isfinite().all()
        assert run.latents.shape == (3, 1, 4, 4)


@pytest.mark.parametrize("grid", ["linspace", "trailing"])
def test_second_order_exponential_adams_is_the_dpm_solver_of_diffusers(problems, grid):
    known, problem = contenders("vp"), problems["vp"]
    ours = problem.run(known["exponential-adams 2"], grid, 3.0, 10, range(4)).latents
    theirs = problem.run(known["diffusers DPM++ 2M"], grid, 3.0, 10, range(4)).latents
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_schedulers_that_count_in_sigma_start_at_the_same_point(problems):
    """Euler of diffusers on the grid of first-order Adams-Bashforth is the same solver: the start must be the same."""
    known, problem = contenders("vp"), problems["vp"]
    ours = problem.run(known["adams-bashforth 1"], "karras", 1.0, 12, range(4)).latents
    theirs = problem.run(known["diffusers Euler"], "karras", 1.0, 12, range(4)).latents
    assert torch.allclose(ours, theirs, atol=2e-3 * float(ours.abs().max()))  # whole timesteps against exact ones
    flow = problems["flow"]
    ours = flow.run(contenders("flow")["adams-bashforth 1"], None, 1.0, 12, range(4)).latents
    theirs = flow.run(contenders("flow")["diffusers FlowMatchEuler"], None, 1.0, 12, range(4)).latents
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_momentum_by_stability_follows_the_guidance_of_the_run(problems):
    made = contenders("vp")["heavy-ball auto"]
    assert problems["vp"].make_scheduler(made, None, 11.0).method.guidance_scale == 11.0


def test_grids_are_named_once_and_the_default_comes_first(problems):
    known = contenders("vp")
    found = problems["vp"].grids(known["diffusers DPM++ 2M"], 8)
    assert next(iter(found)) == "linspace"
    levels = [problems["vp"].noise_levels(known["diffusers DPM++ 2M"], grid, 8) for grid in found.values()]
    assert len(set(levels)) == len(levels)
    assert list(problems["vp"].grids(known["diffusers DDIM"], 8)) == ["linspace", "leading", "trailing"]
    assert list(problems["vp"].grids(known["ghvb 2.5"], 8, ("karras",))) == ["linspace", "karras"]
    assert next(iter(problems["edm"].grids(contenders("edm")["ghvb 2.5"], 8))) == "karras"


def test_edm_schedulers_of_diffusers_have_both_of_their_grids_and_both_orders(problems):
    known, problem = contenders("edm"), problems["edm"]
    for name in ("diffusers EDM Euler", "diffusers EDM DPM++ 2M", "diffusers EDM DPM++ 3M"):
        assert problem.grids(known[name], 8) == {"karras": "karras", "exponential": "exponential"}
        sigmas = problem.make_scheduler(known[name], "exponential", 1.0)
        sigmas.set_timesteps(8)
        ratios = sigmas.sigmas[1:8] / sigmas.sigmas[:7]
        assert torch.allclose(ratios, ratios[0].expand(7), rtol=1e-4)  # a geometric sequence
    errors = []
    for name in ("diffusers EDM DPM++ 2M", "diffusers EDM DPM++ 3M"):
        exact = problem.run(known["exponential-adams 2"], "karras", 1.0, 400, range(4)).latents
        errors.append(float((problem.run(known[name], "karras", 1.0, 40, range(4)).latents - exact).square().mean()))
    assert errors[1] < errors[0]


def test_what_ends_above_clean_data_says_so(problems):
    noisy = {made.name for process in PROCESSES for made in contenders(process).values() if made.note}
    assert noisy == {"diffusers DEIS", "diffusers SA-Solver tau 0"}
    for name, made in contenders("vp").items():
        scheduler = problems["vp"].make_scheduler(made, "trailing" if made.family == "fewstep" else None, 1.0)
        scheduler.set_timesteps(8)
        if made.family == "diffusers" and len(getattr(scheduler, "sigmas", ())) == 9:
            assert (float(scheduler.sigmas[-1]) == 0) is not bool(made.note), name
    assert float(scheduler.sigmas[-1]) == pytest.approx(0.0292, abs=1e-4)  # of SA-Solver, the last one


def test_two_predictions_one_after_the_other_are_one_call():
    watch, network = Stopwatch(), torch.nn.Linear(2, 2)
    x = torch.zeros(1, 2)

    class Scheduler:
        def step(self, x):
            return x

    scheduler = Scheduler()
    with watch.watching([network], scheduler):
        for _ in range(5):
            scheduler.step(network(x) + network(x))
    assert (watch.calls, watch.forwards, watch.steps) == (5, 10, 5)


def test_flux_with_true_guidance_makes_one_call_a_step(tmp_path):
    import tiny_models

    pipe, watch = tiny_models.flux(tmp_path), Stopwatch()
    pipe.set_progress_bar_config(disable=True)
    with watch.watching([pipe.transformer], pipe.scheduler):
        pipe(["a boot"], negative_prompt=["a"], true_cfg_scale=3.0, num_inference_steps=4, output_type="latent")
    assert (watch.calls, watch.forwards) == (4, 8)


@pytest.mark.parametrize("model", ["stable_diffusion", "stable_diffusion_xl"])
def test_pipelines_that_draw_their_noise_start_at_the_same_point_too(tmp_path, model):
    import tiny_models

    problem = ModelProblem(getattr(tiny_models, model)(tmp_path), ["a boot", "a bag"])
    known, starts = contenders("vp"), {}
    for name, grid in (("adams-bashforth 1", "trailing"), ("diffusers Euler", "trailing")):
        seen = []
        handle = problem.networks[0].register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append((args or (kwargs["sample"],))[0].clone()), with_kwargs=True
        )
        problem.run(known[name], grid, 1.0, 4, range(2))
        handle.remove()
        starts[name] = seen[0]
    assert torch.allclose(starts["adams-bashforth 1"], starts["diffusers Euler"], rtol=1e-4, atol=1e-5)


def test_pictures_that_are_not_finite_are_black_or_white(tmp_path):
    import tiny_models

    problem = ModelProblem(tiny_models.stable_diffusion(tmp_path), ["a boot"])
    values = torch.tensor([float("nan"), float("-inf"), float("inf"), 0.2]).reshape(4, 1, 1, 1).expand(4, 3, 2, 2)
    problem.pipe.vae.decode = lambda latents, return_dict: (values,)
    made = problem.pictures(torch.zeros(4, 4, 2, 2))[:, 0, 0, 0]
    assert made.tolist() == pytest.approx([-1, -1, 1, 2 * round(0.6 * 255) / 255 - 1])


def test_words_select_families_patterns_and_any_known_sampler():
    assert {made.family for made in select(["all"])} == {"fewstep", "diffusers"}
    assert all(made.family == "diffusers" for made in select(["diffusers"], "flow"))
    assert [made.name for made in select(["ghvb 2.5", "GHVB*", "ghvb 2.5"])] == ["ghvb 2.5", "ghvb 1.5", "ghvb auto"]
    assert select(["dpm++ 2m"]) == [Contender("dpm++ 2m", "dpm++ 2m")]
    assert select(["diffusers:LMSDiscreteScheduler"])[0].family == "diffusers"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["ghbv 2.5"], "did you mean 'ghvb 2.5'"), (["zzz*"], "no sampler's name fits"), ([], "at least one")],
)
def test_words_that_mean_nothing_are_refused_with_the_nearest(words, said):
    with pytest.raises(ValueError, match=said):
        select(words)


def test_an_unknown_process_is_refused():
    with pytest.raises(ValueError, match="vp, flow or edm"):
        contenders("ve")
