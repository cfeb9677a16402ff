"""The tab Compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from fewstep.pipelines import GRIDS

from . import messages, parts
from .bench import Bench
from .compare import (
    MOST_COUNTS,
    MOST_SAMPLERS,
    REFERENCE_STEPS,
    Compared,
    References,
    choices,
    compare,
    compare_request,
)
from .draw import OWN_GRID
from .jobs import Job
from .models import DRAW
from .settings import MAX_PROMPT
from .tables import comparison

_NAMES = ("prompt", "model", "samplers", "steps", "guidance", "grid", "seed", "view")
_VIEWS = ("pictures", "differences")

#: A label, and what it enters.
EXAMPLES = (
    (
        "Momentum at strong guidance",
        ["a brown sandal on a light blue background", ["ghvb", "heavy-ball", "exponential-adams"], "5, 8", 7.5],
    ),
    (
        "Errors at mild guidance",
        ["a red ankle boot on a white background", ["exponential-adams", "lml"], "5, 10, 20", 3.0],
    ),
)


def compare_tab(bench: Bench) -> None:
    """Build the tab."""
    models = bench.models.names(DRAW)
    references = References()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                str(EXAMPLES[1][1][0]),
                label="Prompt",
                info="What the pictures shall show.",
                lines=2,
                max_length=MAX_PROMPT,
            )
            model = gr.Dropdown(
                models, value=models[0] if models else None, label="Model", info="The network that draws."
            )
            names = gr.Dropdown(
                choices(),
                value=["exponential-adams", "lml", "diffusers:DDIMScheduler"],
                multiselect=True,
                max_choices=MOST_SAMPLERS,
                label="Samplers",
                info="With the defaults of their fields; all begin with the same noise.",
            )
            steps = gr.Textbox("5, 10", label="Steps", info=f"Up to {MOST_COUNTS} numbers, separated by commas.")
            with gr.Row():
                guidance = gr.Slider(0, 20, 3.0, step=0.5, label="Guidance", info="Scale; 1 is none.", min_width=140)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Of the noise.", min_width=140)
            grid = gr.Dropdown([OWN_GRID, *GRIDS], value=OWN_GRID, label="Grid", info="Where the noise levels lie.")
        with gr.Column(scale=3, min_width=300):
            made = parts.controls(
                "Compare", f"The solution is computed first, in {REFERENCE_STEPS} steps, and kept for the next time."
            )
            view = gr.Radio(
                list(_VIEWS),
                value=_VIEWS[0],
                label="View",
                info="Differences from the solution are shown 4 times as bright.",
            )
            table = gr.HTML("")
            repeated = parts.repeat(parts.download("Download the sheet, with the settings inside"))
            kept = parts.state()
    parts.examples(EXAMPLES, [prompt, names, steps, guidance])

    def work(job: Job, *values: Any) -> tuple[Compared, Path, dict[str, str], str]:
        said = dict(zip(_NAMES, values, strict=True))
        shown = said.pop("view")
        grid_ = said.pop("grid")
        chosen = said.pop("samplers")
        request = compare_request(
            chosen, said.pop("steps"), said.pop("seed"), grid=None if grid_ == OWN_GRID else grid_, **said
        )
        found = compare(bench.models, references, request, job, hide_source=bench.hides_paths)
        return found, found.sheet(bench.shelf.place()), {name: comparison(found, name) for name in _VIEWS}, shown

    def show(result: tuple[Compared, Path, dict[str, str], str]) -> list[Any]:
        found, file, tables, shown = result
        calls = messages.counted(found.calls, "network call")
        return [
            messages.finished(calls, messages.seconds_text(found.seconds), "without the solution"),
            tables.get(shown, tables["pictures"]),
            found.command,
            found.python,
            gr.update(value=str(file), interactive=True),
            tables,
        ]

    handler = bench.event("compare", _NAMES, work, show, 5)
    inputs = [prompt, model, names, steps, guidance, grid, seed, view]
    parts.start_event(bench, made, handler, inputs, [table, *repeated.outputs, kept], "compare")
    view.change(
        lambda tables, name: (tables or {}).get(name, ""),
        [kept, view],
        table,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
