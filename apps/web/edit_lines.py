"""An edit as a command and as Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .repeat import Name, call, command

if TYPE_CHECKING:
    from .edit import EditRequest

#: The solver without an inversion.
FLOW_EDIT = "flowedit"


def edit_command(request: EditRequest, source: str) -> str:
    """The same edit on the command line; the mask is in the download."""
    free = request.solver == FLOW_EDIT
    options = {
        "from": request.source,
        "to": request.target,
        "model": source,
        "steps": request.steps,
        "solver": request.solver,
        "strategy": None if free else request.strategy,
        "inject": None if free else request.inject,
        "guidance": request.guidance,
        "skip": request.skip or None,
        "mask": None if request.mask is None else "mask.png",
        "seed": request.seed or None,
    }
    return command("edit", [request.name], options)


def edit_python(request: EditRequest, source: str) -> str:
    """The same edit in Python."""
    mask = None if request.mask is None else "mask.png"
    lines = ["from fewstep.pipelines import FlowEdit, flow_edit, load_model", ""]
    if request.solver == FLOW_EDIT:
        settings = call("FlowEdit", [], {"skip": request.skip or None, "guidance": request.guidance})
        positional = [Name("pipe"), request.name, request.source, request.target, Name(settings)]
        more = {"steps": request.steps, "seed": request.seed, "mask": mask}
        return "\n".join(
            [*lines, f"pipe = load_model({source!r})", "picture = " + call("flow_edit", positional, more) + ".image"]
        )
    lines[0] = "from fewstep.pipelines import Injection, edit, invert, load_model"
    injection = Name(call("Injection", [request.strategy], {"steps": request.inject}))
    more = {
        "steps": request.steps,
        "solver": request.solver,
        "skip": request.skip or None,
        "injection": injection,
        "seed": request.seed or None,
    }
    inverting = call("invert", [Name("pipe"), request.name, request.source], more)
    editing = call(
        "edit", [Name("pipe"), Name("inversion"), request.target], {"guidance": request.guidance, "mask": mask}
    )
    return "\n".join(
        [*lines, f"pipe = load_model({source!r})", f"inversion = {inverting}", f"picture = {editing}.image"]
    )
