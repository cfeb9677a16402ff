"""`fewstep restore`: undo what was done to a picture, with a diffusion model that knows pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .restore_checks import MODEL, OPTIONS, RestoreRequest, check_request, read_fields
from .terminal import output, print_json, progress, say_error, working


def restore(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT OUTPUT", help="A picture and its result (PNG), or two folders.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="sr2, sr4, sr8, inpaint, gaussian-deblur, motion-deblur, colorize, denoise or custom.",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma",
            "--sigma-y",
            help="Noise of the input: standard deviation in the scale of 0 to 255. Files of 8 bits count as 0.29 at "
            "least (their rounding), not so with --simulate; JPEG files hold more. [dim]default: 0[/]",
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="inpaint: a picture of the same size, white = missing. With a folder: a folder.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="sr: bicubic, lanczos or area. [dim]default: bicubic[/]")] = None,
    blur_sigma: Annotated[
        float | None, typer.Option(help="gaussian-deblur: width of the blur in pixels. [dim]default: 3[/]")
    ] = None,
    kernel_size: Annotated[
        int | None, typer.Option(help="Blurs: side of the kernel, odd. [dim]default: 61, motion 31[/]")
    ] = None,
    kernel_file: Annotated[
        Path | None, typer.Option(help="motion-deblur: the kernel, a grey picture or a .npy array.")
    ] = None,
    kernel_seed: Annotated[
        int | None, typer.Option(help="motion-deblur: seed of a synthetic camera shake. [dim]default: 0[/]")
    ] = None,
    luma: Annotated[str | None, typer.Option(help="colorize: rec601 or mean. [dim]default: rec601[/]")] = None,
    operator: Annotated[
        str | None, typer.Option(help="custom: module:function, which returns an object with A (and A_adjoint).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="custom: WIDTHxHEIGHT of the result. [dim]default: that of the input[/]")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="dpir, ddnm, diffpir, dps, stsl, ...: how. [dim]default: what suits task and noise[/]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"A pixel or Stable Diffusion pipeline: name, folder or owner/name. [dim]default: {MODEL}[/]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels. [dim]default: what suits the method[/]")] = None,
    prompt: Annotated[str | None, typer.Option(help="Stable Diffusion: what the picture shows.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of that prompt; 1 is none. [dim]default: 1[/]")] = None,
    samples: Annotated[
        int, typer.Option(help="So many draws: OUTPUT is their mean; OUTPUT-1, ... and -uncertainty lie beside it.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="How many draws go through the network together.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first draw; the next has the next.")] = 0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Degrade a clean input first, and print PSNR and SSIM to it.")
    ] = False,
    tile: Annotated[
        str | None,
        typer.Option(
            help="Large pictures: whole, canvas, msr or hir. [dim]default: whole where it fits, else canvas[/]"
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Side of the windows in pixels. [dim]default: what the model was trained at[/]")
    ] = None,
    overlap: Annotated[int | None, typer.Option(help="Of the windows. [dim]default: half of one[/]")] = None,
    panorama: Annotated[
        bool, typer.Option("--panorama", help="The input is a whole sphere, twice as wide as high.")
    ] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="Also write input | result | reference.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist; never the input.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Restore a picture: enlarge it, fill what is missing, take away blur or noise, give it colours.

    What the input says is kept. What it does not say is the model's: one estimate near the mean of what it may
    have been, or, with --samples or another method, draws.
    The result has the alpha, the upright orientation and the bits (8 or 16) of the input, and its settings inside.
    Of a folder, results that are finished are kept.
    """
    local = locals()
    options = {name: local[name] for name in OPTIONS if local[name] is not None}
    words = [word for word in files or [] if word]
    request = _request(
        task, options, sigma=sigma or 0.0, size=_size(size), simulate=simulate, model=model or MODEL, method=method,
        steps=steps, prompt=prompt, guidance=guidance, samples=samples, batch=batch, seed=seed, tile=tile,
        window=window, overlap=overlap, panorama=panorama, sheet=sheet, dtype=dtype, device=device,
    )  # fmt: skip
    if method is not None or any(word.startswith("-") for word in words):
        import dataclasses

        with working("starting"):
            spelt = [opt for parameter in context.command.params for opt in getattr(parameter, "opts", ())]
            words, fields = read_fields(words, request, spelt)
        request = dataclasses.replace(request, fields=fields)
    if len(words) != 2:
        raise ValueError(f"restore takes two files, INPUT and OUTPUT, or two folders; got {len(words) or 'none'}")
    source, out = (Path(word).expanduser() for word in words)
    if source.is_dir():
        _folder(request, source, out, overwrite, as_json)
    else:
        _single(request, source, out, overwrite, as_json)


def _request(task: str | None, options: dict[str, Any], **rest: Any) -> RestoreRequest:
    from fewstep.pipelines.restoration.tasks import TASKS, find_task

    if task is None:
        raise ValueError(f"say what was done to the picture: --task, one of {', '.join(TASKS)}")
    return RestoreRequest(find_task(task), options=options, **rest)


def _size(text: str | None) -> tuple[int, int] | None:
    from fewstep.pipelines.generation import parse_size

    if text is None:
        return None
    box = parse_size(text)
    assert box is not None
    return box[1], box[0]


def _single(request: RestoreRequest, source: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    from .restore_files import check_files, single

    targets = single(source, out, request)
    also = [("the mask", "mask"), ("the kernel", "kernel_file")]
    read = [(what, Path(request.options[name])) for what, name in also if name in request.options]
    check_files(targets, [("the input", source), *read], overwrite)
    check_request(request)

    from . import restore_output, restore_run

    restore_run.read_measured(request, source)  # before seconds or minutes go into loading
    with working(f"loading {request.model}"):
        pipe = restore_run.load_pipeline(request)
    with progress("restoring") as bar:
        restored = restore_run.restore(pipe, request, source, bar)
    restore_output.write(targets, restored)
    if as_json:
        print_json(restore_output.summary(source, targets, restored))
        return
    for line in restore_output.lines(targets, restored):
        output.print(line, markup=False)


def _folder(request: RestoreRequest, source: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    from .restore_folder import restore_folder

    check_request(request)
    report = restore_folder(request, source, out, overwrite, as_json)
    if as_json:
        print_json(report.values())
    else:
        done = f"{len(report.pictures)} restored, {len(report.kept)} kept"
        output.print(f"{done}, {len(report.failed)} failed: {out}", markup=False)
    if report.failed:
        names = ", ".join(Path(picture).name for picture, _ in report.failed)
        say_error(f"{len(report.failed)} could not be restored: {names}; the reasons are above")
        raise typer.Exit(1)
