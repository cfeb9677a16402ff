"""The tab Draw."""

from __future__ import annotations

from typing import Any

import gradio as gr

from fewstep.pipelines import DEFAULT_SAMPLER, GRIDS, GUIDANCE_MODES
from fewstep.pipelines.swapping import options_of

from . import messages, parts
from .bench import Bench
from .draw import OWN_GRID, Drawn, draw, draw_request, samplers
from .jobs import Job
from .models import DRAW
from .settings import MAX_COUNT, MAX_PROMPT, MAX_STEPS
from .shelf import one_file

#: Below so many pixels a side pictures are shown pixel by pixel.
_SMALL = 128

_NAMES = (
    "prompt",
    "model",
    "sampler",
    "grid",
    "steps",
    "guidance",
    "guidance_mode",
    "guidance_interval",
    "cache",
    "negative",
    "seed",
    "count",
)

#: A label, and what it enters.
EXAMPLES = (
    ("Red ankle boot", ["a red ankle boot on a white background", "exponential-adams", 8, 3.0]),
    ("Brown sandal, strong guidance", ["a brown sandal on a light blue background", "ghvb", 8, 7.5]),
    ("Yellow dress, 6 steps", ["a yellow dress on a light blue background", "lml", 6, 3.0]),
    ("Blue sneaker, 5 steps", ["a blue sneaker on a white background", "heavy-ball", 5, 5.0]),
)


def draw_tab(bench: Bench) -> dict[str, Any]:
    """Build the tab; components that other tabs use."""
    known, models = samplers(), bench.models.names(DRAW)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                str(EXAMPLES[0][1][0]),
                label="Prompt",
                info="What the pictures shall show.",
                lines=2,
                max_length=MAX_PROMPT,
            )
            with gr.Row():
                model = gr.Dropdown(
                    models, value=_first(models), label="Model", info="The network that draws.", min_width=140
                )
                sampler = gr.Dropdown(
                    list(known), value=DEFAULT_SAMPLER, label="Sampler", info="How its steps are taken.", min_width=140
                )
            note = gr.HTML(parts.method_note(known[DEFAULT_SAMPLER]))
            with gr.Row():
                steps = gr.Slider(1, MAX_STEPS, 8, step=1, label="Steps", info="Of the sampler.", min_width=140)
                guidance = gr.Slider(0, 20, 3.0, step=0.5, label="Guidance", info="Scale; 1 is none.", min_width=140)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Of the first picture.", min_width=140)
                count = gr.Slider(1, MAX_COUNT, 4, step=1, label="Count", info="How many pictures.", min_width=140)
            with gr.Accordion("Fields of the sampler", open=False):
                fields = parts.method_fields({name: options_of(name) for name in known}, DEFAULT_SAMPLER)
            with gr.Accordion("Grid, guidance mode, cache", open=False):
                grid = gr.Dropdown([OWN_GRID, *GRIDS], value=OWN_GRID, label="Grid", info="Where the noise levels lie.")
                mode = gr.Dropdown(
                    list(GUIDANCE_MODES), value="cfg", label="Guidance mode", info="How guidance is applied."
                )
                interval = gr.Textbox(
                    "all", label="Guidance interval", info="LO,HI: noise levels with guidance; all is every one."
                )
                cache = gr.Dropdown(
                    ["none", "ab:order=2,interval=2", "ab:order=2,interval=3", "ab:order=3,interval=3"],
                    value="none",
                    label="Cache",
                    info="Extrapolate network calls instead of making them; pays from 20 steps on.",
                    allow_custom_value=True,
                )
                negative = gr.Textbox("", label="Negative", info="What the pictures should not show.")
        with gr.Column(scale=3, min_width=300):
            made = parts.controls("Draw", "Four pictures of 32 x 32 pixels take about a second.")
            gallery = gr.Gallery(
                label="Pictures",
                columns=2,
                height="auto",
                object_fit="contain",
                format="png",
                elem_classes=["fs-gallery", "fs-pixels"],
                buttons=["download", "fullscreen"],
            )
            with gr.Row():
                download = parts.download("Download, with the settings inside")
                onward = gr.Button("Edit the chosen picture", size="md", interactive=False, min_width=140)
            repeated = parts.repeat(download)
            drawn, place = parts.state(), gr.State(0)
    parts.examples(EXAMPLES, [prompt, sampler, steps, guidance])

    def work(job: Job, *values: Any) -> tuple[Drawn, list[Any]]:
        said = dict(zip(_NAMES, values, strict=False))
        chosen = said.pop("sampler")
        said["interval"] = said.pop("guidance_interval")
        request = draw_request(chosen, fields.entered(chosen, values[len(_NAMES) :]), **said)
        found = draw(bench.models, request, job, hide_source=bench.hides_paths)
        return found, found.write(bench.shelf.place(), request.prompt)

    def show(result: tuple[Drawn, list[Any]]) -> list[Any]:
        found, files = result
        calls = messages.counted(found.calls, "network call")
        skipped = f"{found.skipped} skipped" if found.skipped else ""
        items = [(str(file), f"seed {seed}") for file, seed in zip(files, found.seeds, strict=True)]
        small = max(found.images[0].size) < _SMALL
        return [
            messages.finished(
                calls,
                skipped,
                messages.seconds_text(found.seconds),
                f"{found.images[0].width} x {found.images[0].height} pixels",
            ),
            gr.update(
                value=items,
                columns=min(3, max(1, round(len(items) ** 0.5))),
                elem_classes=["fs-gallery", *(["fs-pixels"] if small else [])],
            ),
            found.command,
            found.python,
            gr.update(value=str(one_file(files, "pictures")), interactive=True),
            gr.update(interactive=True),
            [str(file) for file in files],
            0,
        ]

    inputs = [prompt, model, sampler, grid, steps, guidance, mode, interval, cache, negative, seed, count]
    names = [*_NAMES, *fields.names]
    handler = bench.event("draw", names, work, show, 7)
    outputs = [gallery, *repeated.outputs, onward, drawn, place]
    parts.start_event(bench, made, handler, [*inputs, *fields.widgets], outputs, "draw")
    sampler.change(
        lambda name: [parts.method_note(known[name]), *fields.visible(name)],
        sampler,
        [note, *fields.outputs],
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
    gallery.select(_chosen, None, place, queue=False, api_visibility="private", show_progress="hidden")
    return {"onward": onward, "prompt": prompt, "drawn": drawn, "place": place}


def _chosen(event: gr.SelectData) -> int:
    return int(event.index)


def _first(models: list[str]) -> str | None:
    return models[0] if models else None
