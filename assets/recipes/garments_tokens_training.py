"""Training stages of `garments-tokens`: the tokens of pictures, and the transformer that fills in masked ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from .garments import CaptionTable, Pictures, new_tokenizer, placed
from .garments_tokens_networks import (
    CODES,
    MICRO_CONDITIONS,
    SIDE,
    WORDS,
    new_text_encoder,
    new_transformer,
    new_vqvae,
    start_from_autoencoder,
)
from .training import Fit, console, read_checkpoint, train, write_checkpoint

# ----------------------------------------------------------------------------------------------------------- tokenizer


def kmeans(points: Tensor, count: int, generator: torch.Generator, rounds: int = 12) -> Tensor:
    """Centres of clusters by Lloyd's algorithm, from random points; an empty cluster starts again at one.

    Args:
        points: (N, D), at least one.
        count: clusters.
        generator: draws the starting points.
        rounds: of assigning and averaging.

    Returns:
        (count, D).
    """

    def some(number: int) -> Tensor:
        return points[torch.randint(len(points), (number,), generator=generator)]

    centres = some(count).clone()
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(chunk, centres).argmin(1) for chunk in points.split(8192)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], some(count))
    return centres


@torch.no_grad()
def start_codebook(vqvae: Any, pictures: Tensor, generator: torch.Generator) -> None:
    """Fill the codebook with k-means of the encoder's output on `pictures`, (N, 3, 32, 32) in [0, 1]."""
    latents = torch.cat([vqvae.encode(chunk).latents for chunk in pictures.split(128)])
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    vqvae.quantize.embedding.weight.copy_(kmeans(vectors, CODES, generator))


class Usage:
    """Counts how often each code is used, and moves those that nothing uses onto what the encoder makes.

    The counts are a buffer of the codebook, so that they travel with the checkpoint.
    """

    def __init__(self, vqvae: Any, every: int = 50) -> None:
        self.codebook = vqvae.quantize
        self.every = every
        self.codebook.register_buffer("usage", torch.zeros(CODES))

    @torch.no_grad()
    def update(self, step: int, codes: Tensor, vectors: Tensor, generator: torch.Generator) -> int:
        """Count `codes` (N,); every so many steps restart the unused ones at random rows of `vectors` (N, D).

        Returns:
            How many were restarted.
        """
        self.codebook.usage += torch.bincount(codes, minlength=CODES)
        if (step + 1) % self.every:
            return 0
        dead = (self.codebook.usage == 0).nonzero()[:, 0]
        chosen = torch.randint(len(vectors), (len(dead),), generator=generator).to(vectors.device)
        self.codebook.embedding.weight[dead] = vectors[chosen]
        self.codebook.usage.zero_()
        return len(dead)


def picture_loss(drawn: Tensor, pictures: Tensor) -> Tensor:
    """Mean absolute and squared error, and the error of the differences of neighbouring pixels, which keeps edges."""
    error = 2 * (drawn - pictures)
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.25 * edges


def train_tokenizer(data: Pictures, fit: Fit, work: Path, start: Path, seed: int, device: torch.device) -> Any:
    """Train the VQModel from the autoencoder in `start` and k-means of its latents."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_vqvae()
    if not (work / "tokenizer.pt").is_file():
        start_from_autoencoder(model, start)
        start_codebook(model, (data.batch(min(2048, 32 * fit.batch), generator)[0] + 1) / 2, generator)
    model = placed(model, device)
    usage = Usage(model)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        pictures = (data.batch(fit.batch, generator)[0].to(device) + 1) / 2
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        latents = model.encode(pictures).latents.float()
        quantised, distance, (_, _, codes) = model.quantize(latents)
        usage.update(step, codes, latents.permute(0, 2, 3, 1).flatten(0, 2), generator)
        drawn = model.decoder(model.post_quant_conv(quantised))
        return picture_loss(drawn.float(), pictures) + 0.25 * distance

    return train("tokenizer", model, loss, fit, work, seed)


@torch.no_grad()
def tokens_of(vqvae: Any, pictures: Tensor) -> Tensor:
    """Tokens of pictures: (B, 3, 32, 32) in [-1, 1] -> (B, 64) int64."""
    latents = vqvae.encode((pictures + 1) / 2).latents
    return vqvae.quantize(latents)[2][2].reshape(len(pictures), -1)


def tokenise(vqvae: Any, data: Pictures, views: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Tokens of several colourings of every garment.

    Returns:
        `tokens` (N views, 64) int16 and `labels` (N views, 3) uint8.
    """
    tokens, labels = [], []
    with Progress(console=console) as progress:
        task = progress.add_task("tokens", total=views * len(data.grey))
        for view in range(views):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + 500_000 + view)
            for index in torch.arange(len(data.grey)).split(256):
                pictures, label = data.take(index, generator)
                pictures = pictures.to(device).contiguous(memory_format=torch.channels_last)
                tokens.append(tokens_of(vqvae, pictures).to("cpu", torch.int16))
                labels.append(label.to(torch.uint8))
                progress.advance(task, len(index))
    return {"tokens": torch.cat(tokens), "labels": torch.cat(labels)}


