"""A restoration as a command and as Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .repeat import Name, call, command

if TYPE_CHECKING:
    from .restore import RestoreAsked


def _options(asked: RestoreAsked, source: str) -> dict[str, Any]:
    return {
        "task": asked.task,
        "model": source,
        "sigma": asked.sigma or None,
        "mask": None if asked.mask is None else "mask.png",
        **asked.options,
        "method": asked.method,
        **asked.fields,
        "steps": asked.steps,
        "prompt": asked.prompt or None,
        "samples": None if asked.samples == 1 else asked.samples,
        "seed": asked.seed or None,
        "simulate": asked.simulate or None,
    }


def restore_command(asked: RestoreAsked, picture: str, target: str, source: str) -> str:
    """The same run on the command line; the mask is in the download."""
    return command("restore", [picture, target], _options(asked, source))


def restore_python(asked: RestoreAsked, picture: str, source: str) -> str:
    """The same restoration in Python, from the measurement to the picture."""
    options = dict(asked.options)
    lines = [
        "from fewstep.pipelines import load_restoration",
        "from fewstep.pipelines.editing.pictures import read_picture",
    ]
    lines.append("from fewstep.pipelines.restoration.measured import measured")
    if asked.mask is not None:
        lines.append("from fewstep.pipelines.editing.masks import read_mask")
        options["mask"] = Name("read_mask('mask.png', picture.size) < 0.5")
    lines += ["from fewstep.samplers import generators", "", f"picture = read_picture({picture!r})"]
    making = {"sigma": asked.sigma or None, "simulate": asked.simulate or None, "seed": asked.seed or None, **options}
    lines.append("found = " + call("measured", [asked.task, Name("picture")], making))
    running = {
        "method": asked.method,
        "method_options": asked.fields or None,
        "num_inference_steps": asked.steps,
        "prompt": asked.prompt or None,
        "num_samples": None if asked.samples == 1 else asked.samples,
        "size": Name("found.size"),
        "generator": Name(f"generators({[asked.seed + i for i in range(asked.samples)]})"),
    }
    positional = [Name("found.y"), Name("found.operator"), Name("found.noise_sigma")]
    lines.append("images = " + call(f"load_restoration({source!r})", positional, running) + ".images")
    return "\n".join(lines)
