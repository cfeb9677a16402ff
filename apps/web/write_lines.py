"""A text run as a command and as Python."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from .repeat import Name, call, command

if TYPE_CHECKING:
    from .write import WriteRequest


def shaped(number: float) -> float | None:
    """A shaping of 1 is none, and leaves what the model's scheduler says."""
    return None if number == 1 else float(number)


def _options(request: WriteRequest, source: str) -> dict[str, Any]:
    return {
        "model": source,
        "solver": request.solver,
        **request.fields,
        "steps": request.steps,
        "length": request.length,
        "temperature": shaped(request.temperature),
        "top_p": shaped(request.top_p),
        "guidance": None if request.guidance == 1 else request.guidance,
        "seed": request.seed,
        "count": None if request.count == 1 else request.count,
    }


def write_command(request: WriteRequest, source: str) -> str:
    """The same run on the command line; a text with blanks goes through a file."""
    options = _options(request, source)
    if request.infill is None:
        return command("text", [] if request.prompt is None else [request.prompt], options)
    first = f"printf %s {shlex.quote(request.infill)} > blanks.txt"
    return first + "\n" + command("text", [], {"infill": "blanks.txt", **options})


def write_python(request: WriteRequest, source: str) -> str:
    """The same run in Python."""
    making = {
        "infill": request.infill,
        "length": request.length,
        "num_inference_steps": request.steps,
        "guidance_scale": None if request.guidance == 1 else request.guidance,
        "temperature": shaped(request.temperature),
        "top_p": shaped(request.top_p),
        "num_texts_per_prompt": None if request.count == 1 else request.count,
        "generator": Name(f"generators({request.seeds})"),
    }
    return "\n".join(
        [
            "from fewstep.pipelines import load_text",
            "from fewstep.samplers import generators",
            "",
            "pipe = " + call("load_text", [source, request.solver], request.fields),
            "texts = " + call("pipe", [] if request.prompt is None else [request.prompt], making) + ".texts",
        ]
    )
