"""`fewstep text`: texts from a masked language model, all of their characters at once."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import notes, print_json, working
from .words import read_words

if TYPE_CHECKING:
    from fewstep.pipelines import MaskedTextOutput

_STEPS = 64


@dataclass(frozen=True)
class TextRequest:
    """One run, after the defaults, `--like` and the options have been put together."""

    prompt: str | None = None
    infill: str | None = None
    blank: str | None = None
    model: str = "verses"
    solver: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    calls: int | None = None
    length: int | None = None
    guidance: float = 1.0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    context: int | None = None
    seed: int = 0
    count: int = 1
    batch: int = 32
    dtype: str | None = None
    device: str | None = None

    @property
    def seeds(self) -> list[int]:
        return [self.seed + i for i in range(self.count)]


def text(
    context_: typer.Context,
    prompt: Annotated[
        list[str] | None, typer.Argument(help="How the text begins. Nothing: the model begins by itself.")
    ] = None,
    infill: Annotated[
        Path | None, typer.Option(help="A text file with blanks to fill, each [MASK] one token; see --blank.")
    ] = None,
    blank: Annotated[
        str | None, typer.Option(help="How a blank is written in that file. [dim]default: [MASK][/]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A shipped model, a folder, or owner/name on the hub: a masked LM. [dim]default: verses[/]"),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="adams, trapezoidal, rk2, tau, euler, tweedie, first-hitting, confidence. "
            "[dim]default: the model's own, else adams[/]"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the solver; of trapezoidal and rk2 each is two network calls. [dim]default: 64[/]"),
    ] = None,
    calls: Annotated[int | None, typer.Option(help="Network calls, instead of --steps.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens of the text, prompt included. [dim]default: what the model reads[/]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How much the given tokens count; 1 is none. [dim]default: 1[/]")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Below 1: likelier text. [dim]default: 1[/]")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep so many of the likeliest tokens.")] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens that a window of a long text looks back. [dim]default: half of what the model reads[/]"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first text; the next has the next. [dim]default: 0[/]")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many texts. [dim]default: 1[/]")] = None,
    batch: Annotated[
        int | None, typer.Option(help="How many go through the network together. [dim]default: 32[/]")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the text while it is written.")] = False,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the run that wrote this .json file; other options override.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "--output", "-o", help="Write .json (settings inside), or text (settings beside); or a folder."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print texts and settings as JSON.")] = False,
) -> None:
    """Write texts with a masked language model: from a beginning, into blanks, or from nothing."""
    from . import text_files

    given: dict[str, Any] = {
        "blank": blank,
        "model": model,
        "solver": solver,
        "steps": steps,
        "calls": calls,
        "length": length,
        "guidance": guidance,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "context": context,
        "seed": seed,
        "count": count,
        "batch": batch,
        "dtype": dtype,
        "device": device,
    }
    given = {name: value for name, value in given.items() if value is not None}
    before = text_files.read_settings(like) if like is not None else {}
    if infill is not None:
        given["infill"] = text_files.read_text(infill)
    options = [opt for parameter in context_.command.params for opt in getattr(parameter, "opts", ())]
    words = [word for word in prompt or [] if word]
    fields: dict[str, Any] = {}
    if given.get("solver") or before.get("solver") or any(word.startswith("-") for word in words):
        with working("starting"):
            model_, solver_ = (given.get(name) or before.get(name) for name in ("model", "solver"))
            words, fields = _read(words, solver_ or _own_solver(model_ or TextRequest.model), options)
    if words:
        given["prompt"] = " ".join(words)
    request = _request(given, fields, before)
    files, target = ([], None) if out is None else text_files.file_names(out, _title(request), request.seeds)
    if target is not None:
        if infill is not None and infill.resolve() in [file.resolve() for file in (*files, target)]:
            raise ValueError(f"{str(infill)!r} is the file of --infill, and its text would be lost; write to another")
        text_files.check_files(files, target, overwrite)
    made, settings, seconds = _write(request, watch)
    summary = {
        "texts": made.texts,
        "seeds": request.seeds,
        "calls": made.calls,
        "skipped": made.skipped,
        "sequences": made.sequences,
        "windows": made.windows,
        "seconds": round(seconds, 3),
        "settings": settings,
    }
    written = [] if target is None else text_files.write_texts(files, target, made.texts, summary)
    if as_json:
        print_json({"files": written, **summary})
        return
    for one, number in zip(made.texts, request.seeds, strict=True):
        if request.count > 1:
            print(f"--- seed {number}")
        print(one)
    where = f", {', '.join(written)}" if written else ""
    notes.print(f"{_calls(made)}, {seconds:.2f} seconds{where}", markup=False)


def _calls(made: MaskedTextOutput) -> str:
    return f"{made.calls} network call{'s' if made.calls != 1 else ''}, {made.skipped} skipped" + (
        f", {made.windows} windows" if made.windows > 1 else ""
    )


def _title(request: TextRequest) -> str:
    return request.prompt or (request.infill or "text")[:40]


def _own_solver(model: str) -> str:
    """Solver that a model comes with."""
    from fewstep.pipelines.loading import find_model
    from fewstep.pipelines.text_solvers import solver_in

    return solver_in(find_model(model, "text"))


def _read(words: list[str], chosen: str, options: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words of the prompt, and the fields of the solver among them."""
    from fewstep.pipelines.text_solvers import solver_options, solvers

    owners: dict[str, list[str]] = {}
    for name in solvers():
        for key in solver_options(name):
            owners.setdefault(key, []).append(name)
    if "theta" in owners:
        owners["theta"] = sorted(owners["theta"])
    return read_words(words, solver_options(chosen), options, chosen, owners, "--solver")


