"""The tab Write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from . import messages, parts
from .bench import Bench, refused
from .jobs import Job
from .models import WRITE
from .settings import MAX_STEPS, MAX_TEXT
from .write import (
    CONTINUE,
    FILL,
    MOST_TEXTS,
    MOST_TOKENS,
    Written,
    own_solver,
    solver_fields,
    write,
    write_request,
)
from .write_views import words

_NAMES = (
    "mode",
    "text",
    "blanks",
    "model",
    "solver",
    "steps",
    "length",
    "temperature",
    "top_p",
    "guidance",
    "seed",
    "count",
)

#: A click on a word turns it into a blank, in the page and in the box below it; nothing goes to the server.
_TOGGLE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-word]');
  if (!button) return;
  button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') === 'true' ? 'false' : 'true');
  const parts = [...element.querySelectorAll('[data-word]')];
  const text = parts.map((part) =>
    part.getAttribute('aria-pressed') === 'true' ? part.dataset.blank : part.dataset.word);
  const box = document.querySelector('#fs-blanks textarea');
  box.value = text.join('');
  box.dispatchEvent(new Event('input', { bubbles: true }));
});
"""

_SPEECH = "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun."

#: A label, and what it enters.
EXAMPLES = (
    ("Romeo speaks", ["ROMEO:\n", "adams", 32, 160]),
    ("Juliet, by the trapezoidal rule", ["JULIET:\nO gentle night, ", "trapezoidal", 32, 160]),
)


def write_tab(bench: Bench) -> None:
    """Build the tab."""
    models, solvers = bench.models.names(WRITE), solver_fields()
    first = models[0] if models else None
    chosen = own_solver(bench.models, first) if first else next(iter(solvers))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            mode = gr.Radio([CONTINUE, FILL], value=CONTINUE, label="Mode")
            text = gr.Textbox(
                str(EXAMPLES[0][1][0]),
                label="Beginning",
                info="How the text begins; may be empty.",
                lines=3,
                max_length=MAX_TEXT,
            )
            with gr.Group(visible=False) as filling:
                source = gr.Textbox(
                    _SPEECH,
                    label="Text",
                    info="Write a text, then click the words to replace.",
                    lines=3,
                    max_length=MAX_TEXT,
                )
                clickable = gr.HTML(words(_SPEECH), js_on_load=_TOGGLE)
                blanks = gr.Textbox(
                    _SPEECH,
                    label="Text with blanks",
                    info="Each [MASK] is one token.",
                    lines=3,
                    max_length=8 * MAX_TEXT,
                    elem_id="fs-blanks",
                )
            with gr.Row():
                model = gr.Dropdown(models, value=first, label="Model", info="The network that writes.", min_width=140)
                solver = gr.Dropdown(
                    list(solvers), value=chosen, label="Solver", info="How its steps are taken.", min_width=140
                )
            with gr.Row():
                steps = gr.Slider(1, 2 * MAX_STEPS, 32, step=1, label="Steps", info="Of the solver.", min_width=140)
                length = gr.Slider(
                    8, MOST_TOKENS, 160, step=1, label="Length", info="Tokens, beginning included.", min_width=140
                )
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Of the first text.", min_width=140)
                count = gr.Slider(1, MOST_TEXTS, 1, step=1, label="Count", info="How many texts.", min_width=140)
            with gr.Accordion("Temperature, nucleus, guidance", open=False):
                temperature = gr.Slider(0.1, 2, 1.0, step=0.05, label="Temperature", info="Below 1: likelier text.")
                top_p = gr.Slider(
                    0.05, 1, 1.0, step=0.05, label="Top p", info="Keep the likeliest tokens up to this mass."
                )
                guidance = gr.Slider(
                    0, 5, 1.0, step=0.25, label="Guidance", info="How much the given tokens count; 1 is none."
                )
            with gr.Accordion("Fields of the solver", open=False):
                fields = parts.method_fields(solvers, chosen)
        with gr.Column(scale=3, min_width=300):
            made = parts.controls("Write", "The text appears everywhere at once.")
            paper = gr.HTML('<div class="fs-text"><span class="fs-blank">' + "·" * 160 + "</span></div>")
            repeated = parts.repeat(parts.download("Download, with the settings inside"))
    parts.examples(EXAMPLES, [text, solver, steps, length])

    def work(job: Job, *values: Any) -> tuple[Written, Path]:
        said = dict(zip(_NAMES, values, strict=False))
        name = said.pop("solver")
        request = write_request(
            said.pop("mode"),
            said.pop("text"),
            said.pop("blanks"),
            fields.entered(name, values[len(_NAMES) :]),
            name,
            **said,
        )
        found = write(bench.models, request, job, hide_source=bench.hides_paths)
        return found, found.write(bench.shelf.place())

    def show(result: tuple[Written, Path]) -> list[Any]:
        found, file = result
        about = found.summary
        calls = messages.counted(about["calls"], "network call")
        skipped = f"{about['skipped']} skipped" if about["skipped"] else ""
        return [
            messages.finished(calls, skipped, messages.seconds_text(about["seconds"])),
            found.view,
            found.command,
            found.python,
            gr.update(value=str(file), interactive=True),
        ]

    handler = bench.event(
        "write", [*_NAMES, *fields.names], work, show, 4, partly=lambda shown: [shown, *[gr.skip()] * 3]
    )
    inputs = [mode, text, blanks, model, solver, steps, length, temperature, top_p, guidance, seed, count]
    parts.start_event(bench, made, handler, [*inputs, *fields.widgets], [paper, *repeated.outputs], "write")
    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    mode.change(
        lambda name: [gr.update(visible=name == CONTINUE), gr.update(visible=name == FILL)],
        mode,
        [text, filling],
        **quick,
    )
    solver.change(fields.visible, solver, fields.outputs, **quick)

    def clickable_words(written: str, name: str) -> tuple[str, str]:
        tokenizer = bench.models.get(name, WRITE).tokenizer
        return words(written or "", tokenizer), written

    for event in (source.blur, source.submit, model.change):
        event(refused(clickable_words), [source, model], [clickable, blanks], **quick)
