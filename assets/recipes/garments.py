"""Trains the small text-to-image model `garments` and its judge from Fashion-MNIST, on an ordinary processor.

    python -m fewstep.assets.recipes.garments --data fashion_mnist.npz --out assets/models

Stages, in order: `autoencoder` (32x32x3 pictures <-> 8x8x4 latents), `judge` (which garment, colour and background is
this?), `denoiser` (text encoder and U-Net, jointly, on cached latents), `export` (plain diffusers folders in float16),
`measure` (does the judge find what the caption asked for?) and `statistics` (of the judge's features of the training
pictures, into the folder `statistics` beside `--out`). Each training stage keeps a checkpoint in `--work` and
goes on from it; every step draws its batch from the seed and its own number, so a run that was interrupted ends where
an uninterrupted one does, up to rounding. Test images are only ever measured on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from fewstep.eval.judge import Judge, parameter_count

from .garments_data import (
    BACKGROUNDS,
    COLOURS,
    GARMENTS,
    canonical_caption,
    captions,
    colourise,
    load_fashion_mnist,
)
from .garments_statistics import write_statistics
from .training import Fit, average_of, console, read_checkpoint, train, write_checkpoint

MAX_TOKENS = 32


class Stage(StrEnum):
    autoencoder = "autoencoder"
    judge = "judge"
    denoiser = "denoiser"
    export = "export"
    measure = "measure"
    statistics = "statistics"
    all = "all"


FITS = {
    Stage.autoencoder: Fit(steps=2072, batch=64, rate=2e-3, hold=0.3),
    Stage.judge: Fit(steps=7104, batch=128, rate=2e-3, hold=0.1),
    Stage.denoiser: Fit(steps=2727, batch=128, rate=1e-3, hold=0.5),
}
SMOKE = {
    Stage.autoencoder: Fit(steps=3, batch=8, rate=1e-3, hold=0.3, warmup=1),
    Stage.judge: Fit(steps=3, batch=8, rate=1e-3, hold=0.3, warmup=1),
    Stage.denoiser: Fit(steps=3, batch=8, rate=1e-3, hold=0.3, warmup=1),
}
VIEWS = 4
"""Colourings of each garment that the denoiser sees."""


# ---------------------------------------------------------------------------------------------------------- networks


def new_autoencoder() -> Any:
    """AutoencoderKL, (B, 3, 32, 32) <-> (B, 4, 8, 8): thin at the full resolution, which costs the most."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


def new_text_encoder(vocabulary: dict[str, int]) -> Any:
    """CLIPTextModel, (B, 32) tokens -> (B, 32, 128)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def new_unet() -> Any:
    """UNet2DConditionModel on (B, 4, 8, 8) latents; the words are read at 4x4, where attention costs little."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 112),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_judge() -> Judge:
    """The judge with the questions of this data."""
    return Judge({"garment": GARMENTS, "colour": list(COLOURS), "background": list(BACKGROUNDS)})


def placed(model: Any, device: torch.device) -> Any:
    """A model on its device with its channels last, where convolutions are about a third faster on a processor."""
    return model.to(device=device, memory_format=torch.channels_last)


def scheduler_config() -> dict[str, Any]:
    """The forward process, in the words of any diffusers scheduler."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "steps_offset": 1,
    }


def alphas_cumprod() -> Tensor:
    """Squared share of the signal at each of the 1000 times of `scheduler_config`: (1000,) float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


# --------------------------------------------------------------------------------------------------------- tokenizer


def byte_symbols() -> list[str]:
    """The 256 printable characters by which byte-level BPE writes bytes, in the order of CLIP's vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(others))]


def byte_pair_encoding(words: Counter[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn merges until every word is one token, the most frequent pair first.

    Args:
        words: lower-case words with their frequency, ASCII only (as the captions are).

    Returns:
        The vocabulary (bytes, bytes that end a word, merges, the two marks) and the merges in order.
    """
    symbols = byte_symbols()
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((left, right))
        vocabulary.append(left + right)
        for parts in split.values():
            index = 0
            while index < len(parts) - 1:
                if parts[index] == left and parts[index + 1] == right:
                    parts[index : index + 2] = [left + right]
                index += 1
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}, merges