def _request(given: dict[str, Any], fields: dict[str, Any], before: dict[str, Any]) -> TextRequest:
    """Put together what was asked: options over the settings of the run to repeat, over the defaults."""
    settings = dict(before)
    if "solver" in given:
        settings.pop("fields", None)
    if {"infill", "prompt"} & given.keys():
        for name in ("infill", "prompt", "blank"):
            settings.pop(name, None)
    if "infill" in given:
        settings.pop("length", None)
    if "steps" in given and "calls" in given:
        raise ValueError("give --steps or --calls, not both")
    for name, other in (("steps", "calls"), ("calls", "steps")):
        if name in given:
            settings.pop(other, None)
    settings |= given
    settings["fields"] = {**settings.get("fields", {}), **fields}
    if settings.get("infill") is not None and settings.get("prompt") is not None:
        raise ValueError("give a beginning or --infill, not both: blanks are filled where they are")
    if settings.get("infill") is not None and settings.get("length") is not None:
        raise ValueError("a text with blanks keeps its length; leave --length away")
    if settings.get("blank") is not None and settings.get("infill") is None:
        raise ValueError("--blank is how a blank is written in the file of --infill; give that too")
    if settings.get("seed", 0) < 0:
        raise ValueError(f"seed must be at least 0, got {settings['seed']}")
    if settings.get("seed", 0) + settings.get("count", 1) > 2**63:
        raise ValueError(f"seed must be below 2^63, got {settings['seed']}")
    for name in ("steps", "calls", "count", "batch"):
        if settings.get(name) is not None and settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}")
    return TextRequest(**settings)


def _load(request: TextRequest) -> Any:
    with working(f"loading {request.model}"):
        from fewstep.pipelines import load_text

        return load_text(request.model, request.solver, dtype=request.dtype, device=request.device, **request.fields)


def _write(request: TextRequest, watch: bool) -> tuple[MaskedTextOutput, dict[str, Any], float]:
    """The texts, all that is needed to write them again, and the seconds that it took."""
    pipe = _load(request)
    from fewstep.pipelines.text_solvers import solver_settings
    from fewstep.samplers import generators

    from .text_watch import followed

    begin = time.perf_counter()
    with followed(watch, request.seed) as callback:
        made = pipe(
            request.prompt,
            infill=request.infill,
            length=request.length,
            num_inference_steps=request.steps or _STEPS,
            network_calls=request.calls,
            guidance_scale=request.guidance,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            num_texts_per_prompt=request.count,
            batch_size=request.batch,
            context=request.context,
            blank=request.blank,
            generator=generators(request.seeds),
            callback=callback,
        )
    seconds = time.perf_counter() - begin
    config = pipe.scheduler.config
    settings = {
        **asdict(request),
        "temperature": config.get("temperature") if request.temperature is None else request.temperature,
        "top_p": config.get("top_p") if request.top_p is None else request.top_p,
        **solver_settings(pipe.scheduler),
        "steps": None if request.calls else request.steps or _STEPS,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": str(pipe.device),
        "versions": {name: version(name) for name in ("fewstep", "diffusers", "transformers", "torch")},
    }
    return made, settings, seconds
