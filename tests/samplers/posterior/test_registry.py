"""The registry: every method by name, with fields from which programs can make their options."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from fewstep.samplers import GHVB, GridOptions, VPDiscrete, betas_of_schedule, make_grid
from fewstep.samplers.posterior import DDNM, posterior_aliases, posterior_method, posterior_methods
from fewstep.samplers.posterior.method import NEEDS


def test_the_methods_of_the_package():
    assert set(posterior_methods()) >= {
        "ddnm", "ddnm-plus", "dps", "pigdm", "moment-matching", "diffpir", "ddrm", "red-diff", "daps",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(posterior_methods()))
def test_every_method_describes_itself(name):
    cls = posterior_methods()[name]
    assert cls.name == name
    assert cls.summary
    assert cls.formula
    assert cls.needs in NEEDS
    assert cls.__doc__
    for item in dataclasses.fields(cls):
        assert item.metadata["help"].endswith("."), item.name
    for reference in cls.references:
        assert re.match(r"@\w+\{\w+,\n", reference.bibtex())
        if reference.arxiv:
            assert reference.arxiv in cls.__doc__


def test_other_names():
    assert posterior_method("DDNM+") == posterior_method("ddnm-plus")
    assert posterior_method("ΠGDM") == posterior_method("pigdm")
    assert posterior_method("MMPS", iterations=2).iterations == 2
    assert posterior_method("ddnm_2m").sampler is not None
    for alias in posterior_aliases():
        posterior_method(alias)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posterior_method("difpir"), "did you mean 'diffpir'"),
        (lambda: posterior_method("ddnm", renois=0.3), "did you mean 'renoise'"),
        (lambda: posterior_method("ddnm", renoise=1.2), "in \\[0, 1\\]"),
        (lambda: posterior_method("diffpir", prior_weight=0), "above 0"),
        (lambda: DDNM(step_sampler="dpm++ 2n"), "did you mean"),
        (lambda: DDNM(step_sampler="midpoint"), "one network call"),
        (lambda: DDNM(kept_noise="mine"), "one of"),
        (lambda: DDNM(travel_length=0), "at least 1"),
        (lambda: posterior_method("moment-matching", iterations=2.5), "whole number"),
    ],
)
def test_bad_names_and_fields_are_sentences(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_any_method_of_the_core_can_step():
    chosen = GHVB(momentum=3.5)
    method = DDNM(step_sampler=chosen, renoise=0)
    assert method.sampler is chosen
    assert method.renoise == 0.0
    process = VPDiscrete.from_betas(betas_of_schedule("linear"))
    assert len(method.plan(process, make_grid(process, 5, GridOptions())).steps) == 5
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        DDNM(step_sampler=chosen, renoise=3)


def test_the_package_needs_no_diffusers():
    code = (
        "import sys, fewstep.samplers.posterior; "
        "assert not {'diffusers', 'deepinv', 'transformers'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
