"""Widgets follow the dataclasses: every field of every method, its default, range, choices and help."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from fewstep.apps.web.draw import draw_request, samplers
from fewstep.apps.web.fields import chosen, shown, value, widget
from fewstep.apps.web.restore import method_options
from fewstep.apps.web.write import solver_fields
from fewstep.pipelines.swapping import options_of
from fewstep.samplers import resolve
from fewstep.samplers.core.method import Method, Reference, Spec, option
from fewstep.samplers.core.registry import _METHODS, register

ALL = [(name, field) for name, cls in samplers().items() for field in shown(options_of(name)).values()]


def test_every_field_that_a_user_sets_has_a_widget():
    for name, cls in samplers().items():
        wanted = {item.name for item in dataclasses.fields(cls)} - {"guidance_scale"}
        assert set(shown(options_of(name))) == wanted


class TogetherError(Exception):
    """Two fields do not go together, each being in its range."""


def accepted(method, name, number):
    try:
        resolve(method, **{name: number})
    except ValueError as error:
        if f"{name} must be in" in str(error):
            raise
        raise TogetherError from error


@pytest.mark.parametrize(("method", "item"), ALL, ids=[f"{m}-{i.name}" for m, i in ALL])
def test_a_widget_has_the_default_the_help_and_a_range_that_the_method_accepts(method, item):
    made = widget(item)
    assert made.arguments["info"] == item.metadata["help"]
    assert value(item, made.arguments["value"]) == item.default
    if made.kind == "slider":
        ends = (made.arguments["minimum"], made.arguments["maximum"])
        assert item.metadata["low"] <= ends[0] < ends[1] == item.metadata["high"]
        for end in ends:
            with contextlib.suppress(TogetherError):
                accepted(method, item.name, value(item, end))
    if made.kind == "dropdown":
        assert made.arguments["choices"] == [str(choice) for choice in item.metadata["choices"]]
    if made.kind == "text" and item.metadata["words"]:
        for word in item.metadata["words"]:
            assert value(item, word) == word
            assert word in made.arguments["placeholder"]


def test_fields_at_their_defaults_are_not_named():
    known = options_of("ghvb")
    assert chosen(known, {name: widget(item).arguments["value"] for name, item in shown(known).items()}) == {}
    assert chosen(known, {"momentum": "auto", "max_order": 2.0}) == {"momentum": "auto", "max_order": 2}
    assert chosen(known, {"momentum": " 1.5 "}) == {"momentum": 1.5}


def test_solvers_of_text_and_methods_of_restoration_have_widgets_too():
    for options in [*solver_fields().values(), *method_options().values()]:
        for item in shown(options).values():
            made = widget(item)
            assert value(item, made.arguments["value"]) == item.default
            if made.kind in ("slider", "number"):  # gradio refuses a request for any widget, seen or not, out of range
                low, high = made.arguments["minimum"], made.arguments["maximum"]
                assert low is None or low <= item.default, item.name
                assert high is None or item.default <= high, item.name
            if made.kind == "slider":  # and the browser moves a handle to the nearest part
                parts = (item.default - made.arguments["minimum"]) / made.arguments["step"]
                assert abs(parts - round(parts)) < 1e-6, item.name


def test_a_new_method_appears_without_the_page_being_touched():
    @dataclasses.dataclass(frozen=True)
    class Brandnew(Method):
        name = "brandnew"
        summary = "for this test"
        formula = ""
        references = (Reference("x", "A", "B", 2026),)
        strength: float = option(0.5, "How strong.", low=0, high=2)

        @property
        def spec(self) -> Spec:
            return Spec(1, 1, "any", 1, 1)

        def plan_steps(self, process, grid):
            return ()

        def advance(self, step, x, prediction, state):
            return x, state

    register(Brandnew)
    try:
        assert "brandnew" in samplers()
        made = draw_request("brandnew", {"strength": 1.5}, prompt="a boot")
        assert made.fields == {"strength": 1.5}
        assert widget(options_of("brandnew")["strength"]).kind == "slider"
    finally:
        del _METHODS["brandnew"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "a" * 2000}, "2000 characters"),
        ({"prompt": "a", "steps": 0}, "steps must be"),
        ({"prompt": "a", "steps": None}, "steps must be a whole number"),
        ({"prompt": "a", "count": 1000}, "count must be"),
        ({"prompt": "a", "seed": -1}, "seed must be"),
        ({"prompt": "a", "seed": float("nan")}, "seed must be"),
        ({"prompt": "a", "guidance": float("nan")}, "guidance must be"),
        ({"prompt": "a", "guidance": None}, "guidance must be"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(values, said):
    with pytest.raises(ValueError, match=said):
        draw_request("ddim" if False else "ghvb", {}, **values)
    with pytest.raises(ValueError, match="did you mean 'ghvb'"):
        draw_request("ghvv", {}, prompt="a")
