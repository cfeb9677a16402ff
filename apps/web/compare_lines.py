"""A comparison as commands and as Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .repeat import command

if TYPE_CHECKING:
    from .compare import CompareRequest


def compare_commands(request: CompareRequest, source: str) -> str:
    """The same pictures, one sheet for each number of steps."""
    lines = []
    for steps in request.steps:
        options = {
            "model": source,
            "compare": ",".join(request.samplers),
            "grid": request.grid,
            "steps": steps,
            "guidance": request.guidance,
            "seed": request.seed,
            "count": 1,
        }
        if len(request.steps) > 1:
            options["out"] = f"steps-{steps}.png"
        lines.append(command("generate", [request.prompt], options))
    return "\n".join(lines)


def compare_python(request: CompareRequest, source: str) -> str:
    """The same pictures in Python."""
    grid = "" if request.grid is None else f", grid={request.grid!r}"
    return "\n".join(
        [
            "from fewstep.pipelines import generate, load",
            "",
            f"pipes = {{name: load({source!r}, name{grid}) for name in {list(request.samplers)!r}}}",
            f"images = {{(name, n): generate(pipe, {request.prompt!r}, steps=n, guidance={request.guidance!r}, "
            f"seed={request.seed}).images[0] for name, pipe in pipes.items() for n in {list(request.steps)!r}}}",
        ]
    )