def new_tokenizer() -> Any:
    """CLIPTokenizer with a byte-level vocabulary learnt on all captions: their words are one token each, and any other
    text falls back to smaller pieces, down to bytes."""
    import re

    from transformers import CLIPTokenizer

    words: Counter[str] = Counter()
    for garment, colour, background in all_labels():
        for text, share in captions(garment, colour, background):
            for word in re.findall(r"[a-z]+|[^\sa-z]+", text.lower()):
                words[word] += round(1000 * share)
    vocabulary, merges = byte_pair_encoding(words)
    pairs: Any = merges  # declared as list[str], read as pairs
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_TOKENS)


def all_labels() -> Iterator[tuple[int, int, int]]:
    """Every (garment, colour, background), 500 in all."""
    for garment in range(len(GARMENTS)):
        for colour in range(len(COLOURS)):
            for background in range(len(BACKGROUNDS)):
                yield garment, colour, background


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids as StableDiffusionPipeline makes them: (B, 32) int64, padded and cut."""
    return tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


class CaptionTable:
    """The token ids of every caption, so that a training step only looks them up."""

    def __init__(self, tokenizer: Any, dropout: float = 0.1) -> None:
        self.dropout = dropout
        self.empty = tokenize(tokenizer, [""])[0]
        most = max(sum(1 for _ in captions(garment, 0, 0)) for garment in range(len(GARMENTS)))
        shape = (len(GARMENTS), len(COLOURS), len(BACKGROUNDS), most)
        self.ids = torch.zeros(*shape, MAX_TOKENS, dtype=torch.int64)
        self.shares = torch.zeros(len(GARMENTS), most)
        for garment, colour, background in all_labels():
            texts, shares = zip(*captions(garment, colour, background), strict=True)
            self.ids[garment, colour, background, : len(texts)] = tokenize(tokenizer, list(texts))
            self.shares[garment, : len(texts)] = torch.tensor(shares)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A random caption for each row of labels, or the empty one: (B, 3) int64 -> (B, 32) int64."""
        garment, colour, background = labels.unbind(1)
        phrasing = torch.multinomial(self.shares[garment], 1, generator=generator)[:, 0]
        ids = self.ids[garment, colour, background, phrasing]
        dropped = torch.rand(len(labels), generator=generator) < self.dropout
        return torch.where(dropped[:, None], self.empty, ids)


# ---------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Pictures:
    """Grey garments with labels; colours and backgrounds are drawn when a batch is."""

    grey: Tensor  # (N, 28, 28) uint8
    garment: Tensor  # (N,) int64

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch: pictures (B, 3, 32, 32) in [-1, 1], labels (B, 3) int64 (garment, colour, background)."""
        return self.take(torch.randint(len(self.grey), (size,), generator=generator), generator)

    def take(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The pictures at `index`, each in a random colour on a random background, half of them mirrored."""
        colour = torch.randint(len(COLOURS), (len(index),), generator=generator)
        background = torch.randint(len(BACKGROUNDS), (len(index),), generator=generator)
        pictures = colourise(self.grey[index], colour, background, generator, flip=0.5)
        return pictures, torch.stack([self.garment[index], colour, background], 1)


