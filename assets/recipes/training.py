"""The training loop that the recipes of all models share: resumable, seeded step by step, with a moving average.

    averaged = train("judge", model, loss, Fit(steps=1000, batch=64, rate=1e-3, hold=0.5), Path("work"), seed=0)

`loss(step, generator)` draws its batch from the generator, which depends on the seed and the step alone, so a run that
was interrupted ends where an uninterrupted one does, up to rounding (dropout apart, whose masks are torch's own).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

CHECKPOINT_SECONDS = 120.0
REPORT_SECONDS = 20.0
Network = TypeVar("Network", bound=nn.Module)
console = Console()


@dataclass(frozen=True)
class Fit:
    """How long, how fast and in which arithmetic a stage trains."""

    steps: int
    batch: int
    rate: float  # peak learning rate of AdamW
    hold: float  # share of the run at the peak rate; the rest is a cosine down to 1 % of it
    warmup: int = 100
    ema: float = 0.999
    minutes: float | None = None  # stop, with the rate fully decayed, after this much training if that comes first
    weight_decay: float = 0.01  # of parameters with two or more dimensions
    matrix_rate: float | None = None  # peak rate of Muon on the hidden matrices; None trains them with AdamW too
    bfloat16: bool = False  # the loss runs under autocast; weights, optimiser and average stay in float32
    compile: bool = False  # torch.compile of the model, or of each entry of a ModuleDict


def step_generator(seed: int, step: int) -> torch.Generator:
    """The source of all randomness of one training step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def write_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Write beside the file first, so that a crash leaves the previous checkpoint whole."""
    partial = file.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, file)


def read_checkpoint(file: Path, stage: str) -> dict[str, Any]:
    """The content of a checkpoint that the stage of this name wrote."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file.name} in {file.parent}; run --stage {stage} first.")
    return torch.load(file, map_location="cpu", weights_only=True)


def average_of(model: Network, stage: str, work: Path) -> Network:
    """A model with the averaged weights of the stage's checkpoint, in evaluation mode."""
    model.load_state_dict(read_checkpoint(work / f"{stage}.pt", stage)["average"])
    return model.eval()


def learning_rate(fit: Fit, step: int, progress: float) -> float:
    """Linear warm-up, then the peak, then a cosine down to 1 % of it. `progress` in [0, 1] is the share of the run."""
    decay = max(0.0, progress - fit.hold) / (1 - fit.hold)
    return fit.rate * min(1.0, (step + 1) / fit.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * decay)))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) model, for parameters and float buffers; other buffers are copied."""
    for kept, fresh in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(fresh, 1 - decay)
        else:
            kept.copy_(fresh)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers between the first and the last: embeddings, what is tied to them and the output
    layer of a transformers model are left out, since their rows are separate vectors."""
    apart: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            apart.add(id(module.weight))
        output_layer: Any = getattr(module, "get_output_embeddings", None)
        head = output_layer() if output_layer is not None else None
        if head is not None:
            apart.add(id(head.weight))
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} - apart
    return [p for p in model.parameters() if p.requires_grad and id(p) in linear]


