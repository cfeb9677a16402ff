"""Trains the small pixel diffusion model `photo-prior`, which knows what photographs look like close up.

    python -m fewstep.assets.recipes.photo_prior --photographs kodak --emoji noto_emoji_32.npz --out assets/models

Stages, in order: `prior` (an unconditional U-Net on 64x64 windows), `export` (a `DDPMPipeline` folder in float16) and
`measure` (how well does it restore photographs that it has not seen? see `photo_prior_measure`). The training stage
keeps a checkpoint in `--work` and goes on from it.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from .photo_prior_data import HELD_OUT, TRAINED, Windows, centre_windows, read_emoji, read_photographs
from .training import Fit, average_of, console, train

WINDOW = 64
NOISES = (5, 15, 25, 50, 100)
"""Standard deviations of the noise that `measure` adds, in 255ths of the range of a pixel."""


class Stage(StrEnum):
    prior = "prior"
    export = "export"
    measure = "measure"
    all = "all"


FIT = Fit(steps=5000, batch=16, rate=8e-4, hold=0.3, warmup=200, ema=0.998, bfloat16=True)
SMOKE = Fit(steps=3, batch=4, rate=1e-3, hold=0.3, warmup=1)


def new_unet() -> Any:
    """UNet2DModel, (B, 3, H, W) -> (B, 3, H, W), convolutions only, so that H and W may be any multiples of 8."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=WINDOW,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        norm_num_groups=8,
        add_attention=False,
    )


def new_scheduler() -> Any:
    """DDPMScheduler: 1000 times, cosine noise (Nichol, Dhariwal, 2021, arXiv:2102.09672), the network predicts v.

    Few steps begin at pure noise (``trailing``), not at a timestep that still has signal.
    """
    from diffusers import DDPMScheduler

    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing")


def train_prior(windows: Windows, held_out: Tensor, fit: Fit, work: Path, seed: int, device: torch.device) -> nn.Module:
    """Fit v = alpha eps - sigma x to windows at times drawn evenly, one stratum each (Salimans, Ho, 2022)."""
    torch.manual_seed(seed)
    model = new_unet().to(device, memory_format=torch.channels_last)
    signal = new_scheduler().alphas_cumprod

    def loss(step: int, generator: torch.Generator) -> Tensor:
        clean = windows.batch(fit.batch, generator)
        share = (torch.arange(fit.batch) + torch.rand(fit.batch, generator=generator)) / fit.batch
        timestep = (share * 1000).long().clamp(max=999)
        noise = torch.randn(clean.shape, generator=generator)
        alpha, sigma = (s[timestep, None, None, None].sqrt() for s in (signal, 1 - signal))
        target = alpha * noise - sigma * clean
        predicted = model((alpha * clean + sigma * noise).to(device), timestep.to(device)).sample
        return (predicted.float() - target.to(device)).square().mean()

    def watch(average: nn.Module) -> dict[str, float]:
        return {f"denoised {n}": denoising(average, held_out, n) for n in (15, 50)}

    return train(Stage.prior, model, loss, fit, work, seed, unit="windows", watch=watch)


@torch.inference_mode()
def denoised(unet: Any, noisy: Tensor, sigma: float) -> Tensor:
    """The model's mean of the clean picture given the noisy one, in one call.

    Args:
        noisy: (B, 3, H, W), of clean values in [-1, 1]; any height and width.
        sigma: standard deviation of the noise, in the same units.
    """
    signal = new_scheduler().alphas_cumprod
    level = ((1 - signal) / signal).sqrt()
    timestep = int((level.log() - math.log(sigma)).abs().argmin())
    alpha, rest = signal[timestep].sqrt(), (1 - signal[timestep]).sqrt()
    height, width = noisy.shape[-2:]
    padded = nn.functional.pad(noisy, (0, -width % 8, 0, -height % 8), mode="reflect")
    scaled = alpha * padded
    velocity = unet(scaled, timestep).sample.float()
    return (alpha * scaled - rest * velocity)[..., :height, :width]


