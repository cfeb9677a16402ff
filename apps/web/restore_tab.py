"""The tab Restore."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from . import messages, parts
from .bench import Bench
from .edit_tab import brush, on_canvas, pick_from_folders
from .guarded import LIMITS, PictureUpload
from .jobs import Job
from .models import RESTORE
from .restore import AUTO, MOST_SAMPLES, RestoreMade, method_options, restore, restore_asked, tasks
from .settings import MAX_PROMPT
from .uploads import canvas_of

_NAMES = (
    "picture",
    "task",
    "model",
    "sigma",
    "simulate",
    "mask",
    "method",
    "steps",
    "prompt",
    "samples",
    "seed",
    "kernel",
    "blur_sigma",
    "kernel_seed",
    "luma",
)
_TASK_OPTIONS = ("kernel", "blur_sigma", "kernel_seed", "luma")

_FOLDER = Path(__file__).with_name("examples")
#: A label, and what it enters; the picture by its name.
EXAMPLES = (
    ("Four times as large", ("cat.png", "sr4", 0, True)),
    ("Denoise", ("cat.png", "denoise", 25, True)),
    ("Colorize", ("cat.png", "colorize", 0, True)),
)


def restore_tab(bench: Bench) -> None:
    """Build the tab."""
    models, methods = bench.models.names(RESTORE), method_options()
    first = "photo-prior" if "photo-prior" in models else (models[0] if models else None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = PictureUpload(
                label="Picture",
                type="pil",
                image_mode=None,
                format="png",
                sources=["upload", "clipboard"],
                height=260,
                placeholder=f"Drop a picture here, or click to upload.\n{LIMITS}",
                elem_classes="fs-picture",
                buttons=[],
            )
            pick_from_folders(bench, picture)
            with gr.Row():
                task = gr.Dropdown(tasks(), value="sr4", label="Task", info="What was done to it.", min_width=140)
                model = gr.Dropdown(models, value=first, label="Model", info="That knows pictures.", min_width=140)
            with gr.Row():
                sigma = gr.Slider(0, 100, 0, step=1, label="Sigma", info="Noise of the input, of 255.", min_width=140)
                samples = gr.Slider(
                    1, MOST_SAMPLES, 1, step=1, label="Samples", info="Two and more show doubt.", min_width=140
                )
            simulate = gr.Checkbox(
                False, label="Simulate", info="The picture is clean: degrade it first, and say how near the result is."
            )
            with gr.Accordion("Mask: paint what is missing (inpaint)", open=False):
                mask = brush("Missing")
            with gr.Accordion("Method, steps, seed", open=False):
                method = gr.Dropdown([AUTO, *methods], value=AUTO, label="Method", info="How the data are heeded.")
                with gr.Row():
                    steps = gr.Number(
                        0, label="Steps", precision=0, minimum=0, info="0: what suits the method.", min_width=140
                    )
                    seed = gr.Number(
                        0, label="Seed", precision=0, minimum=0, info="Of the first sample.", min_width=140
                    )
                fields = parts.method_fields(methods, "")
                prompt = gr.Textbox("", label="Prompt", info="Of Stable Diffusion models alone.", max_length=MAX_PROMPT)
            with gr.Accordion("What the degradation was", open=False):
                kernel = gr.Dropdown(
                    ["bicubic", "lanczos", "area"], value="bicubic", label="Kernel", info="Of sr2, sr4, sr8."
                )
                blur = gr.Slider(0.5, 10, 3.0, step=0.1, label="Blur sigma", info="Of gaussian-deblur, in pixels.")
                shake = gr.Number(0, label="Kernel seed", precision=0, minimum=0, info="Of motion-deblur, simulated.")
                luma = gr.Dropdown(["rec601", "mean"], value="rec601", label="Luma", info="Of colorize.")
        with gr.Column(scale=3, min_width=300):
            made = parts.controls(
                "Restore", "What the picture says is kept; what it does not say is drawn by the model."
            )
            slider = gr.ImageSlider(
                label="Before | after",
                type="pil",
                format="png",
                interactive=False,
                max_height=460,
                buttons=["fullscreen"],
            )
            figures = gr.HTML("")
            with gr.Row():
                doubt = gr.Image(
                    label="Uncertainty",
                    type="pil",
                    format="png",
                    interactive=False,
                    visible=False,
                    height=240,
                    buttons=[],
                )
                rest = gr.Image(
                    label="Residual",
                    type="pil",
                    format="png",
                    interactive=False,
                    visible=False,
                    height=240,
                    buttons=[],
                )
            repeated = parts.repeat(parts.download("Download the results, with the settings inside"))
    rows = [(label, [str(_FOLDER / name), *values]) for label, (name, *values) in EXAMPLES]
    parts.examples(rows, [picture, task, sigma, simulate])

    def work(job: Job, *values: Any) -> RestoreMade:
        said = dict(zip(_NAMES, values, strict=False))
        chosen = said.pop("method")
        options = {name: said.pop(name) for name in _TASK_OPTIONS}
        usual = {"kernel": "bicubic", "blur_sigma": 3.0, "luma": "rec601"}
        asked = restore_asked(
            said.pop("picture"),
            said.pop("task"),
            chosen,
            fields.entered(chosen, values[len(_NAMES) :]),
            options={name: value for name, value in options.items() if value is not None and value != usual.get(name)},
            **said,
        )
        return restore(bench.models, asked, bench.shelf.place(), job, hide_source=bench.hides_paths)

    def show(found: RestoreMade) -> list[Any]:
        calls = messages.counted(found.calls, "network call")
        backward = f"{found.backward} backward" if found.backward else ""
        return [
            messages.finished(calls, backward, messages.seconds_text(found.seconds)),
            (canvas_of(found.before), canvas_of(found.after)),
            figures_table(found.figures),
            gr.update(value=_shown(found.uncertainty), visible=found.uncertainty is not None),
            gr.update(
                value=_shown(found.residual_map),
                visible=found.residual_map is not None,
                label=f"Residual, {found.residual_gain:g} times",
            ),
            found.command,
            found.python,
            gr.update(value=str(found.file), interactive=True),
        ]

    handler = bench.event("restore", [*_NAMES, *fields.names], work, show, 7)
    inputs = [
        picture,
        task,
        model,
        sigma,
        simulate,
        mask,
        method,
        steps,
        prompt,
        samples,
        seed,
        kernel,
        blur,
        shake,
        luma,
    ]
    outputs = [slider, figures, doubt, rest, *repeated.outputs]
    parts.start_event(bench, made, handler, [*inputs, *fields.widgets], outputs, "restore")
    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    picture.change(on_canvas, picture, [mask, made.status], **quick)
    method.change(fields.visible, method, fields.outputs, **quick)


def _shown(image: Any) -> Any:
    return None if image is None else canvas_of(image)


def figures_table(figures: list[tuple[str, str]]) -> str:
    """Figures of a run, as a small table."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>' for name, value in figures
    )
    return f'<table class="fs-figures">{rows}</table>'
