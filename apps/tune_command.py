"""`fewstep tune`: fit a sampler to a model, and say what it gains on noise and prompts that it has not seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .targets import check_target
from .terminal import notes, output, print_json


def tune(
    model: Annotated[str, typer.Argument(help="A shipped model, a folder, or owner/name on the hub.")] = "garments",
    nfe: Annotated[str, typer.Option(help="Numbers of network calls to tune for, such as 5,8,20.")] = "8",
    sampler: Annotated[
        str, typer.Option(help="auto fits weights and noise levels; a method's name places its noise levels alone.")
    ] = "auto",
    guidance: Annotated[
        float | None, typer.Option(help="Guidance that it will be used with. [dim]default: 3, or the pipeline's own[/]")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file of prompts, one a line. [dim]default: a shipped model's own[/]")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures to tune on, and as many to prove it on.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds of refinement at most; 0 for none.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the first picture.")] = 1_000_000,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps. [dim]default: auto[/]")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The recipe. [dim]default: MODEL-NFE.json[/]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Fit a sampler to a model for given numbers of network calls.

    The recipe that it writes is a scheduler's configuration: `fewstep generate --sampler recipe.json`,
    `load(model, sampler="recipe.json")` and `TunedScheduler.from_pretrained("recipe.json")` take it. It is written
    anew after each number of calls, the least first, so a run that is stopped keeps what it has found.
    """
    try:
        calls = [int(word) for word in nfe.split(",")]
    except ValueError:
        raise ValueError(f"--nfe is a list of whole numbers such as 5,8,20, got {nfe!r}") from None
    if rounds < 0:
        raise ValueError(f"rounds must be at least 0, got {rounds}")
    target = out or Path(f"{Path(model).name}-{'-'.join(map(str, calls))}.json")
    check_target(target, ".json")
    if target.exists() and not overwrite:
        raise ValueError(f"{str(target)!r} exists; --overwrite replaces it")
    texts = _lines(prompts) if prompts is not None else None

    from fewstep.pipelines import load_model, tune_pipeline
    from fewstep.samplers import resolve

    method = None if sampler == "auto" else resolve(sampler).method
    if method is not None and method.spec.calls != 1:
        raise ValueError(f"tuning is for methods of one network call a step, and {sampler} makes {method.spec.calls}")
    pipe = load_model(model, dtype=dtype, device=device)
    begin = time.perf_counter()
    recipe = tune_pipeline(
        pipe,
        calls,
        prompts=texts,
        guidance=guidance,
        count=count,
        seed=seed,
        method=method,
        rounds=rounds,
        report=None if as_json else lambda line: notes.print(f"[dim]{line}[/]"),
        keep=lambda recipe: recipe.save(target),
    )
    about = recipe.config["_tuning"]
    if as_json:
        print_json({"recipe": str(target), "seconds": round(time.perf_counter() - begin, 1), **about})
        return
    output.print(_held_out(about), soft_wrap=False)
    spent = about["network_calls"]
    output.print(
        f"Tuning cost {sum(spent.values())} network calls of a batch of {count} pictures "
        f"({spent['trajectory']} for converged runs), {time.perf_counter() - begin:.0f} s."
    )
    lost = [n for n, entry in about["held_out"].items() if entry["tuned"]["rmse"] >= entry["best_named"]["rmse"]]
    if lost:
        notes.print(f"At {', '.join(lost)} calls a named grid does better: use it, or tune on more pictures.")
    output.print(f"Wrote {target}")


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of prompts {str(path)!r}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    if len(found) < 2:
        raise ValueError(f"{str(path)!r} holds {len(found)} prompts; tuning needs at least two, one a line")
    return found


def _held_out(about: dict[str, Any]) -> Table:
    table = Table(title="Solver error on noise and prompts held out (root mean square of the latents)")
    for name in ("calls", "tuned", "best named", "of", "ratio"):
        table.add_column(name, justify="left" if name == "of" else "right")
    for n, entry in about["held_out"].items():
        ours, theirs = entry["tuned"], entry["best_named"]
        table.add_row(
            n,
            f"{ours['rmse']:.4g}",
            f"{theirs['rmse']:.4g}",
            f"{theirs['sampler']} on {theirs['grid']}",
            f"{ours['rmse'] / theirs['rmse']:.2f}",
        )
    return table
