"""Trains the small masked-token text-to-image model `garments-tokens` from Fashion-MNIST, on an ordinary processor.

    python -m fewstep.assets.recipes.garments_tokens --data fashion_mnist.npz --out assets/models

Stages, in order: `tokenizer` (pictures <-> 8x8 tokens of 512 kinds), `denoiser` (text encoder and transformer, jointly,
on cached tokens), `export` (an `AmusedPipeline` in float16) and `measure` (does the judge find what the caption asked
for? also writes the card). `--out` must hold `garments`, from whose autoencoder the tokenizer starts, and
`garments-judge`; the recipe `garments` makes both. Each training stage keeps a checkpoint in `--work` and goes on from
it, also after its end when `--steps` or `--minutes` is raised. Test images are only ever measured on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from fewstep.eval.judge import Judge
from fewstep.pipelines.files import write_atomically

from .garments import Pictures, _pictures, new_tokenizer, placed, write_sheet
from .garments_tokens_card import card
from .garments_tokens_measure import Setting, measure_parts, measure_setting, settings
from .garments_tokens_networks import WORDS, new_scheduler, new_vqvae
from .garments_tokens_training import new_networks, train_denoiser, train_tokenizer
from .training import Fit, average_of, console, read_checkpoint

NAME = "garments-tokens"


class Stage(StrEnum):
    tokenizer = "tokenizer"
    denoiser = "denoiser"
    export = "export"
    measure = "measure"
    all = "all"


FITS = {
    Stage.tokenizer: Fit(steps=1000, batch=64, rate=1e-3, hold=0.3, bfloat16=True),
    Stage.denoiser: Fit(steps=2625, batch=64, rate=2e-3, hold=0.4, matrix_rate=2e-3, bfloat16=True),
}
SMOKE = {stage: replace(fit, steps=3, batch=8, warmup=1, bfloat16=False) for stage, fit in FITS.items()}
VIEWS = 2
"""Colourings of each garment that the denoiser sees."""


def trained_tokenizer(work: Path) -> Any:
    """The averaged VQModel of the checkpoint."""
    average = read_checkpoint(work / "tokenizer.pt", Stage.tokenizer)["average"]
    average.pop("quantize.usage", None)
    vqvae = new_vqvae()
    vqvae.load_state_dict(average)
    return vqvae.eval()


def export(work: Path, out: Path) -> None:
    """Write `out/garments-tokens`, an AmusedPipeline in float16, leaving its card.

    The folder is made whole in `work` first, so a missing checkpoint leaves `out` as it was.
    """
    from diffusers import AmusedPipeline

    tokenizer = new_tokenizer()
    tokenizer.model_max_length = WORDS
    networks = average_of(new_networks(tokenizer.get_vocab()), Stage.denoiser, work)
    pipeline: Any = AmusedPipeline(
        vqvae=trained_tokenizer(work),
        tokenizer=tokenizer,
        text_encoder=networks["text_encoder"],
        transformer=networks["transformer"],
        scheduler=new_scheduler(),
    )
    fresh = work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    # The two files of the older CLIP format as well, for readers that do not know tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(fresh / "tokenizer"))
    for file in fresh.rglob("*.json"):
        _clean_json(file)
    for file in sorted(fresh.rglob("*")):
        if file.is_file():
            write_atomically(out / NAME / file.relative_to(fresh), file.read_bytes())
    shutil.rmtree(fresh)
    size = sum(file.stat().st_size for file in (out / NAME).rglob("*") if file.is_file())
    console.print(f"wrote {NAME}: {size / 1e6:.2f} MB")


def _clean_json(file: Path) -> None:
    """Drop what says where a file was made, and let the text encoder load in float32 as the other networks do."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    if "dtype" in content:
        content["dtype"] = "float32"
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def training_record(work: Path) -> dict[str, Any]:
    """Steps, minutes and history of each stage whose checkpoint is in `work`."""
    record = {}
    for stage in FITS:
        file = work / f"{stage}.pt"
        if file.is_file():
            content = read_checkpoint(file, stage)
            record[stage.value] = {
                "steps": content["step"],
                "batch": FITS[stage].batch,
                "minutes": content["seconds"] / 60,
                "history": content["history"],
            }
    return record


