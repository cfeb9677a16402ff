"""`fewstep methods`: what samplers there are, and what each of them takes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .terminal import output, print_json

if TYPE_CHECKING:
    from fewstep.samplers import Method


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, or one of its other names.")] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the references as BibTeX.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the samplers, or show the formula, the fields and the reference of one."""
    from fewstep.samplers import methods as registered
    from fewstep.samplers import resolve

    known = registered()
    if name is None:
        chosen = [cls() for cls in known.values()]
    else:
        chosen = [known[resolve(name).method.name]()]
    if bibtex:
        entries = {reference.key: reference.bibtex() for method in chosen for reference in method.references}
        output.print("\n\n".join(entries.values()), markup=False)
    elif as_json:
        described = [describe(method) for method in chosen]
        print_json(described if name is None else described[0])
    elif name is None:
        output.print(_overview(chosen), soft_wrap=False)
        output.print("`fewstep methods NAME` shows the formula, the fields and the reference of one.")
    else:
        _show(chosen[0])


def describe(method: Method) -> dict[str, Any]:
    """All there is to say about a method with its default fields, as JSON knows it."""
    spec = method.spec
    return {
        "name": method.name,
        "when": method.summary,
        "formula": method.formula,
        "order": spec.order,
        "order_needs": spec.order_needs,
        "calls": spec.calls,
        "latents_kept": spec.history,
        "stochastic": spec.stochastic,
        "fields": [
            {
                "name": item.name,
                "default": item.default,
                "allowed": allowed_values(item),
                "help": item.metadata.get("help", ""),
            }
            for item in dataclasses.fields(method)
        ],
        "other_names": {key: other.fields for key, other in _other_names(method).items()},
        "references": [dataclasses.asdict(reference) for reference in method.references],
    }


def allowed_values(item: dataclasses.Field[Any]) -> str:
    """What a field of a method may be: "2 to 5", "fixed, variable", "above 0, or auto"."""
    meta = item.metadata
    if isinstance(item.default, bool):
        return "true, false"
    if meta.get("table"):
        return "what `fewstep tune` found"
    if meta.get("choices") is not None:
        return ", ".join(map(str, meta["choices"]))
    low, high = meta.get("low"), meta.get("high")
    over = "above " if meta.get("open_low") else ""
    if low is None:
        text = "a number" if high is None else f"at most {high:g}"
    elif high is None:
        text = f"above {low:g}" if over else f"at least {low:g}"
    else:
        text = f"{over}{low:g} to {high:g}"
    return text + "".join(f", or {word}" for word in meta.get("words", ()))


def _other_names(method: Method) -> dict[str, Any]:
    from fewstep.samplers import aliases

    return {key: other for key, other in aliases().items() if other.method == method.name}


def _cite(reference: Any) -> str:
    where = f"arXiv {reference.arxiv}" if reference.arxiv else reference.venue
    first, _, rest = reference.authors.partition(" and ")
    surname = first.partition(",")[0] if "," in first else first.split()[-1]
    return f"{surname}{' et al.' if rest else ''} {reference.year}{', ' + where if where else ''}"


def _overview(chosen: list[Method]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    numbers = ("order", "calls\na step", "latents\nkept")
    for heading in ("method", "when", *numbers, "paper"):
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading == "method")
    for method in chosen:
        spec = method.spec
        paper = _cite(method.references[0]) if method.references else ""
        row = (f"[bold]{method.name}[/]", escape(method.summary), str(spec.order), str(spec.calls), str(spec.history))
        table.add_row(*row, escape(paper))
    return table


def _show(method: Method) -> None:
    spec = method.spec
    output.print(f"[bold]{method.name}[/]  {escape(method.summary)}\n")
    output.print(f"  {escape(method.formula)}\n")
    needs = "" if spec.order_needs == "any" else f" (needs {spec.order_needs})"
    calls = f"{spec.calls} network call{'s' if spec.calls > 1 else ''} a step"
    output.print(f"order {spec.order}{needs}, {calls}, latents kept {spec.history}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("option", "default", "allowed", ""):
        table.add_column(heading, no_wrap=heading == "option")
    for item in dataclasses.fields(method):
        default = "none" if item.default is None else str(item.default)
        default = default.lower() if isinstance(item.default, bool) else default
        option = f"[bold]--{item.name.replace('_', '-')}[/]"
        table.add_row(option, default, escape(allowed_values(item)), escape(item.metadata.get("help", "")))
    output.print(table, soft_wrap=False)
    others = _other_names(method)
    if others:
        output.print("\nother names")
        for key, other in others.items():
            fields = ", ".join(f"{field} {value}" for field, value in other.fields.items())
            output.print(f"  {escape(key)}" + (f"  ({escape(fields)})" if fields else ""))
    output.print()
    output.print(inspect.getdoc(type(method)) or "", markup=False)
    output.print()
    for reference in method.references:
        title = f"{reference.authors}: {reference.title}"
        output.print(escape(f"{title}. {reference.year}" + (f", arXiv {reference.arxiv}" if reference.arxiv else "")))
