"""`fewstep evaluate`: FID, KID, CLIP score, precision and recall, and fidelity of pictures in files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .targets import check_target
from .terminal import notes, output, say_warning

if TYPE_CHECKING:
    from fewstep.eval import Evaluation

#: What a row of the table is called, its unit, and which way is better.
_ROWS = {
    "fid": ("FID", "less is better, 0 is equal"),
    "kid": ("KID", "less is better, about 0 is equal"),
    "cmmd": ("CMMD", "less is better, about 0 is equal"),
    "precision": ("precision", "share of the pictures among the reference's"),
    "recall": ("recall", "share of the reference among the pictures"),
    "clip": ("CLIP score", "0 to 100, more is better"),
    "psnr": ("PSNR", "dB, more is better"),
    "ssim": ("SSIM", "at most 1, more is better"),
    "lpips": ("LPIPS", "less is better, 0 is equal"),
}
_SETTINGS = {
    "network": "network",
    "hash": "hash",
    "features": "features",
    "resize": "resize",
    "dtype": "dtype",
    "reservoir": "reservoir",
    "neighbours": "neighbours",
    "sqrtm": "square root",
    "clip_model": "CLIP model",
    "clip_hash": "its hash",
    "reference": "reference",
    "pairs": "pairs",
}


def evaluate(
    context: typer.Context,
    pictures: Annotated[
        Path, typer.Argument(help="A folder, an npz or npy file, or a .json result file whose settings name pictures.")
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="A folder or file of pictures, an npz file with mu and sigma, or garments (shipped)."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Any of fid, kid, cmmd, precision-recall, clip, psnr, ssim, lpips, separated by commas. "
            "[dim]default: fid with --reference, psnr,ssim with --pairs[/]"
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="judge, inception, clip:NAME-or-FOLDER or module:callable. [dim]default: the reference's own, or "
            "inception[/]"
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A file of weights, for inception.")] = None,
    sqrtm: Annotated[str, typer.Option(help="The matrix square root of the FID: eigen, pade or taylor.")] = "eigen",
    reservoir: Annotated[
        int, typer.Option(help="How many features at most are kept for kid, cmmd and precision-recall.")
    ] = 5000,
    neighbours: Annotated[int, typer.Option(help="Which neighbour gives the radius in precision-recall.")] = 3,
    pairs: Annotated[Path | None, typer.Option(help="The originals, for psnr, ssim, lpips: the same names.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="For clip: a text file with a prompt a line, or JSON. [dim]default: those inside of the pictures[/]"
        ),
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option(help="For clip: a folder or a name. [dim]default: openai/clip-vit-large-patch14[/]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures that go through a network together.")] = 64,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Floats in arrays are in [-1, 1], not [0, 1].")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where statistics of references are kept. [dim]default: ~/.cache/fewstep[/]")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no statistics of references.")] = False,
    save_stats: Annotated[
        Path | None, typer.Option(help="Write the statistics of PICTURES to this npz file (mu, sigma, ...).")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write settings and numbers to this file.")] = None,
) -> None:
    """Measure pictures: against a reference, against their prompts, or against their originals."""
    names = _metrics(metrics, reference, pairs, save_stats)
    if cache is not None and no_cache:
        raise ValueError("give --cache or --no-cache, not both")
    for target, ending in ((save_stats, ".npz"), (json_file, ".json")):
        if target is not None:
            check_target(target, ending)
    with notes.status("starting ..."):
        from fewstep.eval import evaluate as measure
        from fewstep.eval.results import write_results
    with _progress() as progress:
        found = measure(
            pictures,
            reference,
            names,
            network=network,
            weights=weights,
            sqrtm=sqrtm,
            reservoir=reservoir,
            neighbours=neighbours,
            pairs=pairs,
            prompts=prompts,
            clip_model=clip_model,
            batch=batch,
            device=device,
            signed=signed,
            cache=not no_cache if cache is None else cache,
            save_stats=save_stats,
            progress=progress,
        )
    if json_file is not None:
        write_results(json_file, _command(context), {**found.settings, "notes": found.notes}, found.rows)
    _print(found)
    if save_stats is not None:
        output.print(f"statistics of {found.settings['count']:,} pictures: {save_stats}", markup=False)


def _metrics(metrics: str | None, reference: str | None, pairs: Path | None, save_stats: Path | None) -> list[str]:
    if metrics is not None:
        return [name.strip().lower() for name in metrics.split(",") if name.strip()]
    names = ["fid"] if reference is not None else []
    names += ["psnr", "ssim"] if pairs is not None else []
    if not names and save_stats is None:
        raise ValueError(
            "say what to compare with: --reference FOLDER-or-STATISTICS, --pairs FOLDER, or --metrics clip"
        )
    return names


def _command(context: typer.Context) -> str:
    """The command line that was given, without what it left at its default."""
    words = ["fewstep", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is not None and value is not False and value != parameter.default:
            words += [parameter.opts[0], *([] if value is True else [str(value)])]
    return shlex.join(words)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is done, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done)

        yield tell


def _print(found: Evaluation) -> None:
    if found.rows:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        medians = any("median" in row for row in found.rows)
        for heading in ("metric", "value", *(["median"] if medians else []), "pictures", ""):
            table.add_column(heading, justify="left" if heading in ("metric", "") else "right", no_wrap=bool(heading))
        for row in found.rows:
            name, unit = _ROWS[row["metric"]]
            count = f"{row['count']:,}"
            if row.get("reference_count"):
                count += f" to {row['reference_count']:,}"
            cells = [f"[bold]{name}[/]", _number(row["value"])]
            cells += [_number(row["median"]) if "median" in row else ""] if medians else []
            table.add_row(*cells, count, f"[dim]{unit}[/]")
        output.print(table, soft_wrap=False)
        output.print()
    for key, label in _SETTINGS.items():
        if key in found.settings:
            output.print(f"{label:12s} {found.settings[key]}", markup=False)
    for note in found.notes:
        say_warning(note)


def _number(value: float | None) -> str:
    if value is None:
        return "infinite"
    return f"{value:.4f}" if abs(value) >= 0.01 or abs(value) < 1e-8 else f"{value:.3e}"