def measure(
    out: Path, work: Path, test_set: Pictures | None, chosen: list[Setting], count: int, seed: int, sheet: Path | None
) -> dict[str, Any]:
    """Measure the exported folder and write its card."""
    judge = Judge.from_pretrained(out / "garments-judge")
    result = {**measure_parts(out / NAME, judge, test_set), "training": training_record(work), "drawn": []}
    for setting in chosen:
        row, pictures = measure_setting(out / NAME, judge, setting, count, seed)
        result["drawn"].append(row)
        console.print(
            f"{setting.scheduler}, {setting.calls} calls, guidance {setting.guidance:g}: "
            + ", ".join(f"{question} {row[question]:.1%}" for question in judge.labels)
        )
        if sheet is not None and setting is chosen[0]:
            write_sheet(pictures[:100], 10, sheet)
    write_atomically(out / NAME / "README.md", card(result).encode())
    return result


def run(
    data: Annotated[
        Path | None, typer.Option(help="Fashion-MNIST: the .npz file, or a folder with the four idx(.gz) files.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder that holds garments/ and garments-judge/ and receives garments-tokens/.")
    ] = Path("models"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; a run goes on from what it finds.")] = Path(
        "work-garments-tokens"
    ),
    stage: Annotated[Stage, typer.Option(help="What to do.")] = Stage.all,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the stage, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop a training stage after this long.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile; needs a C++ compiler.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of everything, to see that it runs.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="measure: one scheduler class instead of the three of the card.")
    ] = None,
    calls: Annotated[list[int] | None, typer.Option(help="measure: network calls a picture; may be repeated.")] = None,
    guidance: Annotated[float, typer.Option(help="measure: guidance scale.")] = 3.0,
    count: Annotated[int, typer.Option(help="measure: number of pictures.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="measure: the JSON file to write.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="measure: a PNG of the first 100 pictures.")] = None,
) -> None:
    """Train, export and measure the garments-tokens model."""
    if smoke:
        calls, count = [2], 10
    if threads:
        torch.set_num_threads(threads)
    numbers = (calls or [12]) if stage in (Stage.measure, Stage.all) else []
    positive = {
        "steps": steps,
        "minutes": minutes,
        "count": count,
        "threads": threads,
        "calls": min(numbers, default=1),
    }
    for name, number in positive.items():
        if number is not None and number <= 0:
            raise ValueError(f"--{name} must be positive, got {number}.")
    todo = [s for s in Stage if s is not Stage.all] if stage is Stage.all else [stage]
    if data is None and {Stage.tokenizer, Stage.denoiser} & set(todo):
        raise ValueError(f"Stage {stage.value} needs --data, the Fashion-MNIST file or folder.")
    chosen = [Setting(scheduler, n, guidance) for n in numbers] if scheduler else settings(tuple(numbers), guidance)
    place = torch.device(device)
    train_set, test_set = _pictures(data, smoke) if data else (None, None)
    work.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name in FITS and train_set is not None and test_set is not None:
            fit = replace((SMOKE if smoke else FITS)[name], minutes=minutes, compile=compile)
            fit = replace(fit, steps=steps or fit.steps)
            if name is Stage.tokenizer:
                train_tokenizer(train_set, fit, work, out / "garments" / "vae", seed, place)
            else:
                vqvae = placed(trained_tokenizer(work), place)
                train_denoiser(vqvae, train_set, test_set, fit, work, seed, place, 1 if smoke else VIEWS)
        elif name is Stage.export:
            export(work, out)
        elif name is Stage.measure:
            result = measure(out, work, test_set, chosen, count, seed, sheet)
            write_atomically(report or work / "measure.json", (json.dumps(result, indent=2) + "\n").encode())


def main() -> None:
    """Entry point: prints an error as a sentence and exits 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run)
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"Error: {error}", highlight=False)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
