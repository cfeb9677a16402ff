"""`fewstep edit`: change what a real picture shows, by words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import pictures
from .edit_checks import (
    FLOW_EDIT,
    EditSettings,
    check_files,
    check_numbers,
    edit_files,
    kept_inversion,
    model_name,
    prompt_inside,
    read_levels,
)
from .edit_output import ceiling_of, cost, sheet_of
from .terminal import output, print_json, progress, working

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class _Report:
    """What is printed, or written as JSON."""

    lines: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str, quiet: bool) -> None:
        self.lines.append(line)
        if not quiet:
            output.print(line, markup=False)


def edit(
    picture: Annotated[Path, typer.Argument(help="The picture to edit: PNG, JPEG, TIFF, WebP, ...")],
    target: Annotated[str, typer.Option("--to", help="What the picture shall show.")],
    source: Annotated[
        str | None,
        typer.Option("--from", help="What it shows. [dim]default: the prompt in a picture by fewstep, else nothing[/]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A Flux, SD 3 or SD pipeline; see generate --model. [dim]default: garments-flow[/]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the solver, for either direction.")] = 8,
    solver: Annotated[
        str, typer.Option(help="fireflow, midpoint, euler (ddim), uni-inv, rf-inversion, exact, or flowedit.")
    ] = "fireflow",
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Features of the picture to put back: words of replace_v add_v replace_k add_k replace_q add_q, or "
            "none. [dim]default: replace_v[/]"
        ),
    ] = None,
    inject: Annotated[
        str | None,
        typer.Option(help="How long: steps from the noise end (2), or down to a noise level (0.9). [dim]default: 1[/]"),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Blocks to inject into: all, 20-37 or 0,3,5. [dim]default: all[/]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance of the edit; 1 is none. [dim]default: the model's usual one[/]")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A picture of the same size: white may change, black stays.")
    ] = None,
    blend: Annotated[
        str | None, typer.Option(help="LO,HI: noise levels at which latents outside the mask are held.")
    ] = None,
    skip: Annotated[
        int | None, typer.Option(help="Steps at the noise end to leave out: more keeps more. [dim]default: 0[/]")
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="Begin with the last velocity of the inversion: one call fewer.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(help="What the model sees: own, N or WIDTHxHEIGHT. [dim]default: what suits it[/]")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="rf-inversion: pull towards noise. [dim]default: 0.5[/]")] = None,
    eta: Annotated[
        float | None, typer.Option(help="rf-inversion: pull towards the picture. [dim]default: 0.9[/]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise of flowedit and rf-inversion.")] = 0,
    memory: Annotated[
        str | None, typer.Option(help="Where features are kept: device, host or disk, with a budget: disk:4GB.")
    ] = None,
    keep_inversion: Annotated[
        Path | None,
        typer.Option(help="A .safetensors file: used if it holds this picture's inversion, made if it is not there."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Reconstruct the picture first and print the error.")
    ] = True,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write original | reconstruction | edit.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The edit. [dim]default: outputs/PICTURE-WORDS.png[/]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist; never the input.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Edit a picture by words: invert it with what it shows, and sample with what it shall show.

    The edit has the size, the alpha and the orientation of the picture, and its settings inside.
    """
    free = solver.strip().lower().replace("-", "").replace("_", "") == FLOW_EDIT
    if free and keep_inversion is not None:
        raise ValueError("flowedit makes no inversion, so there is none to keep; leave --keep-inversion away")
    if free and (strategy, inject, blocks) != (None, None, None):
        raise ValueError("flowedit injects no features; leave --strategy, --inject and --blocks away")
    inverted = {"--blend": blend, "--gamma": gamma, "--eta": eta, "--memory": memory, "--warm": warm or None}
    if free and (useless := [name for name, value in inverted.items() if value is not None]):
        raise ValueError(f"flowedit makes no inversion, which {', '.join(useless)} would be for; leave that away")
    keep_inversion = None if keep_inversion is None else keep_inversion.expanduser()
    files = edit_files(picture, out, target, sheet)
    check_files(files, picture, mask, keep_inversion, overwrite)
    window = read_levels(blend)
    size = None if size is None else size.strip().lower()
    settings = EditSettings(strategy, inject, blocks, memory)
    settings.check(solver, free, gamma, eta, warm)
    check_numbers(steps, skip, guidance, seed)
    before = prompt_inside(picture) if source is None else source
    name = model_name(model)

    from fewstep.pipelines.editing.masks import read_mask
    from fewstep.pipelines.editing.pictures import read_picture

    read = read_picture(picture)
    if mask is not None:
        read_mask(mask, read.size)  # before seconds or minutes go into loading
    with working(f"loading {name}"):
        from transformers.utils import logging

        from fewstep.pipelines import load_model

        logging.set_verbosity_error()
        pipe = load_model(name, dtype=dtype, device=device)
    report = _Report()
    rows: list[tuple[str, Image]] = [("original", read.image())]
    if free:
        from fewstep.pipelines import FlowEdit, flow_edit

        with progress("editing") as bar:
            edited = flow_edit(
                pipe,
                read,
                before,
                target,
                FlowEdit(skip=skip, guidance=guidance),
                steps=steps,
                seed=seed,
                mask=mask,
                size=size,
                progress=bar,
            )
    else:
        from fewstep.pipelines import edit as edit_pictures
        from fewstep.pipelines import invert, reconstruct

        fields = {key: value for key, value in (("gamma", gamma), ("eta", eta)) if value is not None}
        arguments: dict[str, Any] = {
            "steps": steps,
            "solver": solver,
            "skip": skip or 0,
            "seed": seed,
            "size": size,
            **fields,
        }
        injection = settings.injection()
        inversion = None
        if keep_inversion is not None and keep_inversion.exists():
            try:
                inversion = kept_inversion(pipe, keep_inversion, settings.memory(), read, before, arguments)
                report.values["inversion_reused"] = True
            except ValueError:
                if not overwrite:
                    raise
        if inversion is None:
            with progress("inverting") as bar:
                inversion = invert(
                    pipe,
                    read,
                    before,
                    injection=injection,
                    memory=settings.memory(),
                    progress=bar,
                    **arguments,
                )
            if keep_inversion is not None:
                inversion.save(keep_inversion)
        spent = "reused" if "inversion_reused" in report.values else cost(inversion.calls, inversion.seconds)
        report.values["inversion"] = {"calls": inversion.calls, "seconds": round(inversion.seconds, 3)}
        line = f"Inversion: {spent}"
        line += f", seen at {'x'.join(map(str, inversion.size))}" if inversion.size != read.size else ""
        line += f", features {inversion.memory}" if len(inversion.features) else ""
        if check or sheet:
            with progress("reconstructing") as bar:
                back = reconstruct(pipe, inversion, progress=bar)
            rows.append(("reconstruction", back.image))
            ceiling = ceiling_of(pipe, inversion)
            report.values["reconstruction"] = {
                "calls": back.calls,
                "seconds": round(back.seconds, 3),
                "psnr": back.psnr[0],
                "autoencoder_psnr": ceiling,
                "latent_error": back.latent_error[0],
            }
            line += f"; reconstruction: {cost(back.calls, back.seconds)}, {back.psnr[0]:.2f} dB of "
            line += f"{ceiling:.2f} dB that the autoencoder allows, latents off by {100 * back.latent_error[0]:.2g} %"
        report.say(line, as_json)
        with progress("editing") as bar:
            edited = edit_pictures(
                pipe,
                inversion,
                target,
                injection,
                guidance=guidance,
                mask=mask,
                blend=window,
                warm=warm,
                progress=bar,
            )
    rows.append(("edit", edited.image))
    about = {**edited.settings, "command": "edit", "model": name, "picture": picture.name, "prompt": target}
    about |= {"sampler": edited.settings["solver"]}
    written: list[tuple[Path, Image, dict[str, Any]]] = [(files[0], edited.image, about)]
    if sheet:
        written.append((files[1], sheet_of(rows, before, target, edited), about))
    pictures.write_pictures(written)
    report.values |= {
        "files": list(map(str, files)),
        "calls": edited.calls,
        "seconds": round(edited.seconds, 3),
        "psnr": edited.psnr[0],
        "injected": edited.hits,
        "settings": about,
    }
    if as_json:
        print_json(report.values)
        return
    put = f", {edited.hits} features put back" if edited.hits else ""
    again = f", {edited.recorded} recorded again" if edited.recorded else ""
    report.say(f"Edit: {cost(edited.calls, edited.seconds)}{put}{again}, {' and '.join(map(str, files))}", as_json)