def train_autoencoder(data: Pictures, fit: Fit, work: Path, seed: int, device: torch.device) -> Any:
    torch.manual_seed(seed)
    model = placed(new_autoencoder(), device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        pictures = data.batch(fit.batch, generator)[0].to(device).contiguous(memory_format=torch.channels_last)
        posterior = model.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        drawn = model.decode(posterior.mean + posterior.std * noise).sample
        error = drawn - pictures
        # The differences of neighbouring pixels keep edges and seams, which the mean error alone would blur.
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return error.abs().mean() + 2 * error.square().mean() + 0.25 * edges + 5e-4 * posterior.kl().mean() / 256

    return train(Stage.autoencoder, model, loss, fit, work, seed)


def train_judge(data: Pictures, fit: Fit, work: Path, seed: int, device: torch.device) -> Judge:
    torch.manual_seed(seed + 1)
    model = placed(new_judge(), device)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        pictures, labels = data.batch(fit.batch, generator)
        pictures = augment(pictures, generator).to(device).contiguous(memory_format=torch.channels_last)
        logits = model(pictures).values()
        return torch.stack([F.cross_entropy(a, b) for a, b in zip(logits, labels.to(device).T, strict=True)]).sum()

    return train(Stage.judge, model, loss, fit, work, seed + 1)


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift a batch by up to two pixels, blur half of it slightly and add a little noise: (B, 3, H, W) -> same."""
    down, right = torch.randint(-2, 3, (2,), generator=generator).tolist()
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (2, 2, 2, 2), mode="replicate")
    pictures = padded[:, :, 2 + down : 2 + down + height, 2 + right : 2 + right + width]
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    strength = (torch.rand(len(pictures), 1, 1, 1, generator=generator) * 1.2 - 0.6).clamp_min(0)
    noise = torch.randn(pictures.shape, generator=generator)
    scale = 0.04 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return torch.lerp(pictures, soft, strength) + scale * noise


def encode_views(autoencoder: Any, data: Pictures, views: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Encode several colourings of every garment, as float16 means of the posterior.

    Returns:
        `latents` (N views, 4, 8, 8) scaled to standard deviation one, `labels` (N views, 3) uint8, `scale` ().
    """
    latents, labels = [], []
    with torch.inference_mode(), Progress(console=console) as progress:
        task = progress.add_task("encoding", total=views * len(data.grey))
        for view in range(views):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + view)
            for index in torch.arange(len(data.grey)).split(256):
                pictures, label = data.take(index, generator)
                mean = autoencoder.encode(pictures.to(device).contiguous(memory_format=torch.channels_last))
                latents.append(mean.latent_dist.mean.half().cpu().contiguous())
                labels.append(label.to(torch.uint8))
                progress.advance(task, len(index))
    stacked = torch.cat(latents)
    scale = 1 / stacked.float().std()
    return {"latents": (stacked.float() * scale).half(), "labels": torch.cat(labels), "scale": scale}


def train_denoiser(
    autoencoder: Any, data: Pictures, fit: Fit, work: Path, seed: int, device: torch.device, views: int
) -> nn.Module:
    """Train text encoder and U-Net together; returns their average as a ModuleDict."""
    cache = work / "latents.pt"
    if not cache.is_file():
        write_checkpoint(cache, encode_views(autoencoder, data, views, seed, device))
    content = read_checkpoint(cache, Stage.denoiser)
    latents, labels = content["latents"], content["labels"]
    tokenizer = new_tokenizer()
    table = CaptionTable(tokenizer)
    torch.manual_seed(seed + 2)
    unet = placed(new_unet(), device)
    model = nn.ModuleDict({"text_encoder": new_text_encoder(tokenizer.get_vocab()).to(device), "unet": unet})
    signal = alphas_cumprod()
    snr = signal / (1 - signal)
    # min-SNR-5 (Hang et al., 2023, arXiv:2303.09556): nearly clean latents teach little, they only add variance.
    weight = snr.clamp(max=5) / snr
    weight = weight / weight.mean()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(latents), (fit.batch,), generator=generator)
        # Times one stratum each: every batch covers the whole path.
        time_share = (torch.arange(fit.batch) + torch.rand(fit.batch, generator=generator)) / fit.batch
        timestep = (time_share * 1000).long().clamp(max=999)
        noise = torch.randn(fit.batch, *latents.shape[1:], generator=generator)
        alpha = signal[timestep, None, None, None].sqrt()
        sigma = (1 - signal[timestep, None, None, None]).sqrt()
        noisy = (alpha * latents[index].float() + sigma * noise).to(device)
        ids = table.draw(labels[index].long(), generator).to(device)
        words = model["text_encoder"](ids).last_hidden_state
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        predicted = unet(noisy, timestep.to(device), words).sample
        error = (predicted.float() - noise.to(device)).square().mean((1, 2, 3))
        return (weight[timestep].to(device) * error).mean()

    return train(Stage.denoiser, model, loss, fit, work, seed + 2)


