"""Trains the small masked language model `verses` and its judge from Tiny Shakespeare, on an ordinary processor.

    python -m fewstep.assets.recipes.verses --data input.txt --out assets/models

Stages, in order: `judge` (a causal model of the same characters, which tells how likely a text is), `model` (the masked
diffusion model), `export` (plain transformers folders in float16), `measure` (bits a character on held-out text) and
`statistics` (of the held-out text, into the folder `statistics` beside `--out`).
Each training stage keeps a checkpoint in `--work` and goes on from it, also after its end when `--steps` or `--minutes`
is raised. The last tenth of the text is never trained on; its first half is looked at while training.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch import Tensor

from fewstep.pipelines.files import write_atomically

from .training import Fit, average_of, console, read_checkpoint, train
from .verses_data import ALPHABET, LENGTH, Split3, encoded, new_tokenizer, random_windows, read_text
from .verses_model import (
    Measured,
    drawn_texts,
    new_judge_model,
    new_masked_model,
    row_bounds,
    unigram_entropy,
    window_bits,
    window_bounds,
    with_channel_dropout,
)


class Stage(StrEnum):
    judge = "judge"
    model = "model"
    export = "export"
    measure = "measure"
    statistics = "statistics"
    all = "all"


FITS = {
    Stage.judge: Fit(
        steps=1156, batch=24, rate=3e-3, hold=0.3, ema=0.99, weight_decay=0.1, matrix_rate=3e-3, bfloat16=True
    ),
    Stage.model: Fit(
        steps=7900, batch=24, rate=3e-3, hold=0.4, ema=0.998, weight_decay=0.1, matrix_rate=3e-3, bfloat16=True
    ),
}
SMOKE = {stage: replace(fit, steps=3, batch=4, warmup=1, bfloat16=False) for stage, fit in FITS.items()}
DROPOUT = 0.25
"""Share of the masked model's feed-forward channels that a training step leaves out."""


