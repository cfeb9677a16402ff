"""A run of pictures in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .repeat import Name, call

if TYPE_CHECKING:
    from .draw import DrawRequest


def draw_python(request: DrawRequest, source: str) -> str:
    """The same run in Python."""
    mode = None if request.guidance_mode == "cfg" and request.interval is None else request.guidance_mode
    loading = {"grid": request.grid, "guidance": mode, "interval": request.interval, **request.fields}
    making = {
        "steps": request.steps,
        "guidance": request.guidance,
        "seed": request.seed,
        "count": None if request.count == 1 else request.count,
        "negative": request.negative,
        "cache": request.cache,
    }
    return "\n".join(
        [
            "from fewstep.pipelines import generate, load",
            "",
            "pipe = " + call("load", [source, request.sampler], loading),
            "images = " + call("generate", [Name("pipe"), request.prompt], making) + ".images",
        ]
    )
