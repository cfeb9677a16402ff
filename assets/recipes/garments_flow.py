"""Trains `garments-flow`, a small FluxPipeline that draws garments, from Fashion-MNIST on an ordinary processor.

    python -m fewstep.assets.recipes.garments_flow --data fashion_mnist.npz --out assets/models

It reuses the autoencoder of `garments` and its judge, which must be in the folder `--out`. Stages, in order: `latents`
(encode the training pictures once), `denoiser` (both text encoders and the transformer, by flow matching), `guidance`
(classifier-free guidance distilled into the guidance embedding), `export` (plain diffusers folders in float16),
`measure` (does the judge find what the caption asked for?) and `card`. Each training stage keeps a checkpoint in
`--work` and goes on from it; `--steps` or `--minutes` larger than before extend a finished one. Test images are never
read.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from .garments import Pictures
from .garments_data import load_fashion_mnist
from .garments_flow_card import card
from .garments_flow_export import NAME, Watch, export, load_autoencoder, measure
from .garments_flow_training import cache_latents, read_cache, smoke, train_denoiser, train_guidance
from .training import Fit, console


class Stage(StrEnum):
    latents = "latents"
    denoiser = "denoiser"
    guidance = "guidance"
    export = "export"
    measure = "measure"
    card = "card"
    all = "all"


FITS = {
    Stage.denoiser: Fit(
        steps=4924, batch=96, rate=1e-3, hold=0.5, warmup=50, ema=0.995, matrix_rate=2e-3, bfloat16=True
    ),
    Stage.guidance: Fit(
        steps=3000, batch=48, rate=5e-4, hold=0.3, warmup=50, ema=0.995, matrix_rate=5e-4, bfloat16=True
    ),
}
VIEWS = 4
"""Colourings of each garment that the transformer sees."""


def run(
    data: Annotated[
        Path | None, typer.Option(help="Fashion-MNIST: the .npz file, or a folder with the four idx(.gz) files.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder with garments/ and garments-judge/, which receives garments-flow/.")
    ] = Path("models"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; a run goes on from what it finds.")] = Path(
        "work-garments-flow"
    ),
    stage: Annotated[Stage, typer.Option(help="What to do.")] = Stage.all,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the stage, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop a training stage after this long.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures of a training step, instead of the recipe's.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile; needs a C++ compiler.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    smoke_test: Annotated[bool, typer.Option("--smoke", help="A few steps of everything, as a test.")] = False,
    calls: Annotated[int, typer.Option(help="measure: network calls of a picture.")] = 20,
    count: Annotated[int, typer.Option(help="measure: number of pictures.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="measure, card: the JSON file, instead of work's.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="measure: a PNG of the first 100 pictures.")] = None,
    note: Annotated[str, typer.Option(help="card: what else is to be said about the training.")] = "",
) -> None:
    """Train, export and measure the garments-flow model."""
    if smoke_test:
        calls, count = 2, 10
    for name, number in (
        ("threads", threads),
        ("steps", steps),
        ("minutes", minutes),
        ("batch", batch),
        ("calls", calls),
        ("count", count),
    ):
        if number is not None and number <= 0:
            raise ValueError(f"--{name} must be positive, got {number}.")
    if threads:
        torch.set_num_threads(threads)
    todo = [s for s in Stage if s is not Stage.all] if stage is Stage.all else [stage]
    if Stage.latents in todo and data is None:
        raise ValueError(f"Stage {stage.value} needs --data, the Fashion-MNIST file or folder.")
    place = torch.device(device)
    file = report or work / "measure.json"
    work.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name is Stage.latents and data is not None:
            encode(data, out, work, seed, smoke_test, place)
        elif name in FITS:
            fit = smoke(FITS[name]) if smoke_test else replace(FITS[name], minutes=minutes, compile=compile)
            fit = replace(fit, steps=steps or fit.steps, batch=batch or fit.batch)
            if name is Stage.denoiser:
                train_denoiser(fit, work, seed, place, watch=None if smoke_test else Watch(out, read_cache(work), seed))
            else:
                train_guidance(fit, work, seed, place)
        elif name is Stage.export:
            export(work, out, load_autoencoder(out), seed)
        elif name is Stage.measure:
            result = measure(out, calls, count, seed, sheet)
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            console.print_json(data=result)
        elif name is Stage.card:
            (out / NAME / "README.md").write_text(card(file, work, note), encoding="utf-8")


def encode(data: Path, out: Path, work: Path, seed: int, smoke_test: bool, device: torch.device) -> None:
    """Fill the cache of latents, unless it is there."""
    cache = work / "latents.pt"
    if cache.is_file():
        console.print(f"latents: going on with {cache}")
        return
    autoencoder = load_autoencoder(out).to(device)
    pictures = training_pictures(data, 64 if smoke_test else None)
    cache_latents(autoencoder, pictures, cache, seed, 1 if smoke_test else VIEWS)


def training_pictures(data: Path, most: int | None = None) -> Pictures:
    """The 60,000 training pictures, or the first few; the test pictures are left alone."""
    arrays = load_fashion_mnist(data)
    return Pictures(torch.from_numpy(arrays["x_train"][:most]), torch.from_numpy(arrays["y_train"][:most]))


def main() -> None:
    """Entry point: prints an error as a sentence and exits 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        Console(stderr=True).print(f"Error: {error}", highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
