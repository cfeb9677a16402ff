"""`fewstep methods` shows what the registry holds."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from fewstep.samplers import TOKEN_METHODS, aliases, methods, token_method

Fewstep = Callable[..., Any]


def test_every_method_is_listed(fewstep: Fewstep) -> None:
    said = fewstep("methods")
    assert said.code == 0
    for name in (*methods(), *TOKEN_METHODS):
        assert name in said.out
    alone = fewstep("methods", "--tokens").out
    assert all(name in alone for name in TOKEN_METHODS)
    assert "ghvb" not in alone


def test_json_says_what_the_registry_says(fewstep: Fewstep) -> None:
    described = {entry["name"]: entry for entry in json.loads(fewstep("methods", "--json").out)}
    assert described.keys() == methods().keys() | TOKEN_METHODS.keys()
    for name, cls in TOKEN_METHODS.items():
        entry = described[name]
        assert (entry["for"], entry["order"], entry["calls"]) == ("tokens", cls().order, cls.stages)
        assert {f["name"]: f["default"] for f in entry["fields"]} == {
            item.name: item.default for item in dataclasses.fields(cls)
        }
        assert all(token_method(other).name == name for other in entry["other_names"])
    for name, cls in methods().items():
        entry, spec = described[name], cls().spec
        assert (entry["order"], entry["calls"], entry["latents_kept"]) == (spec.order, spec.calls, spec.history)
        assert {f["name"]: f["default"] for f in entry["fields"]} == {
            item.name: json.loads(json.dumps(item.default)) for item in dataclasses.fields(cls)
        }
        assert set(entry["other_names"]) == {key for key, other in aliases().items() if other.method == name}


@pytest.mark.parametrize("name", list(methods()))
def test_one_method_shows_formula_fields_and_reference(fewstep: Fewstep, name: str) -> None:
    said = fewstep("methods", name)
    assert said.code == 0
    cls = methods()[name]
    assert cls.formula in said.out
    for item in dataclasses.fields(cls):
        assert f"--{item.name.replace('_', '-')}" in said.out
    for reference in cls.references:
        assert reference.title in said.out


@pytest.mark.parametrize("name", list(TOKEN_METHODS))
def test_a_method_for_tokens_shows_formula_fields_and_reference(fewstep: Fewstep, name: str) -> None:
    said = fewstep("methods", name, "--tokens")
    assert said.code == 0
    cls = TOKEN_METHODS[name]
    assert cls.formula in said.out
    for item in dataclasses.fields(cls):
        assert f"--{item.name.replace('_', '-')}" in said.out
    for reference in cls.references:
        assert reference.title in said.out


def test_a_name_of_both_kinds_shows_both(fewstep: Fewstep) -> None:
    out = fewstep("methods", "euler").out
    assert "adams-bashforth" in out
    assert TOKEN_METHODS["euler"].formula in out
    assert fewstep("methods", "trapezoidal").out == fewstep("methods", "theta-trapezoidal").out


def test_other_names_lead_to_the_method(fewstep: Fewstep) -> None:
    assert fewstep("methods", "DPM++ 2M Karras").out == fewstep("methods", "exponential-adams").out


def test_ranges_are_those_that_the_method_enforces(fewstep: Fewstep) -> None:
    fields = {f["name"]: f for f in json.loads(fewstep("methods", "ghvb", "--json").out)["fields"]}
    assert fields["momentum"]["allowed"] == "above 0 to 5, or auto"
    assert fields["weights"]["allowed"] == "fixed, moment-matched"
    assert fields["euler_at_final"]["allowed"] == "true, false"
    assert fields["max_order"]["allowed"] == "1 to 5"


def test_bibtex(fewstep: Fewstep) -> None:
    out = fewstep("methods", "ghvb", "--bibtex").out
    assert re.match(r"@\w+\{\w+,\n", out)
    assert "2307.11118" in out
    assert out.count("{") == out.count("}")
    everything = fewstep("methods", "--bibtex").out
    keys = re.findall(r"^@\w+\{(\w+),", everything, re.MULTILINE)
    assert len(keys) == len(set(keys)) > 2