def denoising(unet: Any, clean: Tensor, noise: float) -> float:
    """Mean PSNR in dB of pictures (B, 3, H, W) in [-1, 1] after noise of `noise` / 255 was added and removed."""
    sigma = 2 * noise / 255
    generator = torch.Generator().manual_seed(7)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    device = next(unet.parameters()).device
    restored = [denoised(unet, rows.to(device), sigma).clamp(-1, 1).cpu() for rows in noisy.split(16)]
    error = (torch.cat(restored) - clean).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def export(work: Path, out: Path) -> Path:
    """Write `out/photo-prior`, a DDPMPipeline in float16, leaving its card."""
    from diffusers import DDPMPipeline

    unet = average_of(new_unet(), Stage.prior, work)
    fresh = work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline: Any = DDPMPipeline(unet=unet, scheduler=new_scheduler())
    pipeline.to(torch.float16).save_pretrained(fresh)
    for file in sorted(fresh.rglob("*")):
        if not file.is_file():
            continue
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            content.pop("_name_or_path", None)
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        target = out / "photo-prior" / file.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.rmtree(fresh)
    size = sum(file.stat().st_size for file in (out / "photo-prior").rglob("*") if file.is_file())
    console.print(f"wrote photo-prior: {size / 1e6:.2f} MB")
    return out / "photo-prior"


def measure(out: Path, photographs: list[Tensor], side: int = 0, bfloat16: bool = False) -> dict[str, Any]:
    """PSNR of noise removed in one call, for every noise of `NOISES`, and the restorations of `photo_prior_measure`.

    Args:
        out: folder that holds photo-prior.
        photographs: (3, H, W) uint8.
        side: of the square cut from the centre of each; 0 for whole photographs.
        bfloat16: the network in bfloat16.
    """
    from diffusers import DDPMPipeline

    from .photo_prior_measure import cut, measure_bars

    unet = DDPMPipeline.from_pretrained(out / "photo-prior").unet.eval()
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in unet.parameters())}
    for noise in NOISES:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = [denoising(unet, 2 * p[None] - 1, noise) for p in cut(photographs, side)]
        result[f"PSNR of noise {noise}"] = sum(found) / len(found)
    return result | measure_bars(out / "photo-prior", photographs, side, "bfloat16" if bfloat16 else "float32")


def run(
    photographs: Annotated[Path | None, typer.Option(help="Folder with the Kodak suite, 01.png to 24.png.")] = None,
    emoji: Annotated[Path | None, typer.Option(help="The npz file of emoji; without it photographs alone.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that receives photo-prior/.")] = Path("models"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; a run goes on from what it finds.")] = Path("work"),
    stage: Annotated[Stage, typer.Option(help="What to do.")] = Stage.all,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop training after this long.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of everything, to see that it runs.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    report: Annotated[Path | None, typer.Option(help="measure: the JSON file to write.")] = None,
    side: Annotated[int, typer.Option(help="measure: of the centre square of every photograph; 0: all of it.")] = 0,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="measure: the network in bfloat16.")] = False,
) -> None:
    """Train, export and measure the pixel prior."""
    for name, number in (("steps", steps), ("minutes", minutes), ("threads", threads)):
        if number is not None and number <= 0:
            raise ValueError(f"--{name} must be positive, got {number}.")
    if side and side < 16:
        raise ValueError(f"--side must be 0 or at least 16, got {side}.")
    if threads:
        torch.set_num_threads(threads)
    todo = [s for s in Stage if s is not Stage.all] if stage is Stage.all else [stage]
    if photographs is None and {Stage.prior, Stage.measure} & set(todo):
        raise ValueError(f"Stage {stage.value} needs --photographs, the folder of the Kodak suite.")
    work.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name is Stage.prior and photographs is not None:
            fit = SMOKE if smoke else FIT
            fit = replace(fit, steps=steps or fit.steps, minutes=minutes, compile=compiled)
            none = torch.zeros(0, 4, 32, 32, dtype=torch.uint8)
            windows = Windows.of(
                read_photographs(photographs, TRAINED), none if emoji is None else read_emoji(emoji), WINDOW
            )
            held_out = centre_windows(read_photographs(photographs, HELD_OUT), WINDOW, 1 if smoke else 8)
            train_prior(windows, held_out, fit, work, seed, torch.device(device))
        elif name is Stage.export:
            export(work, out)
        elif name is Stage.measure and photographs is not None:
            pictures = read_photographs(photographs, HELD_OUT)
            result = measure(out, pictures[:1] if smoke else pictures, 64 if smoke else side, bfloat16)
            file = report or work / "measure.json"
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            console.print_json(data=result)


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