# ------------------------------------------------------------------------------------------------------------- export


def export(work: Path, out: Path) -> None:
    """Write `out/garments` (a StableDiffusionPipeline) and `out/garments-judge`, both float16, leaving the cards."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = new_tokenizer()
    autoencoder: Any = average_of(new_autoencoder(), Stage.autoencoder, work)
    scale = read_checkpoint(work / "latents.pt", Stage.denoiser)["scale"]
    autoencoder.register_to_config(scaling_factor=round(float(scale), 6))
    networks = nn.ModuleDict({"text_encoder": new_text_encoder(tokenizer.get_vocab()), "unet": new_unet()})
    networks = average_of(networks, Stage.denoiser, work)
    # DDIM's configuration is the one that any other scheduler can be made from: it says clip_sample, which some
    # classes would otherwise set to true, and latents are not confined to [-1, 1].
    scheduler = DDIMScheduler(**scheduler_config(), clip_sample=False, timestep_spacing="trailing")
    pipeline: Any = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=networks["text_encoder"],
        tokenizer=tokenizer,
        unet=networks["unet"],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    fresh = work / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh / "garments", safe_serialization=True)
    # The two files of the older CLIP format as well, for readers that do not know tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(fresh / "garments" / "tokenizer"))
    for file in fresh.rglob("*.json"):
        _clean_json(file)
    judge = average_of(new_judge(), Stage.judge, work)
    judge.save_pretrained(fresh / "garments-judge")
    for file in sorted(fresh.rglob("*")):
        if file.is_file():
            target = out / file.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    shutil.rmtree(fresh)
    for name in ("garments", "garments-judge"):
        size = sum(file.stat().st_size for file in (out / name).rglob("*") if file.is_file())
        console.print(f"wrote {name}: {size / 1e6:.2f} MB")


def _clean_json(file: Path) -> None:
    """Drop what says where a file was made, and let the text encoder load in float32 as the other networks do."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    if file.parent.name == "text_encoder" and "dtype" in content:
        content["dtype"] = "float32"
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ measure


@torch.inference_mode()
def measure_judge(judge: Judge, data: Pictures) -> dict[str, float]:
    """Share of right answers to each question on pictures the judge has not seen."""
    pictures, labels = data.take(torch.arange(len(data.grey)), torch.Generator().manual_seed(1234))
    answers = judge.answers(pictures)
    return {q: float((answers[q] == labels[:, i]).double().mean()) for i, q in enumerate(judge.labels)}


@torch.inference_mode()
def measure_autoencoder(autoencoder: Any, judge: Judge, data: Pictures) -> dict[str, float]:
    """Mean PSNR in dB (peak 2) of encode-decode, and how much of the judge's opinion survives it."""
    pictures, labels = data.take(torch.arange(len(data.grey)), torch.Generator().manual_seed(1234))
    drawn = torch.cat(
        [autoencoder.decode(autoencoder.encode(x).latent_dist.mean).sample.clamp(-1, 1) for x in pictures.split(256)]
    )
    psnr = 10 * torch.log10(4 / (drawn - pictures).square().mean((1, 2, 3)))
    answers = judge.answers(drawn)
    kept = {f"{q} after": float((answers[q] == labels[:, i]).double().mean()) for i, q in enumerate(judge.labels)}
    return {"psnr": float(psnr.mean()), **kept}


