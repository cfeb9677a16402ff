"""Contenders make the number of network calls they are asked for, and names mean what they say."""

from __future__ import annotations

import pytest
import torch

from fewstep.eval.benchmark_oracles import OracleProblem
from fewstep.eval.contenders import Contender, contenders, select

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
        assert run.calls == (nfe if made.exact else nfe - 1 + nfe % 2), nfe
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