def train_judge(data: Split3, fit: Fit, work: Path, seed: int, device: torch.device) -> Any:
    """Next-character prediction on random windows."""
    torch.manual_seed(seed + 1)
    model = new_judge_model().to(device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        ids = random_windows(data.train, fit.batch, LENGTH + 1, generator).to(device)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def watch(average: Any) -> dict[str, float]:
        return {"bits": float(window_bits(logits_of(average), data.watched).mean())}

    return train(Stage.judge, model, loss, fit, work, seed + 1, unit="windows", watch=watch)


def train_model(data: Split3, fit: Fit, work: Path, seed: int, device: torch.device, dropout: float = DROPOUT) -> Any:
    """Masked diffusion on random windows."""
    torch.manual_seed(seed)
    model = with_channel_dropout(new_masked_model(), dropout).to(device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        ids = random_windows(data.train, fit.batch, LENGTH, generator).to(device)
        return row_bounds(lambda masked: model(input_ids=masked).logits, ids, generator).mean()

    def watch(average: Any) -> dict[str, float]:
        return {"bits": float(window_bounds(logits_of(average), data.watched, draws=4, seed=7).mean())}

    return train(Stage.model, model, loss, fit, work, seed, unit="windows", watch=watch)


def logits_of(model: Any) -> Any:
    """The network as a function from ids (B, L) to logits (B, L, 68)."""
    device = next(model.parameters()).device

    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids.to(device)).logits.cpu()

    return logits


NAMES = {Stage.model: "verses", Stage.judge: "verses-judge"}
"""Folders of the exported models."""


def export(work: Path, out: Path, stages: list[Stage]) -> None:
    """Write `out/verses` and `out/verses-judge`, float16 with the tokenizer beside them, leaving the cards.

    Every folder is made whole in `work` first, so a missing checkpoint leaves `out` as it was.
    """
    fresh = work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    for stage in stages:
        new = new_judge_model if stage is Stage.judge else new_masked_model
        folder = fresh / NAMES[stage]
        average_of(new(), stage, work).half().save_pretrained(folder)
        new_tokenizer().save_pretrained(folder)
        for file in folder.glob("*.json"):
            _clean_json(file)
    for file in sorted(fresh.rglob("*")):
        if file.is_file():
            write_atomically(out / file.relative_to(fresh), file.read_bytes())
    shutil.rmtree(fresh)
    for stage in stages:
        size = sum(file.stat().st_size for file in (out / NAMES[stage]).rglob("*") if file.is_file())
        console.print(f"wrote {NAMES[stage]}: {size / 1e6:.2f} MB")


def _clean_json(file: Path) -> None:
    """Drop what says where a file was made; let the models load in float32, and the tokenizer in any transformers."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    if "dtype" in content:
        content["dtype"] = "float32"
    if "tokenizer_class" in content:
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(out: Path, work: Path, data: Split3, draws: int, count: int) -> dict[str, Any]:
    """Bits a character of the exported models on held-out text, and how the training went where `work` knows."""
    import transformers

    result: dict[str, Any] = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    models: dict[Stage, Any] = {}
    for stage, kind in ((Stage.model, "AutoModelForMaskedLM"), (Stage.judge, "AutoModelForCausalLM")):
        folder = out / NAMES[stage]
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(f"There is no model.safetensors in {folder}; run --stage export first.")
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True).eval()
        entry: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
        rows = [
            window_bits(logits_of(model), ids)
            if stage is Stage.judge
            else window_bounds(logits_of(model), ids, draws, seed=1)
            for ids in (data.watched, data.held_out)
        ]
        for name, bits in (("last 5 %", rows[1]), ("last 10 %", torch.cat(rows))):
            mean, error, windows = Measured.of(bits)
            entry[name] = {"bits": mean, "standard error": error, "windows": windows, "draws": draws}
        file = work / f"{stage}.pt"
        if file.is_file():
            checkpoint = read_checkpoint(file, stage)
            entry["training"] = {"steps": checkpoint["step"], "minutes": checkpoint["seconds"] / 60}
            entry["history"] = checkpoint["history"]
        result[NAMES[stage]] = entry
        models[stage] = model
    result["drawn texts"] = {
        calls: measure_drawn(models[Stage.model], models[Stage.judge], count, calls) for calls in (4, 16, 64)
    }
    result["unigram entropy of real text"] = unigram_entropy(torch.cat([data.watched, data.held_out]))
    return result


def measure_drawn(model: Any, judge: Any, count: int, calls: int) -> dict[str, float]:
    """What the judge says of texts that the model drew in so many calls."""
    ids = drawn_texts(logits_of(model), count, calls, seed=1)
    mean, error, _ = Measured.of(window_bits(logits_of(judge), ids.flatten()))
    return {"judge's bits": mean, "standard error": error, "unigram entropy": unigram_entropy(ids)}


def run(
    data: Annotated[Path | None, typer.Option(help="The text, tinyshakespeare/input.txt.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that receives verses/ and verses-judge/.")] = Path("models"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; a run goes on from what it finds.")] = Path("work"),
    stage: Annotated[Stage, typer.Option(help="What to do.")] = Stage.all,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the stage, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop a training stage after this long.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile; needs a C++ compiler.")] = False,
    dropout: Annotated[float, typer.Option(help="model: share of channels left out; more for a longer run.")] = DROPOUT,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of everything, to see that it runs.")] = False,
    draws: Annotated[int, typer.Option(help="measure: mask patterns of each window of text.")] = 4,
    count: Annotated[int, typer.Option(help="measure: number of texts to draw.")] = 32,
    report: Annotated[Path | None, typer.Option(help="measure: the JSON file to write.")] = None,
) -> None:
    """Train, export and measure the verses model and its judge."""
    if threads:
        torch.set_num_threads(threads)
    if smoke:
        draws, count = 1, 2
    for name, number in (("steps", steps), ("minutes", minutes), ("draws", draws), ("count", count)):
        if number is not None and number <= 0:
            raise ValueError(f"--{name} must be positive, got {number}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"--dropout must be in [0, 1), got {dropout}.")
    todo = [s for s in Stage if s is not Stage.all] if stage is Stage.all else [stage]
    if data is None and {Stage.judge, Stage.model, Stage.measure, Stage.statistics} & set(todo):
        raise ValueError(f"Stage {stage.value} needs --data, the text file.")
    parts = Split3.of(encoded(read_text(data))) if data else None
    work.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name in FITS and parts is not None:
            fit = (SMOKE if smoke else FITS)[name]
            fit = replace(fit, steps=steps or fit.steps, minutes=minutes, compile=compile)
            if name is Stage.judge:
                train_judge(parts, fit, work, seed, torch.device(device))
            else:
                train_model(parts, fit, work, seed, torch.device(device), dropout)
        elif name is Stage.export:
            export(work, out, list(NAMES))
        elif name is Stage.measure and parts is not None:
            result = measure(out, work, parts, draws, count)
            write_atomically(report or work / "measure.json", (json.dumps(result, indent=2) + "\n").encode())
            console.print_json(data=result)
        elif name is Stage.statistics and parts is not None:
            write_statistics(out, parts)


def write_statistics(out: Path, parts: Split3) -> None:
    """Laws of the n-grams of the held-out tenth, and what the judge says of it, into `statistics/verses.npz`."""
    from fewstep.eval.text_judge import TextJudge
    from fewstep.eval.text_reference import counted

    text = "".join(ALPHABET[i] for i in torch.cat([parts.watched, parts.held_out]).tolist())
    file = out.absolute().parent / "statistics" / "verses.npz"
    counted(text, TextJudge.from_pretrained(str(out / "verses-judge"))).save(file)
    console.print(f"wrote {file.name}: {file.stat().st_size / 1e6:.2f} MB, of {len(text):,} characters")


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
