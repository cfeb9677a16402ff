"""`fewstep generate`: pictures from a prompt, into files that know how to be made again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import pictures
from .terminal import notes, output, print_json, progress, working
from .words import read_words

if TYPE_CHECKING:
    from fewstep.pipelines import Generation

_COMPARED = 6


@dataclass(frozen=True)
class Request:
    """One run, after the defaults, `--like` and the options have been put together.

    Attributes:
        pick: position of the one picture to keep, for a picture that was made in a batch with others: a batch of
            another size would change its last bits.
    """

    prompt: str
    model: str = "garments"
    sampler: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    grid: str | None = None
    steps: int = 8
    guidance: float | None = None
    guidance_mode: str = "cfg"
    guidance_interval: str | None = None
    zero_init_steps: int | None = None
    cache: str | None = None
    negative: str | None = None
    seed: int = 0
    count: int = 1
    batch: int | None = None
    size: str | None = None
    dtype: str | None = None
    device: str | None = None
    upscale: int = 1
    compare: str | None = None
    pick: int | None = None

    @property
    def seeds(self) -> list[int]:
        """Seeds of the pictures that are written."""
        seeds = [self.seed + i for i in range(self.count)]
        return seeds if self.pick is None else [seeds[self.pick]]


def generate(
    context: typer.Context,
    prompt: Annotated[
        list[str] | None, typer.Argument(help="What the pictures should show. May be left out with --like.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A shipped model, a folder, or owner/name on the hub. [dim]default: garments[/]")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help='A method or another program\'s name for it (ghvb, ddim, "dpm++ 2m karras"), or '
            "diffusers:CLASS, or tokens:SOLVER. [dim]default: exponential-adams[/]"
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Where the noise levels lie: linspace, leading, trailing, karras, exponential, beta, logsnr. "
            "[dim]default: the model's own[/]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler. [dim]default: 8[/]")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; 1 is none. [dim]default: 3, or the pipeline's own[/]")
    ] = None,
    guidance_mode: Annotated[
        str | None, typer.Option(help="How guidance is computed: cfg or cfg-zero. [dim]default: cfg[/]")
    ] = None,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            help="LO,HI: noise levels with guidance, without it outside; all is every one. [dim]default: all[/]"
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Extrapolate network calls instead of making them: ab:order=2,interval=3. [dim]default: none[/]"
        ),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the pictures should not show.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first picture; the next has the next. [dim]default: 0[/]")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many pictures. [dim]default: 1, with --compare 6[/]")] = None,
    batch: Annotated[
        int | None, typer.Option(help="How many go through the network together. [dim]default: a megapixel[/]")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="N or WIDTHxHEIGHT in pixels. [dim]default: the model's own[/]")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    upscale: Annotated[
        int | None, typer.Option(help="Write every pixel as a square of N by N pixels. [dim]default: 1[/]")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Samplers, separated by commas: one sheet, one row each, the same seeds.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="Repeat the run that made this picture; other options override.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A file, for several pictures a folder. [dim]default: outputs/PROMPT-SEED.png[/]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Make pictures from a prompt.

    A picture holds all of its settings: `fewstep generate --like picture.png` makes it again, bit by bit.
    """
    given: dict[str, Any] = {
        "model": model,
        "sampler": sampler,
        "grid": grid,
        "steps": steps,
        "guidance": guidance,
        "guidance_mode": guidance_mode,
        "guidance_interval": guidance_interval,
        "cache": cache,
        "negative": negative,
        "seed": seed,
        "count": count,
        "batch": batch,
        "size": size,
        "dtype": dtype,
        "device": device,
        "upscale": upscale,
        "compare": compare,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if upscale is not None and not 1 <= upscale <= 64:
        raise ValueError(f"upscale must be 1 to 64, got {upscale}")
    before = pictures.read_settings(like) if like is not None else {}
    with working("starting"):
        options = [opt for parameter in context.command.params for opt in getattr(parameter, "opts", ())]
        texts, fields = _read_words(prompt or [], _samplers(given, before), options)
    if texts:
        given["prompt"] = " ".join(texts)
    request = _request(given, fields, before)
    _check_extras(request)
    mark = "-compare" if request.compare else ""
    files = pictures.file_names(out, request.prompt, request.seeds[:1] if mark else request.seeds, mark)
    pictures.check_targets(files, overwrite)
    made = _sheet(request, files[0]) if request.compare else _pictures(request, files)
    if as_json:
        print_json(made)
    else:
        where = made["files"][0] if len(files) == 1 else f"{len(files)} pictures in {files[0].parent}"
        output.print(f"{_calls(made)}, {made['seconds']:.2f} seconds, {where}", markup=False)


def _calls(made: dict[str, Any]) -> str:
    """Network calls of a run, and those that guidance or a cache saved."""
    calls = f"{made['calls']} network call{'s' if made['calls'] != 1 else ''}"
    calls += f" ({made['halved']} at half the batch)" if made["halved"] else ""
    return calls + (f", {made['skipped']} skipped" if made["skipped"] else "")


def _check_extras(request: Request) -> None:
    """Refuse a mode of guidance, an interval or a cache that cannot be, before seconds go into loading."""
    from fewstep.pipelines.guidance import check_guidance
    from fewstep.samplers import parse_cache

    for name, value in (("guidance mode", request.guidance_mode), ("cache", request.cache or "none")):
        if not isinstance(value, str):  # from the settings of a picture
            raise ValueError(f"the settings of the picture are damaged: {name} is {value!r}")
    check_guidance(request.guidance_mode, request.guidance_interval, request.zero_init_steps)
    parse_cache(request.cache)


def _samplers(given: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Names of the samplers of a run: those to compare, or the one."""
    from fewstep.pipelines import DEFAULT_SAMPLER

    compare = given.get("compare", None if "sampler" in given else before.get("compare"))
    if compare is None:
        return [given.get("sampler") or before.get("sampler") or DEFAULT_SAMPLER]
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--compare takes names of samplers, separated by commas, got {compare!r}")
    if "sampler" in given:
        raise ValueError("give --sampler or --compare, not both")
    return names


def _read_words(
    words: Sequence[str], samplers: Sequence[str], options: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """The words of the prompt, and the fields of the samplers that were given as options among them.

    Args:
        words: what no option of the command took.
        samplers: those of the run.
        options: the command's own options, for the nearest name.

    Raises:
        ValueError: an option that neither the command nor any of the samplers has, or one without its value.
    """
    from fewstep.pipelines.swapping import options_of
    from fewstep.samplers import methods

    known: dict[str, Any] = {}
    for name in samplers:
        known |= {key: item for key, item in options_of(name).items() if key not in known}
    owners = {
        item.name: [name for name, cls in methods().items() if item.name in {f.name for f in dataclasses.fields(cls)}]
        for cls in methods().values()
        for item in dataclasses.fields(cls)
    }
    return read_words(words, known, options, " and ".join(samplers), owners, "--sampler")


def _request(given: dict[str, Any], fields: dict[str, Any], before: dict[str, Any]) -> Request:
    """Put together what was asked: options over the settings of the picture to repeat, over the defaults."""
    same = ["prompt", "model", "grid", "steps", "guidance", "negative", "dtype", "device", "upscale"]
    same += ["guidance_mode", "guidance_interval", "zero_init_steps", "cache"]
    settings: dict[str, Any] = {name: before[name] for name in same if name in before}
    if "guidance_mode" in given:
        settings.pop("zero_init_steps", None)
    if given.get("guidance_interval") == "all":
        given = {**given, "guidance_interval": None}
    if before:
        settings["size"] = f"{before['width']}x{before['height']}"
        batch = before.get("batch", {"seed": before["seed"], "count": 1})
        if before.get("compare") and "sampler" not in given:
            settings |= {"compare": before["compare"], "fields": before.get("given", {}), **batch}
        else:
            if "sampler" not in given and "compare" not in given:
                settings |= {"sampler": before["sampler"], "fields": before["fields"]}
            if not {"seed", "count", "batch"} & given.keys():
                settings |= {"seed": batch["seed"], "count": batch["count"], "batch": batch["count"]}
                settings["pick"] = before["seed"] - batch["seed"]
            else:
                settings["seed"] = before["seed"]
        if (
            {"sampler", "compare"} & given.keys()
            and "grid" not in given
            and any(_names_grid(n) for n in _samplers(given, {}))
        ):
            del settings["grid"]
        if "device" in settings and not _is_here(settings["device"]):
            notes.print(f"The picture was made on {settings['device']}, which is not here: its last bits may differ.")
            del settings["device"]
    settings |= given
    settings["fields"] = {**settings.get("fields", {}), **fields}
    if "prompt" not in settings:
        raise ValueError(
            'say what the pictures should show: fewstep generate "a red ankle boot"; or give --like PICTURE'
        )
    if settings.get("compare") and "count" not in settings:
        settings["count"] = _COMPARED
    if settings.get("count", 1) < 1:
        raise ValueError(f"count must be at least 1, got {settings['count']}")
    return Request(**settings)


def _names_grid(sampler: str) -> bool:
    from fewstep.samplers import resolve

    return ":" not in sampler and resolve(sampler).spacing is not None


def _is_here(device: str) -> bool:
    from fewstep.pipelines.loading import torch_device

    try:
        torch_device(device)
    except ValueError:
        return False
    return True


def _load(request: Request) -> Any:
    """The model with the scheduler that it came with."""
    with working(f"loading {request.model}"):
        from transformers.utils import logging

        from fewstep.pipelines import load_model, set_guidance

        logging.set_verbosity_error()  # of a prompt that is too long, diffusers says what it leaves out
        pipe = load_model(request.model, dtype=request.dtype, device=request.device)
    steps = request.zero_init_steps if request.guidance_mode == "cfg-zero" else None
    return set_guidance(pipe, request.guidance_mode, request.guidance_interval, zero_init_steps=steps)


def _run(pipe: Any, request: Request, what: str) -> Generation:
    from fewstep.pipelines import generate as make

    with progress(what) as callback:
        return make(
            pipe,
            request.prompt,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
            count=request.count,
            batch=request.batch,
            size=request.size,
            negative=request.negative,
            cache=request.cache,
            callback=callback,
        )


def _pictures(request: Request, files: Sequence[Path]) -> dict[str, Any]:
    """Make and write the pictures of one sampler; the summary."""
    from fewstep.pipelines import DEFAULT_SAMPLER, set_sampler
    from fewstep.pipelines.loading import keeps_scheduler
    from fewstep.pipelines.swapping import check_sampler, options_of
    from fewstep.samplers.core.registry import nearest

    sampler = request.sampler or DEFAULT_SAMPLER
    known = options_of(sampler)
    for name in request.fields:  # those of a picture may be anything
        if name not in known:
            raise ValueError(f"{sampler} has no field {name!r}{nearest(name, known)} Its fields are {', '.join(known)}")
    check_sampler(sampler, request.grid, **request.fields)  # before seconds or minutes go into loading
    pipe = _load(request)
    if request.sampler is not None or request.fields or request.grid is not None or not keeps_scheduler(pipe):
        set_sampler(pipe, sampler, request.grid, **request.fields)
    made = _run(pipe, request, "sampling")
    settings = {**made.settings, "model": request.model, "prompt": request.prompt, "upscale": request.upscale}
    batch_of = {seed: {"seed": batch[0], "count": len(batch)} for batch in made.batches for seed in batch}
    keep = range(len(made.images)) if request.pick is None else [request.pick]
    pictures.write_pictures(
        [
            (
                file,
                pictures.enlarged(made.images[i], request.upscale),
                {**settings, "seed": made.seeds[i], "batch": batch_of[made.seeds[i]]},
            )
            for file, i in zip(files, keep, strict=True)
        ]
    )
    return {"files": list(map(str, files)), "seeds": request.seeds, **_summary([made]), "settings": settings}


def _open_fields(sampler: str) -> list[str]:
    """Fields of a sampler that its name does not set: "ghvb auto" stays automatic beside a "ghvb" of momentum 2.5."""
    from fewstep.pipelines.recipes import is_recipe
    from fewstep.pipelines.swapping import DIFFUSERS, options_of
    from fewstep.samplers import resolve

    known = options_of(sampler)
    if sampler.startswith(DIFFUSERS) or is_recipe(sampler):
        return list(known)
    method = resolve(sampler).method
    return [name for name, item in known.items() if not hasattr(method, name) or getattr(method, name) == item.default]


def _sheet(request: Request, file: Path) -> dict[str, Any]:
    """Make and write one sheet that compares samplers; the summary."""
    import copy

    from fewstep.pipelines import set_sampler
    from fewstep.pipelines.swapping import check_sampler

    names = _samplers({"compare": request.compare}, {})
    fields = {name: {key: v for key, v in request.fields.items() if key in _open_fields(name)} for name in names}
    for key in request.fields:
        if not any(key in some for some in fields.values()):
            raise ValueError(f"none of {', '.join(names)} takes {key} beside what its name says")
    for name in names:
        check_sampler(name, request.grid, **fields[name])
    pipe = _load(request)
    own = copy.copy(pipe)
    made: list[Generation] = []
    for name in names:
        own.scheduler = pipe.scheduler  # a grid that one name asks for is not the next one's
        made.append(_run(set_sampler(own, name, request.grid, **fields[name]), request, name))
    rows = []
    for name, one in zip(names, made, strict=True):
        chosen = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields[name].items())
        spent = f"{one.calls // len(one.batches)} network calls"
        spent += f", {one.skipped // len(one.batches)} skipped" if one.skipped else ""
        rows.append((name.replace(":", ": "), f"{chosen + '; ' if chosen else ''}{spent}", one.images))
    first = made[0]
    note = f"{Path(request.model).name}, {request.steps} steps, guidance {first.settings['guidance']:g}"
    mode, interval, cache = (first.settings[name] for name in ("guidance_mode", "guidance_interval", "cache"))
    note += f", {mode}" if mode != "cfg" else ""
    note += f", guided at {interval}" if interval else ""
    note += f", cache {cache}" if cache != "none" else ""
    note += f", {request.grid} grid" if request.grid else ""
    note += f", without: {request.negative}" if request.negative else ""
    sheet = pictures.contact_sheet(rows, [f"seed {seed}" for seed in first.seeds], request.prompt, note)
    settings = {
        **first.settings,
        "model": request.model,
        "prompt": request.prompt,
        "sampler": names[0],
        "fields": {},
        "grid": request.grid,
        "compare": ", ".join(names),
        "given": request.fields,
        "seed": request.seed,
        "batch": {"seed": request.seed, "count": request.count} | ({"batch": request.batch} if request.batch else {}),
    }
    pictures.write_pictures([(file, sheet, settings)])
    samplers = [{"sampler": name, **_summary([one])} for name, one in zip(names, made, strict=True)]
    return {"files": [str(file)], "seeds": first.seeds, **_summary(made), "samplers": samplers, "settings": settings}


def _summary(made: Sequence[Generation]) -> dict[str, Any]:
    counts = {name: sum(getattr(one, name) for one in made) for name in ("calls", "skipped", "halved")}
    return {**counts, "seconds": round(sum(one.seconds for one in made), 3)}
