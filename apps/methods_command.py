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
    from fewstep.samplers import Method, TokenMethod


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, or one of its other names.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Methods for tokens alone.")] = False,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print the references as BibTeX.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the samplers, or show the formula, the fields and the reference of one."""
    from fewstep.samplers import TOKEN_METHODS
    from fewstep.samplers import methods as registered

    known = registered()
    chosen: list[Any]
    if name is None:
        chosen = [] if tokens else [cls() for cls in known.values()]
        chosen += [cls() for cls in TOKEN_METHODS.values()]
    else:
        chosen = _named(name, tokens)
    if bibtex:
        entries = {reference.key: reference.bibtex() for method in chosen for reference in method.references}
        output.print("\n\n".join(entries.values()), markup=False)
    elif as_json:
        described = [describe(method) for method in chosen]
        print_json(described if name is None else described[0])
    elif name is None:
        pictures = [method for method in chosen if not _is_for_tokens(method)]
        if pictures:
            output.print(_overview(pictures), soft_wrap=False)
            output.print()
        output.print(_token_overview([method for method in chosen if _is_for_tokens(method)]), soft_wrap=False)
        output.print("`fewstep methods NAME` shows the formula, the fields and the reference of one.")
    else:
        for k, method in enumerate(chosen):
            if k:
                output.print()
            (_show_token if _is_for_tokens(method) else _show)(method)


def _is_for_tokens(method: Any) -> bool:
    from fewstep.samplers import TokenMethod

    return isinstance(method, TokenMethod)


def _named(name: str, tokens: bool) -> list[Any]:
    """The methods of a name: one for pictures, one for tokens, or both."""
    from fewstep.samplers import methods as registered
    from fewstep.samplers import resolve, token_method

    if tokens:
        return [token_method(name)]
    try:
        found: list[Any] = [registered()[resolve(name).method.name]()]
    except ValueError as error:
        try:
            return [token_method(name)]
        except ValueError:
            raise error from None
    try:
        return [*found, token_method(name)]
    except ValueError:
        return found


def describe(method: Method | TokenMethod) -> dict[str, Any]:
    """All there is to say about a method with its default fields, as JSON knows it."""
    from fewstep.samplers import TokenMethod

    if isinstance(method, TokenMethod):
        return {
            "name": method.name,
            "for": "tokens",
            "when": method.summary,
            "formula": method.formula,
            "order": method.order,
            "calls": method.stages,
            "outputs_kept": method.memory,
            "stochastic": True,
            "fields": _fields(method),
            "other_names": {key: {} for key in _short_names(method)},
            "references": [dataclasses.asdict(reference) for reference in method.references],
        }
    spec = method.spec
    return {
        "name": method.name,
        "for": "pictures",
        "when": method.summary,
        "formula": method.formula,
        "order": spec.order,
        "order_needs": spec.order_needs,
        "calls": spec.calls,
        "extra_calls": spec.extra_calls,
        "latents_kept": spec.history,
        "stochastic": spec.stochastic,
        "fields": _fields(method),
        "other_names": {key: other.fields for key, other in _other_names(method).items()},
        "references": [dataclasses.asdict(reference) for reference in method.references],
    }


def _fields(method: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": item.name,
            "default": item.default,
            "allowed": allowed_values(item),
            "help": item.metadata.get("help", ""),
        }
        for item in dataclasses.fields(method)
    ]


def _short_names(method: TokenMethod) -> list[str]:
    from fewstep.samplers import token_method

    names = ("trapezoidal", "rk2", "tau", "adams")
    return [name for name in names if token_method(name).name == method.name]


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


def _token_overview(chosen: list[TokenMethod]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    numbers = ("order", "calls\na step", "outputs\nkept")
    for heading in ("for tokens", "when", *numbers, "paper"):
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=heading == "for tokens")
    for method in chosen:
        paper = _cite(method.references[0]) if method.references else ""
        row = (f"[bold]{method.name}[/]", escape(method.summary), str(method.order), str(method.stages))
        table.add_row(*row, str(method.memory), escape(paper))
    return table


def _show_token(method: TokenMethod) -> None:
    output.print(f"[bold]{method.name}[/]  for tokens: {escape(method.summary)}\n")
    output.print(f"  {escape(method.formula)}\n")
    calls = f"{method.stages} network call{'s' if method.stages > 1 else ''} a step"
    output.print(f"order {method.order} in law, {calls}, outputs kept {method.memory}\n")
    _show_rest(method, [(key, {}) for key in _short_names(method)])


def _show(method: Method) -> None:
    spec = method.spec
    output.print(f"[bold]{method.name}[/]  {escape(method.summary)}\n")
    output.print(f"  {escape(method.formula)}\n")
    needs = "" if spec.order_needs == "any" else f" (needs {spec.order_needs})"
    calls = f"{spec.calls} network call{'s' if spec.calls > 1 else ''} a step"
    calls += f" and {spec.extra_calls} more in a run" if spec.extra_calls else ""
    output.print(f"order {spec.order}{needs}, {calls}, latents kept {spec.history}\n")
    _show_rest(method, [(key, other.fields) for key, other in _other_names(method).items()])


def _show_rest(method: Any, others: list[tuple[str, dict[str, Any]]]) -> None:
    """Fields, other names, text and references of a method."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("option", "default", "allowed", ""):
        table.add_column(heading, no_wrap=heading == "option")
    for item in dataclasses.fields(method):
        default = "none" if item.default is None else str(item.default)
        default = default.lower() if isinstance(item.default, bool) else default
        option = f"[bold]--{item.name.replace('_', '-')}[/]"
        table.add_row(option, default, escape(allowed_values(item)), escape(item.metadata.get("help", "")))
    if dataclasses.fields(method):
        output.print(table, soft_wrap=False)
    if others:
        output.print("\nother names")
        for key, set_by_it in others:
            fields = ", ".join(f"{field} {value}" for field, value in set_by_it.items())
            output.print(f"  {escape(key)}" + (f"  ({escape(fields)})" if fields else ""))
    output.print()
    output.print(inspect.getdoc(type(method)) or "", markup=False)
    output.print()
    for reference in method.references:
        title = f"{reference.authors}: {reference.title}"
        output.print(escape(f"{title}. {reference.year}" + (f", arXiv {reference.arxiv}" if reference.arxiv else "")))
