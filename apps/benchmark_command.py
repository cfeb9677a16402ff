"""`fewstep benchmark`: samplers side by side, on pictures, text or tokens; caches; editing; restoration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import notes, output, print_json

if TYPE_CHECKING:
    from fewstep.eval.benchmark_run import Outcome

_RUN, _WHAT, _HOW = "Where and how long", "What is measured", "How it is measured"
_CACHES = "Caches instead of samplers"
_TASKS = "Other tasks than pictures"


def benchmark(
    context: typer.Context,
    task: Annotated[str, typer.Option(help="pictures, text, tokens, editing or restoration.")] = "pictures",
    model: Annotated[
        str,
        typer.Option(
            help="A model, or an exact one: oracle:gaussian, oracle:mixture, oracle:finite[:vp|flow|edm]; of text "
            "oracle:chain[:STRENGTH][:masked|uniform]. Other tasks than pictures have one of their own."
        ),
    ] = "garments",
    samplers: Annotated[
        str,
        typer.Option(help="all, fewstep, diffusers, names or patterns, separated by commas.", rich_help_panel=_WHAT),
    ] = "all",
    nfe: Annotated[str, typer.Option(help="Numbers of network calls.", rich_help_panel=_WHAT)] = "5,6,8,10,15,20",
    guidance: Annotated[str, typer.Option(help="Guidance scales.", rich_help_panel=_WHAT)] = "1,3,7.5",
    metrics: Annotated[
        str, typer.Option(help="Of rmse, divergence, fid, kid, accuracy.", rich_help_panel=_WHAT)
    ] = "rmse,divergence,fid,kid,accuracy",
    grids: Annotated[
        str,
        typer.Option(help="all, default (each sampler's own alone), or names of grids.", rich_help_panel=_WHAT),
    ] = "all",
    cache: Annotated[
        str | None,
        typer.Option(
            help="Compare caches instead: none,ab:2,3,taylorseer,firstblock,magcache,fewer-steps.",
            rich_help_panel=_CACHES,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the full run.", rich_help_panel=_CACHES)] = 30,
    seeds: Annotated[
        int, typer.Option(help="Independent repeats, for the spread of every figure.", rich_help_panel=_TASKS)
    ] = 3,
    judge: Annotated[
        str | None,
        typer.Option(
            help="What scores a model of yours: of text an autoregressive language model.", rich_help_panel=_TASKS
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="File of real text, for the laws of its n-grams.", rich_help_panel=_TASKS)
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of a text.", rich_help_panel=_TASKS)] = 256,
    temperature: Annotated[float, typer.Option(help="Of the model's law of tokens.", rich_help_panel=_TASKS)] = 1.0,
    top_p: Annotated[float | None, typer.Option(help="Nucleus of that law.", rich_help_panel=_TASKS)] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Of editing: Fashion-MNIST (.npz or folder), whose test pictures are painted, a PIE-Bench folder, or "
            "drawn, pictures by garments. Of restoration: a folder of pictures, such as the Kodak suite; drawn, by "
            "formula.",
            rich_help_panel=_TASKS,
        ),
    ] = "drawn",
    degradations: Annotated[
        str,
        typer.Option(
            help="Of restoration: all, or of sr2, sr4, inpaint, gaussian-deblur, motion-deblur, colorize, denoise.",
            rich_help_panel=_TASKS,
        ),
    ] = "all",
    side: Annotated[
        int,
        typer.Option(
            help="Of restoration: of the square cut from the centre of every picture; 0: whole pictures.",
            rich_help_panel=_TASKS,
        ),
    ] = 128,
    noise: Annotated[
        float, typer.Option(help="Of restoration: deviation of the noise to remove, 0 to 255.", rich_help_panel=_TASKS)
    ] = 25.0,
    blur_noise: Annotated[
        float, typer.Option(help="Of restoration: deviation of the noise in blurs, 0 to 255.", rich_help_panel=_TASKS)
    ] = 2.55,
    epsilon: Annotated[
        str, typer.Option(help="Of editing: an epsilon model for DDIM inversion, or none.", rich_help_panel=_TASKS)
    ] = "garments",
    dino: Annotated[
        str | None,
        typer.Option(
            help="Of editing: folder of a vision transformer for the structure distance.", rich_help_panel=_TASKS
        ),
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="Of editing: a CLIP model for similarities.", rich_help_panel=_TASKS)
    ] = None,
    tuning: Annotated[
        bool,
        typer.Option("--tuning", help="Of editing: the edits to choose settings by.", rich_help_panel=_TASKS),
    ] = False,
    count: Annotated[
        int,
        typer.Option(
            help="Pictures for FID, KID and accuracy; with --cache 24 and with another --task fewer, unless given.",
            rich_help_panel=_HOW,
        ),
    ] = 2000,
    rmse_count: Annotated[int, typer.Option(help="Pictures for the solver error.", rich_help_panel=_HOW)] = 256,
    grid_count: Annotated[int, typer.Option(help="Pictures to choose the best grid by.", rich_help_panel=_HOW)] = 32,
    picture_samplers: Annotated[
        int,
        typer.Option(
            help="FID, KID and accuracy for so many samplers of each family alone, the most accurate; 0: all.",
            rich_help_panel=_HOW,
        ),
    ] = 0,
    reference_steps: Annotated[
        int, typer.Option(help="Network calls of the reference solution.", rich_help_panel=_HOW)
    ] = 200,
    seed: Annotated[int, typer.Option(help="Of the first picture.", rich_help_panel=_HOW)] = 0,
    batch: Annotated[int, typer.Option(help="Pictures at once.", rich_help_panel=_HOW)] = 50,
    prompts: Annotated[
        str | None, typer.Option(help="File of prompts, one a line, for a model of yours.", rich_help_panel=_HOW)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", rich_help_panel=_HOW)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16.", rich_help_panel=_HOW)] = None,
    processes: Annotated[
        int, typer.Option(help="Processes on this machine that share the work.", rich_help_panel=_RUN)
    ] = 1,
    out: Annotated[
        str, typer.Option(help="Folder of the results; a run that is there is continued.", rich_help_panel=_RUN)
    ] = "benchmark",
    limit_time: Annotated[
        float | None,
        typer.Option(help="Stop after so many seconds; the same command goes on from there.", rich_help_panel=_RUN),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(
            help="Folder of reference solutions, for all runs. [dim]default: ~/.cache/fewstep/references[/]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    save_pictures: Annotated[
        bool,
        typer.Option(
            "--save-pictures",
            help="Keep the judged pictures below OUT/pictures, for fewstep evaluate.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(help="Write the result file here too, once everything is measured.", rich_help_panel=_RUN),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--print-json", help="Print the rows as JSON.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Compare samplers at equal numbers of network calls: solver error, FID, KID, what the pictures show, time.

    With --cache: caches against the full run and against fewer steps, in PSNR, accuracy and time, on the --samplers
    named (ddim and exponential-adams, unless given).

    With --task text or tokens: samplers of discrete diffusion, by a language model that was trained apart, or by the
    judge of pictures. With --task editing: ways of inverting and editing pictures, by the judge and by what stays of
    the picture. With --task restoration: ways to restore degraded pictures, those without a network beside them. The
    defaults of the options are then that task's own.
    """
    given = {name for name in context.params if _is_given(context, name)}
    if task != "pictures":
        if cache is not None:
            raise ValueError(f"--cache and --task {task} do not go together; caches are compared on pictures")
        named = {name: value for name, value in context.params.items() if name in given - _NO_OPTIONS}
        return _run_task(task, named, json, as_json)
    if useless := [f"--{name.replace('_', '-')}" for name in context.params if name in given & _TASKS_ALONE]:
        raise ValueError(f"{', '.join(useless)} cannot be had with pictures; say which --task it is of")
    if cache is None:
        if "steps" in given:
            raise ValueError("--steps is of the full run that --cache compares with; samplers take --nfe 5,8,10")
    elif useless := [f"--{name.replace('_', '-')}" for name in context.params if name in given & _SAMPLERS_ALONE]:
        raise ValueError(
            f"{', '.join(useless)} cannot be had with --cache: caches are compared in one process, at the --steps of "
            "the full run, by PSNR to it, the judge's accuracy and time"
        )
    from fewstep.eval.benchmark import failures
    from fewstep.eval.benchmark_options import numbers, words

    common: dict[str, Any] = {
        "model": model,
        "guidance": numbers(guidance, float, "--guidance"),
        "seed": seed,
        "batch": batch,
        "out": out,
        "prompts": prompts,
        "limit_time": limit_time,
        "device": device,
        "dtype": dtype,
    }
    bar = _Bar()
    try:
        if cache is not None:
            from fewstep.eval.cache_run import CacheOptions, run_cache_benchmark

            common |= {"samplers": words(samplers)} if "samplers" in given else {}
            common |= {"count": count} if "count" in given else {}
            outcome = run_cache_benchmark(CacheOptions((cache,), steps=steps, **common), json, told=bar)
        else:
            from fewstep.eval.benchmark import run_benchmark
            from fewstep.eval.benchmark_options import Options

            options = Options(
                samplers=words(samplers),
                nfe=numbers(nfe, int, "--nfe"),
                count=count,
                rmse_count=rmse_count,
                grid_count=grid_count,
                grids=words(grids),
                metrics=words(metrics),
                picture_samplers=picture_samplers,
                reference_steps=reference_steps,
                references=references,
                processes=processes,
                save_pictures=save_pictures,
                **common,
            )
            outcome = run_benchmark(options, json, told=bar)
    finally:
        bar.close()
    if as_json:
        print_json(outcome.rows)
    else:
        _say(outcome)
    for line in (*(failures(outcome.rows) if cache is None else ()), *outcome.notes):
        notes.print(line, markup=False)
    if not outcome.complete:
        notes.print("The time is up; the same command goes on from here.")
        raise typer.Exit(3)


