"""Registry, noise, oracle, and the arrows between the packages."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.samplers import (
    GHVB,
    AdamsBashforth,
    ExponentialAdams,
    Flow,
    aliases,
    generators,
    make_grid,
    methods,
    noise,
    resolve,
    run,
)
from fewstep.samplers.core import oracle
from problems import vp

ROOT = Path(__file__).parents[3]


# -- registry


@pytest.mark.parametrize(
    ("name", "method", "spacing"),
    [
        ("DPM++ 2M Karras", ExponentialAdams(order=2), "karras"),
        ("dpmpp_2m_karras", ExponentialAdams(order=2), "karras"),
        ("dpm++2m", ExponentialAdams(order=2), None),
        ("dpmpp_2m sgm_uniform", ExponentialAdams(order=2), "trailing"),
        ("dpmpp_3m", ExponentialAdams(order=3, variant="published"), None),
        ("ddim", AdamsBashforth(order=1), None),
        ("Euler", AdamsBashforth(order=1), None),
        ("LMS Karras", AdamsBashforth(order=4, weights="variable"), "karras"),
        ("deis", AdamsBashforth(order=3, weights="variable"), None),
        ("PLMS", AdamsBashforth(order=4), None),
        ("ghvb", GHVB(), None),
        ("exponential-adams", ExponentialAdams(), None),
        ("Exponential Adams beta", ExponentialAdams(), "beta"),
        ("exponential_adams", ExponentialAdams(), None),
    ],
)
def test_names_of_other_programs_are_understood(name, method, spacing):
    found = resolve(name)
    assert found.method == method
    assert found.spacing == spacing


def test_fields_by_hand_come_on_top_of_an_alias():
    assert resolve("dpm++ 2m", solver_type="heun").method == ExponentialAdams(order=2, solver_type="heun")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: resolve("ghbv"), "did you mean 'ghvb'"),
        (lambda: resolve("dpm++ 2n"), "did you mean 'dpm\\+\\+ 2m'"),
        (lambda: resolve("qqqq"), r"unknown sampler 'qqqq'\. Known are"),
        (lambda: resolve("ghvb", momentun=2), "no field 'momentun', did you mean 'momentum'"),
        (lambda: resolve("ghvb", momentum=7.2), r"momentum must be in \(0, 5\] or 'auto', got 7.2"),
        (lambda: resolve("ghvb", momentum=0), r"\(0, 5\]"),
        (lambda: resolve("ghvb", momentum="lots"), "'auto'"),
        (lambda: resolve("exponential-adams", order=5), r"order must be in \[1, 4\], got 5"),
        (lambda: resolve("exponential-adams", order=2.5), "whole number"),
        (lambda: resolve("lml", damping=0), "damping must be above 0"),
        (lambda: resolve("lml", kappa=math.inf), "kappa"),
        (lambda: resolve("ghvb", momentum=1e-10).method.spec, "at least 1e-9"),
        (lambda: resolve("heavy-ball", base="exponential-adams", order=1), "order 2 or more"),
        (lambda: resolve("heavy-ball", base="euler"), "one of 'adams-bashforth', 'exponential-adams'"),
        (lambda: resolve("heavy-ball", base="exponential-adams", order=3, damping="auto"), "order 2 alone"),
    ],
)
def test_bad_names_and_fields_are_refused_with_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_whole_floats_and_numpy_numbers_become_plain_numbers():
    for value in (2.0, np.int64(2), np.float32(2)):
        order = AdamsBashforth(order=value).order
        assert order == 2
        assert type(order) is int
    assert type(GHVB(momentum=np.float64(2.5)).momentum) is float


def test_every_alias_makes_a_method():
    assert len(aliases()) > 15
    for name in aliases():
        resolve(name)


def test_bibtex_of_every_method_is_well_formed():
    for cls in methods().values():
        for reference in cls.references:
            entry = reference.bibtex()
            assert entry.count("{") == entry.count("}")
            assert f"year = {{{reference.year}}}" in entry


# -- noise


def test_noise_belongs_to_its_seed():
    one = noise((4, 8, 8), [3])
    four = noise((4, 8, 8), [1, 2, 3, 4])
    assert torch.equal(one[0], four[2])
    assert torch.equal(four[0], torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(noise((4, 8, 8), [3], dtype=torch.float16)[0], one[0].half())
    assert [g.initial_seed() for g in generators([5, 6])] == [5, 6]
    with pytest.raises(ValueError, match="at least one seed"):
        noise((4,), [])


# -- oracle


def test_gaussian_oracle_is_the_textbook_posterior_mean():
    process = vp()
    mean, scale = torch.tensor([0.4, -1.0], dtype=torch.float64), torch.tensor([0.3, 2.0], dtype=torch.float64)
    network = oracle.gaussian(process, mean, scale)
    node = process.at(400)
    x = torch.randn(5, 2, dtype=torch.float64)
    gain = node.alpha * scale**2 / (node.alpha**2 * scale**2 + node.sigma**2)
    x0 = mean + gain * (x - node.alpha * mean)
    assert torch.allclose(network.posterior_mean(x, node), x0)
    assert torch.allclose(network(x, 400), (x - node.alpha * x0) / node.sigma)


def test_mixture_oracle_is_the_score_by_automatic_differentiation():
    """Tweedie: E[x0|x] = (x + sigma^2 grad log p) / alpha, the log density differentiated by torch."""
    process = Flow()
    means = torch.randn(3, 4, dtype=torch.float64)
    weights = [0.2, 0.5, 0.3]
    network = oracle.mixture(process, means, 0.6, weights)
    node = process.at_sigma(0.55)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    variance = node.alpha**2 * 0.36 + node.sigma**2
    parts = -0.5 * (x[:, None] - node.alpha * means).square().sum(-1) / variance + torch.tensor(weights).double().log()
    score = torch.autograd.grad(torch.logsumexp(parts, 1).sum(), x)[0]
    expected = (x + node.sigma**2 * score) / node.alpha
    assert torch.allclose(network.posterior_mean(x.detach(), node), expected.detach(), atol=1e-10)


def test_finite_oracle_draws_the_data_themselves():
    process = vp()
    data = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    points = make_grid(process, 40)
    end = run(
        oracle.finite(process, data), ExponentialAdams(), process, points, torch.randn(8, 2, 3, 3, dtype=torch.float64)
    ).sample
    nearest = (end[:, None] - data[None]).flatten(2).norm(dim=2).min(1).values
    assert nearest.max() < 1e-3


# -- arrows

ALLOWED = {
    "samplers/core": {"torch", "numpy", "scipy"},
    "samplers/continuous": {"torch"},
}


@pytest.mark.parametrize(("folder", "allowed"), ALLOWED.items())
def test_mathematics_imports_torch_and_no_plumbing(folder, allowed):
    import sys

    for file in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, f"{file.name} imports {name}"


def test_plumbing_is_imported_where_it_belongs_only():
    """gradio in apps/web*, torchmetrics in eval, diffusers' schedulers in samplers/schedulers.py."""
    for folder in ("samplers", "pipelines", "eval", "apps"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            relative = file.relative_to(ROOT).as_posix()
            if "import gradio" in text:
                assert relative.startswith("apps/web")
            if "torchmetrics" in text:
                assert relative.startswith("eval/")
            if folder == "samplers" and ("from diffusers" in text or "import diffusers" in text):
                # tokens have schedulers of their own, samplers/token_schedulers.py;
                # samplers/cache/hook.py is a hook of diffusers' registry: a cache has to meet the models somewhere
                files = ("schedulers.py", "token_schedulers.py", "__init__.py", "cache/hook.py")
                assert relative in [f"samplers/{file}" for file in files]
            assert not re.search(r"^\s*(import|from) (samplers|pipelines|eval|apps)\b", text, re.MULTILINE)