# ------------------------------------------------------------------------------------------------------------ denoiser


def new_networks(vocabulary: dict[str, int]) -> nn.ModuleDict:
    """Text encoder and transformer, which are trained together."""
    return nn.ModuleDict({"text_encoder": new_text_encoder(vocabulary), "transformer": new_transformer()})


def masked(tokens: Tensor, time: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask each token on its own with probability sin(pi t / 2), the cosine schedule at noise time t.

    A sampler that walks t evenly from 1 to 0, as AmusedScheduler does, meets these ratios equally often.

    Args:
        tokens: (B, L) int64.
        time: (B,) in [0, 1].
        generator: of the masks.

    Returns:
        The tokens with `CODES` where they are masked, and where that is, (B, L) bool.
    """
    ratio = torch.sin(math.pi / 2 * time)[:, None]
    hidden = torch.rand(tokens.shape, generator=generator) < ratio
    return tokens.masked_fill(hidden, CODES), hidden


def logits_of(networks: nn.ModuleDict, tokens: Tensor, words: Tensor) -> Tensor:
    """What the transformer says, conditioned as AmusedPipeline does it.

    Args:
        networks: text encoder and transformer.
        tokens: (B, 64) int64, some of them `CODES`.
        words: (B, W) int64, ids of the caption.

    Returns:
        (B, 64, 512), logits of the clean tokens.
    """
    text = networks["text_encoder"](words, output_hidden_states=True)
    micro = torch.tensor(MICRO_CONDITIONS, device=tokens.device).expand(len(tokens), -1)
    logits = networks["transformer"](
        tokens.unflatten(1, (SIDE, SIDE)),
        encoder_hidden_states=text.hidden_states[-2],
        pooled_text_emb=text.text_embeds,
        micro_conds=micro,
    )
    return logits.flatten(2).transpose(1, 2)


def masked_loss(networks: nn.ModuleDict, tokens: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy in nats of the masked tokens, (B, 64) with captions (B, W); times one stratum each."""
    time = (torch.arange(len(tokens)) + torch.rand(len(tokens), generator=generator)) / len(tokens)
    seen, hidden = masked(tokens, time, generator)
    device = next(networks.parameters()).device
    logits = logits_of(networks, seen.to(device), words.to(device))
    hidden = hidden.to(device)
    return F.cross_entropy(logits[hidden].float(), tokens.to(device)[hidden])


def train_denoiser(
    vqvae: Any, data: Pictures, held_out: Pictures, fit: Fit, work: Path, seed: int, device: torch.device, views: int
) -> nn.Module:
    """Train text encoder and transformer together on cached tokens; returns their average as a ModuleDict."""
    from diffusers.models.attention_processor import AttnProcessor

    cache = work / "tokens.pt"
    if not cache.is_file():
        write_checkpoint(cache, tokenise(vqvae, data, views, seed, device))
    content = read_checkpoint(cache, "denoiser")
    tokens, labels = content["tokens"], content["labels"]
    tokenizer = new_tokenizer()
    table = CaptionTable(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    pictures, truth = held_out.take(torch.arange(min(512, len(held_out.grey))), generator)
    unseen, unseen_words = tokens_of(vqvae, pictures.to(device)).cpu(), table.draw(truth, generator)[:, :WORDS]
    torch.manual_seed(seed + 1)
    networks = new_networks(tokenizer.get_vocab()).to(device)
    # Attention in plain matrix products: on a processor the fused kernels are slower backwards for so few tokens.
    transformer: Any = networks["transformer"]
    transformer.set_attn_processor(AttnProcessor())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(tokens), (fit.batch,), generator=generator)
        words = table.draw(labels[index].long(), generator)[:, :WORDS]
        return masked_loss(networks, tokens[index].long(), words, generator)

    def watch(average: nn.ModuleDict) -> dict[str, float]:
        return {"held-out loss": float(masked_loss(average, unseen, unseen_words, torch.Generator().manual_seed(7)))}

    return train("denoiser", networks, loss, fit, work, seed + 1, watch=watch)