def new_optimizers(model: nn.Module, fit: Fit) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (Jordan et al., 2024; scaled to AdamW's step size after Liu et al., 2025,
    arXiv:2502.16982) for the hidden matrices and AdamW for the rest."""
    matrices = hidden_matrices(model) if fit.matrix_rate is not None else []
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": fit.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, fit.rate, betas=(0.9, 0.99))]
    if fit.matrix_rate is not None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"matrix_rate needs torch.optim.Muon, torch 2.9 or later; this is {torch.__version__}.")
        optimizers.append(
            torch.optim.Muon(matrices, fit.matrix_rate, weight_decay=fit.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def train(
    stage: str,
    model: Network,
    loss: Callable[[int, torch.Generator], Tensor],
    fit: Fit,
    work: Path,
    seed: int,
    *,
    unit: str = "img",
    watch: Callable[[Network], Mapping[str, float]] | None = None,
    watch_minutes: float = 4.0,
) -> Network:
    """Fit a model, going on from the stage's checkpoint if there is one.

    Args:
        stage: names the checkpoint, `work/STAGE.pt`.
        model: trained in place.
        loss: from the step's number and its generator, the scalar to descend. It must call `model` itself (or the
            entries of the ModuleDict), which is what gets compiled.
        fit: budget, rates and arithmetic.
        work: folder of checkpoints.
        seed: of the whole run.
        unit: what `fit.batch` counts, for the progress line.
        watch: measures the average now and then (in evaluation mode, without gradients); its numbers are printed and
            kept in the checkpoint's `history`. Its time is not counted.
        watch_minutes: training minutes between two of them.

    Returns:
        The exponential moving average of the model, in evaluation mode.
    """
    file = work / f"{stage}.pt"
    optimizers = new_optimizers(model, fit)
    average = deepcopy(model).eval().requires_grad_(False)
    step, seconds = 0, 0.0
    history: list[dict[str, float]] = []
    if file.is_file():
        checkpoint = read_checkpoint(file, stage)
        model.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        if len(checkpoint["optimizers"]) != len(optimizers):
            raise ValueError(f"{file} was written with another optimiser; use another --work or delete it.")
        for optimizer, state in zip(optimizers, checkpoint["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, seconds, history = checkpoint["step"], checkpoint["seconds"], checkpoint["history"]
        console.print(f"{stage}: going on from step {step}, {seconds / 60:.1f} minutes in")
    peaks = [fit.rate] if fit.matrix_rate is None else [fit.rate, fit.matrix_rate]
    if fit.compile:
        for network in model.values() if isinstance(model, nn.ModuleDict) else [model]:
            network.compile()
    device = next(model.parameters()).device.type

    def share() -> float:
        by_time = seconds / (60 * fit.minutes) if fit.minutes else 0.0
        return min(1.0, max(step / fit.steps, by_time))

    def save() -> None:
        content = {"model": model.state_dict(), "average": average.state_dict(), "history": history}
        states = [optimizer.state_dict() for optimizer in optimizers]
        write_checkpoint(file, {**content, "optimizers": states, "step": step, "seconds": seconds})

    def measure_average() -> None:
        if watch is None:
            return
        with torch.no_grad():
            measured = {name: float(value) for name, value in watch(average).items()}
        history.append({"step": step, "minutes": round(seconds / 60, 2), "loss": mean, **measured})
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in measured.items())
        console.print(f"{stage}: step {step}  {numbers}")

    model.train()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(stage, total=1.0, note="")
        saved, shown, shown_step, watched, mean = seconds, seconds, step, seconds, math.nan
        while share() < 1:
            began = time.perf_counter()
            scale = learning_rate(fit, step, share()) / fit.rate
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * scale
            with torch.autocast(device, torch.bfloat16, enabled=fit.bfloat16):
                value = loss(step, step_generator(seed, step))
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            update_average(average, model, min(fit.ema, (1 + step) / (10 + step)))
            mean = float(value.detach()) if math.isnan(mean) else 0.98 * mean + 0.02 * float(value.detach())
            if not math.isfinite(mean):
                raise RuntimeError(f"The loss of stage {stage} is no longer finite at step {step}.")
            seconds += time.perf_counter() - began
            if seconds - shown >= REPORT_SECONDS or share() >= 1:
                speed = (step - shown_step) * fit.batch / max(seconds - shown, 1e-9)
                note = f"step {step}  loss {mean:.4f}  {speed:.0f} {unit}/s"
                progress.update(task, note=note)
                if not console.is_terminal:
                    left = seconds * (1 / share() - 1)
                    console.print(f"{stage}: {note}  {seconds / 60:.1f} min, {left / 60:.1f} min left")
                shown, shown_step = seconds, step
            progress.update(task, completed=share())
            if seconds - watched >= 60 * watch_minutes or share() >= 1:
                measure_average()
                watched = seconds
            if seconds - saved >= CHECKPOINT_SECONDS:
                save()
                saved = seconds
        save()
    return average
