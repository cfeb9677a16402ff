"""Solver error against closed forms, orders and identities."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.eval import solver_error
from fewstep.eval.benchmark_oracles import OracleProblem
from fewstep.eval.solver_errors import reference_solutions
from fewstep.samplers import VPDiscrete, betas_of_schedule, noise

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))


@pytest.fixture(scope="module")
def gaussian():
    return OracleProblem("gaussian")


def _closed_form(guidance: float, seeds: range) -> torch.Tensor:
    """End of the guided ODE dx_bar/ds = x_bar s h(s), h(s) = (1 - g) / (1 + s^2) + g / (c^2 + s^2).

    From the highest to the lowest noise level of the process, then one jump to clean data: x_bar (1 - s^2 h(s)).
    """
    process = VPDiscrete.from_betas(betas_of_schedule("scaled_linear", 1000, 0.00085, 0.012))
    first, last = process.at(999), process.at(0).ratio
    c = torch.from_numpy(np.geomspace(0.05, 1.0, 16))
    g = guidance if guidance > 1 else 1.0

    def growth(s: float) -> torch.Tensor:
        return (1 + s**2) ** ((1 - g) / 2) * (c**2 + s**2) ** (g / 2)

    start = noise((16,), list(seeds), dtype=torch.float64) / first.alpha
    jump = 1 - last**2 * ((1 - g) / (1 + last**2) + g / (c**2 + last**2))
    return (start * growth(last) / growth(first.ratio) * jump).reshape(len(seeds), 1, 4, 4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_reference_is_the_closed_form_and_the_residual_tells_its_error(gaussian, guidance, tmp_path):
    found = reference_solutions(gaussian, [guidance], 16, cache=tmp_path)[guidance]
    error = float((found.latents - _closed_form(guidance, range(16))).square().mean().sqrt())
    assert error < 2e-4
    assert error / 4 < found.residual < 5e-4
    coarse = reference_solutions(gaussian, [guidance], 16, steps=50, cache=tmp_path)[guidance]
    assert coarse.residual > 4 * found.residual


def test_solver_error_is_the_distance_to_the_closed_form(gaussian, tmp_path):
    found = solver_error(gaussian, "diffusers DDIM", nfe=6, guidance=3.0, count=20, batch=8, cache=tmp_path)
    from fewstep.eval.contenders import contenders

    run = gaussian.run(contenders("vp")["diffusers DDIM"], None, 3.0, 6, range(20))
    off = run.latents - _closed_form(3.0, range(20))
    assert found.rmse == pytest.approx(float(off.square().mean().sqrt()), rel=0.02)
    each = off.flatten(1).square().mean(1).sqrt()
    assert found.median == pytest.approx(float(each.median()), rel=0.02)
    assert found.calls == 6
    assert found.grid == "linspace"


def test_the_error_falls_with_the_order_of_the_sampler(tmp_path):
    problem = OracleProblem("gaussian", "flow")
    slopes = {}
    for name in ("adams-bashforth 1", "adams-bashforth 2"):
        errors = [
            solver_error(problem, name, nfe=n, count=16, cache=tmp_path, reference_steps=2000).rmse for n in (40, 80)
        ]
        slopes[name] = float(np.log2(errors[0] / errors[1]))
    assert slopes["adams-bashforth 1"] == pytest.approx(1.0, abs=0.15)
    assert slopes["adams-bashforth 2"] == pytest.approx(2.0, abs=0.4)


def test_references_are_computed_once_and_told_apart(tmp_path):
    problem = OracleProblem("gaussian")
    calls = []
    problem.network.register_forward_hook(lambda *_: calls.append(1))
    first = solver_error(problem, "ddim", nfe=5, count=6, reference_steps=30, cache=tmp_path)
    spent = len(calls)
    again = solver_error(problem, "ddim", nfe=5, count=6, reference_steps=30, cache=tmp_path)
    assert len(calls) - spent == 5  # the sampler alone
    assert again.rmse == first.rmse
    solver_error(problem, "ddim", nfe=5, count=6, reference_steps=30, guidance=2.0, cache=tmp_path)
    other = solver_error(OracleProblem("gaussian", seed=1), "ddim", nfe=5, count=6, reference_steps=30, cache=tmp_path)
    assert other.rmse != first.rmse


def test_the_reference_solver_has_no_error_on_a_pipeline(tmp_path):
    import tiny_models

    pipe = tiny_models.stable_diffusion(tmp_path / "tokens")
    before = pipe.scheduler
    found = solver_error(
        pipe,
        "exponential-adams 2",
        nfe=12,
        grid="karras",
        guidance=3.0,
        count=3,
        batch=2,
        prompts=["a red bag", "a shirt"],
        reference_steps=12,
        cache=tmp_path,
    )
    assert found.rmse == 0.0
    assert found.calls == 12
    assert pipe.scheduler is before
    coarse = solver_error(pipe, "ddim", nfe=3, count=3, prompts=["a red bag"], reference_steps=12, cache=tmp_path)
    assert coarse.rmse > 0.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nfe": 0}, "nfe must be a whole number"),
        ({"count": -1}, "count must be a whole number"),
        ({"grid": "karas"}, "did you mean 'karras'"),
        ({"momentum": 9}, "no field 'momentum'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(gaussian, given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        solver_error(gaussian, "ddim", cache=tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["oracle:mixtre", "oracle:mixture:ve", "oracle:mixture:vp:more", "garmnts"])
def test_unknown_problems_are_refused(name, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"unknown exact model|process of an exact|did you mean"):
        solver_error(name, "ddim", cache=tmp_path)


def test_a_reference_that_failed_is_tried_again_and_says_why(tmp_path):
    from fewstep.eval.benchmark_oracles import OracleProblem

    class Busy(OracleProblem):
        def run(self, *given):
            raise RuntimeError("the device is busy")

    given = {"steps": 20, "cache": tmp_path}
    with pytest.raises(RuntimeError, match="at guidance 1 could not be computed: RuntimeError: the device is busy"):
        reference_solutions(Busy("gaussian"), [1.0], 4, **given)
    assert reference_solutions(OracleProblem("gaussian"), [1.0], 4, **given)[1.0].latents.isfinite().all()
