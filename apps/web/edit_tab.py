"""The tab Edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from . import messages, parts
from .bench import Bench, refused
from .edit import FLOW_EDIT, STRATEGIES, EditMade, Kept, edit, edit_request, solvers
from .guarded import LIMITS, MaskBrush, PictureUpload
from .jobs import Job
from .models import EDIT
from .settings import MAX_PROMPT, MAX_STEPS
from .uploads import Refused, canvas_of, folder_pictures, read_upload

_NAMES = (
    "picture",
    "source",
    "target",
    "model",
    "solver",
    "steps",
    "strategy",
    "inject",
    "guidance",
    "skip",
    "mask",
    "seed",
)

_FOLDER = Path(__file__).with_name("examples")
#: A label, and what it enters; the picture by its name.
EXAMPLES = (
    (
        "Sneaker: red to blue",
        ("red-sneaker.png", "a red sneaker on a white background", "a blue sneaker on a white background"),
    ),
    (
        "Coat: green to red",
        ("green-coat.png", "a green coat on a white background", "a red coat on a white background"),
    ),
    (
        "Bag: brown to yellow",
        ("brown-bag.png", "a brown bag on a light blue background", "a yellow bag on a light blue background"),
    ),
)

#: What the status line says once a picture is there.
TAKEN = "The picture is here."

#: Of the brush: side of its canvas in pixels, and its width.
_CANVAS, _BRUSH = 384, 40


def brush(label: str) -> MaskBrush:
    """A canvas for a mask."""
    return MaskBrush(
        label=label,
        type="pil",
        sources=(),
        transforms=(),
        layers=False,
        format="png",
        canvas_size=(_CANVAS, _CANVAS),
        brush=gr.Brush(default_size=_BRUSH, colors=["#0f766e"], color_mode="fixed"),
        eraser=gr.Eraser(default_size=_BRUSH),
        height=_CANVAS + 90,
        buttons=[],
        elem_classes="fs-pixels",
    )


def on_canvas(picture: Any) -> tuple[Any, Any]:
    """The picture on an empty canvas, and the status line, which says why a picture was not taken."""
    if picture is None:
        return None, gr.skip()
    if isinstance(picture, Refused):
        return None, messages.failed(picture.sentence)
    return {"background": canvas_of(picture), "layers": [], "composite": None}, messages.idle(TAKEN)


def pick_from_folders(bench: Bench, picture: Any) -> None:
    """A list of the pictures that the owner allows, if there are any."""
    found = folder_pictures(bench.settings.folders)
    if not found:
        return
    pick = gr.Dropdown(list(found), value=None, label="Pick from a folder", info="Instead of an upload.")

    def read(name: str) -> Any:
        if name not in found:
            raise ValueError(f"there is no picture {name!r} to pick")
        read_upload(found[name])
        copy = bench.shelf.place() / found[name].name
        copy.write_bytes(found[name].read_bytes())
        return str(copy)

    pick.input(refused(read), pick, picture, queue=False, api_visibility="private")


def edit_tab(bench: Bench) -> dict[str, Any]:
    """Build the tab; components that other tabs use."""
    models = bench.models.names(EDIT)
    first = "garments-flow" if "garments-flow" in models else (models[0] if models else None)
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
                elem_classes=["fs-picture", "fs-pixels"],
                buttons=[],
            )
            pick_from_folders(bench, picture)
            source = gr.Textbox(
                "",
                label="What it shows",
                info="The words the model would draw it from; may be empty.",
                max_length=MAX_PROMPT,
                placeholder=EXAMPLES[0][1][1],
            )
            target = gr.Textbox(
                "",
                label="What it shall show",
                info="The same words, changed where the picture shall change.",
                max_length=MAX_PROMPT,
                placeholder=EXAMPLES[0][1][2],
            )
            with gr.Row():
                model = gr.Dropdown(models, value=first, label="Model", info="The network that edits.", min_width=140)
                solver = gr.Dropdown(
                    solvers(), value="fireflow", label="Solver", info="How it is inverted.", min_width=140
                )
            with gr.Row():
                steps = gr.Slider(1, MAX_STEPS, 8, step=1, label="Steps", info="For either direction.", min_width=140)
                inject = gr.Slider(
                    0, 20, 1, step=1, label="Injection", info="Steps that keep its features.", min_width=140
                )
            with gr.Accordion("Mask: paint where the picture may change", open=False):
                mask = brush("Mask")
            with gr.Accordion("Strategy, guidance, skip, seed", open=False):
                strategy = gr.Dropdown(
                    list(STRATEGIES), value=STRATEGIES[0], label="Strategy", info="Features of the picture to put back."
                )
                guidance = gr.Slider(0, 20, 2.0, step=0.5, label="Guidance", info="Of the edit; 1 is none.")
                skip = gr.Slider(
                    0, 20, 0, step=1, label="Skip", info="Steps at the noise end to leave out: more keeps more."
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="Of flowedit and rf-inversion.")
        with gr.Column(scale=3, min_width=300):
            made = parts.controls("Edit", "The inversion of a picture is kept: a second edit of it takes half as long.")
            slider = gr.ImageSlider(
                label="Reconstruction | edit",
                type="pil",
                format="png",
                interactive=False,
                max_height=460,
                buttons=["fullscreen"],
            )
            repeated = parts.repeat(parts.download("Download the edit, with the settings inside"))
            kept = parts.state()
    rows = [(label, [str(_FOLDER / name), *words]) for label, (name, *words) in EXAMPLES]
    parts.examples(rows, [picture, source, target])

    def work(job: Job, *values: Any) -> EditMade:
        said = dict(zip(_NAMES, values, strict=False))
        before = values[len(_NAMES)] if len(values) > len(_NAMES) else None
        request = edit_request(said.pop("picture"), said.pop("source"), **said)
        found = edit(
            bench.models, request, before if isinstance(before, Kept) else None, job, hide_source=bench.hides_paths
        )
        return found

    def show(found: EditMade) -> list[Any]:
        file = found.write(bench.shelf.place(), found.settings["picture"])
        calls = messages.counted(found.calls, "network call")
        fidelity = "" if found.psnr is None else f"reconstruction {found.psnr:.1f} dB"
        reused = "inversion reused" if found.reused else ""
        return [
            messages.finished(calls, messages.seconds_text(found.seconds), reused, fidelity),
            (canvas_of(over_white(found.back)), canvas_of(over_white(found.image))),
            found.command,
            found.python,
            gr.update(value=str(file), interactive=True),
            found.kept,
        ]

    handler = bench.event("edit", [*_NAMES, "kept"], work, show, 5)
    inputs = [picture, source, target, model, solver, steps, strategy, inject, guidance, skip, mask, seed, kept]
    parts.start_event(bench, made, handler, inputs, [slider, *repeated.outputs, kept], "edit")
    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    picture.change(on_canvas, picture, [mask, made.status], **quick)
    solver.change(lambda name: [gr.update(interactive=name != FLOW_EDIT)] * 2, solver, [strategy, inject], **quick)
    return {"picture": picture, "source": source, "target": target}


def over_white(image: Any) -> Any:
    """The picture without transparency, for a slider."""
    from PIL import Image

    if image.mode in ("RGB", "L"):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
