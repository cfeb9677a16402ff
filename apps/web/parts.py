"""Pieces that every tab has: the buttons, the status line, the run as a command, the widgets of a method's fields."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import messages
from .bench import QUEUE, Bench
from .fields import Item, shown, widget
from .settings import STATE_SECONDS

_COMPONENTS = {
    "checkbox": gr.Checkbox,
    "dropdown": gr.Dropdown,
    "slider": gr.Slider,
    "number": gr.Number,
    "text": gr.Textbox,
}


@dataclass(frozen=True)
class Controls:
    """Buttons and status of a tab."""

    start: gr.Button
    cancel: gr.Button
    status: gr.HTML


def controls(start: str, hint: str) -> Controls:
    """The button that starts, the one that cancels, and the status line."""
    with gr.Row():
        go = gr.Button(start, variant="primary", scale=3, min_width=120)
        stop = gr.Button("Cancel", variant="secondary", scale=1, min_width=90)
    return Controls(go, stop, gr.HTML(messages.idle(hint), elem_classes="fs-line"))


@dataclass(frozen=True)
class Repeat:
    """The run elsewhere: a command, Python, and a file."""

    command: gr.Code
    python: gr.Code
    download: gr.DownloadButton

    @property
    def outputs(self) -> list[Any]:
        return [self.command, self.python, self.download]


def download(what: str) -> gr.DownloadButton:
    """The button that gives a run as a file, once there is one."""
    return gr.DownloadButton(what, interactive=False, size="md", min_width=140)


def repeat(download: gr.DownloadButton) -> Repeat:
    """Where the command and the Python of a run are; its file is the download."""
    with gr.Accordion("Command line and Python", open=False):
        command = gr.Code(_LATER, language="shell", label="Command line", interactive=False, lines=1, **_CODE)
        python = gr.Code(_LATER, language="python", label="Python", interactive=False, lines=1, **_CODE)
    return Repeat(command, python, download)


#: In place of code before the first run; an empty box is tall and says nothing.
_LATER = "# Here once something was made."
_CODE: dict[str, Any] = {"wrap_lines": True, "show_line_numbers": False, "buttons": ["copy"]}


def examples(known: Sequence[tuple[str, Sequence[Any]]], inputs: list[Any]) -> None:
    """Examples as buttons, each with a label and what it enters into the inputs."""
    gr.Examples(
        [list(values) for _, values in known],
        inputs,
        label="Examples",
        example_labels=[label for label, _ in known],
        cache_examples=False,
        api_visibility="private",
    )


def state() -> gr.State:
    """Something of this session alone, forgotten after a while."""
    return gr.State(None, time_to_live=STATE_SECONDS)


def start_event(bench: Bench, made: Controls, handler: Any, inputs: list[Any], outputs: list[Any], name: str) -> Any:
    """Let the start button run a handler of `Bench.event`, and the cancel button end it."""
    event = made.start.click(
        handler,
        inputs,
        [made.status, *outputs],
        api_name=name,
        show_progress="minimal",
        show_progress_on=made.status,
        **QUEUE,
    )
    made.cancel.click(bench.canceller(name), None, made.status, queue=False, api_name=f"cancel_{name}")
    made.cancel.click(None, None, None, cancels=[event], api_visibility="private")
    return event


@dataclass(frozen=True)
class MethodFields:
    """Widgets of the fields of several methods, of which those of one are visible.

    Methods that have a field in common, with the same default, range and help, share its widget.

    Attributes:
        owned: method -> field -> number of its widget.
        widgets: all of them.
        names: of the widgets, for the API: "kappa"; "ghvb_momentum" where methods differ in what the field is.
        empty: shown for a method without fields.
    """

    owned: dict[str, dict[str, int]]
    widgets: list[Any]
    names: list[str]
    empty: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """What `visible` updates."""
        return [self.empty, *self.widgets]

    def entered(self, method: str, values: tuple[Any, ...]) -> dict[str, Any]:
        """What the widgets of one method hold, from the values of all of them."""
        return {name: values[number] for name, number in self.owned.get(method, {}).items()}

    def visible(self, method: str) -> list[Any]:
        """Updates that show the widgets of one method."""
        own = set(self.owned.get(method, {}).values())
        return [gr.update(visible=not own), *(gr.update(visible=i in own) for i in range(len(self.widgets)))]


def method_fields(options: Mapping[str, Mapping[str, Item]], chosen: str) -> MethodFields:
    """Widgets for the fields of methods.

    Args:
        options: method -> its fields.
        chosen: the method whose widgets are visible at first.
    """
    owned: dict[str, dict[str, int]] = {}
    numbers: dict[str, int] = {}
    items: list[tuple[str, Item]] = []
    for method, known in options.items():
        owned[method] = {}
        for name, item in shown(known).items():
            key = repr((name, item.default, sorted(getattr(item, "metadata", {}).items())))
            if key not in numbers:
                numbers[key] = len(items)
                items.append((method, item))
            owned[method][name] = numbers[key]
    own = set(owned.get(chosen, {}).values())
    often = Counter(item.name for _, item in items)
    widgets: list[Any] = []
    empty = gr.HTML('<p class="fs-method">It has no fields.</p>', visible=not own)
    for number, (_, item) in enumerate(items):
        made = widget(item)
        widgets.append(_COMPONENTS[made.kind](**made.arguments, visible=number in own))
    names = [item.name if often[item.name] == 1 else f"{owner}_{item.name}".replace("-", "_") for owner, item in items]
    return MethodFields(owned, widgets, names, empty)


def method_note(method: Any) -> str:
    """What a method is, and what it costs, as HTML."""
    spec = method().spec
    calls = f"{spec.calls} network call{'s' if spec.calls != 1 else ''} a step"
    order = f"order {spec.order}" if spec.order else "no order"
    papers = "; ".join(f"{ref.authors.split(',')[0].split(' and ')[0]} {ref.year}" for ref in method.references)
    summary = method.summary[:1].upper() + method.summary[1:].rstrip(".")
    return f'<p class="fs-method">{html.escape(f"{summary}. {order.capitalize()}, {calls}. {papers}.")}</p>'