def prompts(count: int) -> tuple[list[str], Tensor]:
    """Canonical captions that go round all garments, colours and backgrounds, and their labels (count, 3)."""
    index = torch.arange(count)
    garment, colour = index % len(GARMENTS), index // len(GARMENTS) % len(COLOURS)
    background = (index // 100 + garment + colour) % len(BACKGROUNDS)
    labels = torch.stack([garment, colour, background], 1)
    return [canonical_caption(*row) for row in labels.tolist()], labels


def draw(pipeline: Any, texts: list[str], steps: int, guidance: float, seed: int, batch: int = 50) -> Tensor:
    """Pictures of the texts, (B, 3, 32, 32) in [-1, 1]; each has a seed of its own, so batches do not matter."""
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    with Progress(console=console) as progress:
        task = progress.add_task("drawing", total=len(texts))
        for start in range(0, len(texts), batch):
            chunk = texts[start : start + batch]
            generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(chunk))]
            images = pipeline(
                chunk, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
            ).images
            drawn.append(images.float().cpu() * 2 - 1)
            progress.advance(task, len(chunk))
    return torch.cat(drawn)


def measure_pictures(judge: Judge, pictures: Tensor, labels: Tensor) -> dict[str, Any]:
    """How often the judge finds what was asked for: overall, per garment and per colour; and what it finds instead."""
    answers = judge.answers(pictures)
    right = {q: (answers[q] == labels[:, i]).double() for i, q in enumerate(judge.labels)}
    result: dict[str, Any] = {q: float(r.mean()) for q, r in right.items()}
    result["garment of each"] = {
        name: float(right["garment"][labels[:, 0] == i].mean())
        for i, name in enumerate(GARMENTS)
        if bool((labels[:, 0] == i).any())
    }
    result["colour of each"] = {
        name: float(right["colour"][labels[:, 1] == i].mean())
        for i, name in enumerate(COLOURS)
        if bool((labels[:, 1] == i).any())
    }
    wrong = (right["garment"] == 0).nonzero()[:, 0].tolist()
    pairs = Counter(f"{GARMENTS[int(labels[i, 0])]} -> {GARMENTS[int(answers['garment'][i])]}" for i in wrong)
    result["garments taken for another"] = dict(pairs.most_common())
    return result


def load_pipeline(folder: Path, scheduler: str, sampler: str | None) -> Any:
    """The exported pipeline in float32, with a diffusers scheduler or with one of fewstep's samplers."""
    if sampler is not None:
        # Looked up only when asked for: training and measuring need nothing of fewstep but the judge.
        from importlib import import_module

        return import_module("fewstep.pipelines").load(folder, sampler=sampler)
    import diffusers

    kind = getattr(diffusers, scheduler, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"{scheduler} is no scheduler class of diffusers; try DPMSolverMultistepScheduler.")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    return pipeline


def write_sheet(pictures: Tensor, columns: int, file: Path, scale: int = 4) -> None:
    """Save pictures (B, 3, H, W) in [-1, 1] as one PNG, enlarged without smoothing."""
    from PIL import Image

    grid = F.pad((pictures.clamp(-1, 1) + 1) * 127.5, (1, 1, 1, 1), value=128).round().byte()
    grid = torch.cat([grid, grid.new_full((-len(grid) % columns, *grid.shape[1:]), 128)])
    _, channels, height, width = grid.shape
    grid = grid.view(-1, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    image = Image.fromarray(grid.reshape(-1, columns * width, channels).numpy())
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file)


# ------------------------------------------------------------------------------------------------------- command line