def _run_task(task: str, given: dict[str, Any], json: str | None, as_json: bool) -> None:
    """Measure another task than pictures, with the options that were written."""
    from fewstep.eval.tasks import options_of, run

    options = options_of(task, given)
    bar = _Bar()
    try:
        outcome, lines = run(options, json, told=bar)
    finally:
        bar.close()
    if as_json:
        print_json(outcome.rows)
    else:
        for line in (*lines, *map(str, outcome.files)):
            output.print(line, markup=False)
    for line in outcome.notes:
        notes.print(line, markup=False)
    if not outcome.complete:
        notes.print("The time is up; the same command goes on from here.")
        raise typer.Exit(3)


#: Parameters of the command that are no options of a task.
_NO_OPTIONS = {"task", "json", "as_json"}
#: Options of other tasks than pictures.
_TASKS_ALONE = {
    *("seeds", "judge", "reference", "length", "temperature", "top_p"),
    *("data", "epsilon", "dino", "clip", "tuning"),
    *("degradations", "side", "noise", "blur_noise"),
}
#: Options that say nothing about caches.
_SAMPLERS_ALONE = {
    "nfe",
    "metrics",
    "grids",
    "rmse_count",
    "grid_count",
    "picture_samplers",
    "reference_steps",
    "references",
    "processes",
    "save_pictures",
}


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was written, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _say(outcome: Outcome) -> None:
    """What the rows say in short, and where all of it is."""
    from fewstep.eval.cache_benchmark import row_line
    from fewstep.eval.comparison import winners

    if outcome.rows and "cache" in outcome.rows[0]:
        for row in outcome.rows:
            output.print(row_line(row), markup=False)
    else:  # the best of either side at every guidance and number of calls
        for line in winners(outcome.rows, "rmse"):
            output.print(f"g {line.guidance:g}, {line.nfe} calls: {line.sentence()}")
    for path in outcome.files:
        output.print(str(path))


class _Bar:
    """A progress bar a phase, where there is a terminal; else a line now and then."""

    def __init__(self) -> None:
        self.progress: Any = None
        self.task: Any = None
        self.phase = ""
        self.said = 0.0

    def __call__(self, phase: str, done: int, all_: int, text: str) -> None:
        if not notes.is_terminal:
            at = time.monotonic()
            if done == all_ or at - self.said > 30:
                self.said = at
                notes.print(f"{phase}: {done}/{all_} parts; {text}")
            return
        if self.progress is None:
            from rich.progress import Progress, TimeRemainingColumn

            self.progress = Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=notes)
            self.progress.start()
        if phase != self.phase:
            self.phase, self.task = phase, self.progress.add_task(phase, total=all_)
        self.progress.update(self.task, completed=done, total=all_, description=f"{phase}: {text}")

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
