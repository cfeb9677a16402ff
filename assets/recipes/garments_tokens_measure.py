"""What `garments-tokens` is worth: pictures through its tokens, and pictures drawn by several samplers, judged."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from fewstep.eval.judge import Judge, parameter_count

from .garments import Pictures, measure_judge, measure_pictures, prompts
from .garments_tokens_training import tokens_of
from .training import console

BATCH = 50


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn: a scheduler class of diffusers or fewstep, network calls a picture, guidance scale."""

    scheduler: str
    calls: int
    guidance: float


def settings(calls: tuple[int, ...], guidance: float) -> list[Setting]:
    """The schedulers that the card compares, at equal network calls; odd numbers leave out the one with two a step."""
    orders = {"AmusedScheduler": 1, "DiscreteAdamsBashforthScheduler": 1, "DiscreteThetaScheduler": 2}
    return [Setting(name, n, guidance) for n in calls for name, order in orders.items() if n % order == 0]


def load_pipeline(folder: Path, scheduler: str = "AmusedScheduler") -> Any:
    """The exported pipeline in float32, with a scheduler that takes the mask token and schedule of its own one."""
    import diffusers

    import fewstep.samplers

    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"There is no model_index.json in {folder}; run --stage export first.")
    kind = getattr(fewstep.samplers, scheduler, None) or getattr(diffusers, scheduler, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(
            f"{scheduler} is no scheduler class of diffusers or fewstep; try AmusedScheduler or DiscreteThetaScheduler."
        )
    pipeline: Any = diffusers.AmusedPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, texts: list[str], calls: int, guidance: float, seed: int) -> Tensor:
    """Pictures of the texts, (B, 3, 32, 32) in [-1, 1], in batches of 50 with a seed each.

    AmusedScheduler takes one generator for a whole batch, so the batch is part of what a seed means.
    """
    order = pipeline.scheduler.order
    if calls % order:
        raise ValueError(f"{type(pipeline.scheduler).__name__} makes {order} calls a step; {calls} is no multiple.")
    drawn = []
    with Progress(console=console) as progress:
        task = progress.add_task("drawing", total=len(texts))
        for start in range(0, len(texts), BATCH):
            images = pipeline(
                texts[start : start + BATCH],
                num_inference_steps=calls // order,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed * 1_000_003 + start),
                output_type="pt",
            ).images
            drawn.append(images.float().cpu() * 2 - 1)
            progress.advance(task, len(images))
    return torch.cat(drawn)


@torch.inference_mode()
def measure_tokens(vqvae: Any, judge: Judge, data: Pictures) -> dict[str, float]:
    """Mean PSNR in dB (peak 2) of pictures through their tokens, how much of the judge's opinion survives, and how
    many codes are used, in bits a token and as a share."""
    pictures, labels = data.take(torch.arange(len(data.grey)), torch.Generator().manual_seed(1234))
    tokens = torch.cat([tokens_of(vqvae, chunk) for chunk in pictures.split(256)])
    shape = (vqvae.config.sample_size // 4,) * 2
    drawn = torch.cat(
        [
            vqvae.decode(
                chunk.unflatten(1, shape),
                force_not_quantize=True,
                shape=(len(chunk), *shape, vqvae.config.latent_channels),
            ).sample.clamp(0, 1)
            for chunk in tokens.split(256)
        ]
    )
    drawn = 2 * drawn - 1
    psnr = 10 * torch.log10(4 / (drawn - pictures).square().mean((1, 2, 3)))
    answers = judge.answers(drawn)
    kept = {f"{q} after": float((answers[q] == labels[:, i]).double().mean()) for i, q in enumerate(judge.labels)}
    share = torch.bincount(tokens.flatten(), minlength=vqvae.config.num_vq_embeddings).double() / tokens.numel()
    entropy = -torch.special.xlogy(share, share).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))
    used = float((share > 0).double().mean())
    return {"psnr": float(psnr.mean()), **kept, "codes used": used, "bits a token": float(entropy)}


def measure_setting(
    folder: Path, judge: Judge, setting: Setting, count: int, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """Draw canonical captions as `setting` says and ask the judge; the numbers, and the pictures."""
    pipeline = load_pipeline(folder, setting.scheduler)
    texts, labels = prompts(count)
    began = time.perf_counter()
    pictures = draw(pipeline, texts, setting.calls, setting.guidance, seed)
    seconds = time.perf_counter() - began
    found = measure_pictures(judge, pictures, labels)
    return {
        **asdict(setting),
        "pictures": count,
        "seed": seed,
        "pictures per second": count / seconds,
        **found,
    }, pictures


def measure_parts(folder: Path, judge: Judge, test_set: Pictures | None) -> dict[str, Any]:
    """Versions, sizes and, with test images, what the tokens keep of them."""
    import diffusers
    import transformers

    pipeline = load_pipeline(folder)
    result: dict[str, Any] = {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": {
            name: parameter_count(getattr(pipeline, name)) for name in ("vqvae", "text_encoder", "transformer")
        },
        "megabytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
    }
    if test_set is not None:
        result["judge on test images"] = measure_judge(judge, test_set)
        result["tokens of test images"] = measure_tokens(pipeline.vqvae, judge, test_set)
    return result