def run(
    data: Annotated[
        Path | None, typer.Option(help="Fashion-MNIST: the .npz file, or a folder with the four idx(.gz) files.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder that receives garments/ and garments-judge/.")] = Path("models"),
    work: Annotated[Path, typer.Option(help="Folder of checkpoints; a run goes on from what it finds.")] = Path("work"),
    stage: Annotated[Stage, typer.Option(help="What to do.")] = Stage.all,
    device: Annotated[str, typer.Option(help="Where to train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of the stage, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop a training stage after this long.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of everything, to see that it runs.")] = False,
    scheduler: Annotated[str, typer.Option(help="measure: a diffusers scheduler.")] = "DPMSolverMultistepScheduler",
    sampler: Annotated[str | None, typer.Option(help="measure: a fewstep sampler instead.")] = None,
    inference_steps: Annotated[int, typer.Option(help="measure: steps of a picture.")] = 20,
    guidance: Annotated[float, typer.Option(help="measure: guidance scale.")] = 3.0,
    count: Annotated[int, typer.Option(help="measure: number of pictures.")] = 1000,
    report: Annotated[Path | None, typer.Option(help="measure: the JSON file to write.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="measure: a PNG of the first 100 pictures.")] = None,
) -> None:
    """Train, export and measure the garments model and its judge."""
    if smoke:
        inference_steps, count = 2, 10
    if threads:
        torch.set_num_threads(threads)
    for name, number in (
        ("steps", steps),
        ("minutes", minutes),
        ("count", count),
        ("inference-steps", inference_steps),
    ):
        if number is not None and number <= 0:
            raise ValueError(f"--{name} must be positive, got {number}.")
    trained = {Stage.autoencoder, Stage.judge, Stage.denoiser}
    todo = [s for s in Stage if s is not Stage.all] if stage is Stage.all else [stage]
    if data is None and {*trained, Stage.statistics} & set(todo):
        raise ValueError(f"Stage {stage.value} needs --data, the Fashion-MNIST file or folder.")
    place = torch.device(device)
    train_set, test_set = _pictures(data, smoke) if data else (None, None)
    work.mkdir(parents=True, exist_ok=True)
    for name in todo:
        if name in trained and train_set is not None:
            fit = (SMOKE if smoke else FITS)[name]
            fit = replace(fit, steps=steps or fit.steps, minutes=minutes)
            if name is Stage.autoencoder:
                train_autoencoder(train_set, fit, work, seed, place)
            elif name is Stage.judge:
                train_judge(train_set, fit, work, seed, place)
            else:
                autoencoder = placed(average_of(new_autoencoder(), Stage.autoencoder, work), place)
                train_denoiser(autoencoder, train_set, fit, work, seed, place, 1 if smoke else VIEWS)
        elif name is Stage.export:
            export(work, out)
        elif name is Stage.measure:
            result = measure(out, test_set, scheduler, sampler, inference_steps, guidance, count, seed, sheet)
            file = report or work / "measure.json"
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            console.print_json(data=result)
        elif name is Stage.statistics and train_set is not None and test_set is not None:
            file = out.absolute().parent / "statistics" / "garments.npz"
            console.print_json(data=write_statistics(train_set, test_set, out, file))


def _pictures(data: Path, smoke: bool) -> tuple[Pictures, Pictures]:
    arrays = load_fashion_mnist(data)
    most = 64 if smoke else None
    train_set, test_set = (
        Pictures(torch.from_numpy(arrays[f"x_{s}"][:most]), torch.from_numpy(arrays[f"y_{s}"][:most]))
        for s in ("train", "test")
    )
    return train_set, test_set


def measure(
    out: Path,
    test_set: Pictures | None,
    scheduler: str,
    sampler: str | None,
    steps: int,
    guidance: float,
    count: int,
    seed: int,
    sheet: Path | None,
) -> dict[str, Any]:
    """Measure the exported folders; what needs test images is left out without them."""
    import diffusers
    import transformers

    judge = Judge.from_pretrained(out / "garments-judge")
    pipeline = load_pipeline(out / "garments", scheduler, sampler)
    result: dict[str, Any] = {
        "sampler": sampler or scheduler,
        "steps": steps,
        "guidance": guidance,
        "pictures": count,
        "seed": seed,
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "parameters": {
            "vae": parameter_count(pipeline.vae),
            "text_encoder": parameter_count(pipeline.text_encoder),
            "unet": parameter_count(pipeline.unet),
            "judge": parameter_count(judge),
        },
    }
    if test_set is not None:
        result["judge on test images"] = measure_judge(judge, test_set)
        result["autoencoder on test images"] = measure_autoencoder(pipeline.vae, judge, test_set)
    texts, labels = prompts(count)
    began = time.perf_counter()
    pictures = draw(pipeline, texts, steps, guidance, seed)
    result["pictures per second"] = count / (time.perf_counter() - began)
    result["asked for and found"] = measure_pictures(judge, pictures, labels)
    if sheet is not None:
        write_sheet(pictures[:100], 10, sheet)
    return result


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
