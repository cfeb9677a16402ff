"""Training of `garments-flow`: flow matching on cached latents, then guidance distilled into one call.

Flow matching (Lipman et al., 2023, arXiv:2210.02747; Liu et al., 2023, arXiv:2209.03003):

    x_sigma = (1 - sigma) x0 + sigma eps,      |v(x_sigma, sigma, c) - (eps - x0)|^2

Guidance distillation (Meng et al., 2023, arXiv:2210.03142) teaches a copy that also reads the scale w:

    |v(x_sigma, sigma, c, w) - (v_empty + w (v_c - v_empty))|^2,      w in [1, 5]
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .garments import Pictures, all_labels, encode_views, placed
from .garments_data import GARMENTS, captions
from .garments_flow_networks import WORDS, keep_times_exact, new_networks, silence_unused, velocity, with_guidance
from .training import Fit, average_of, read_checkpoint, train, write_checkpoint

Loss = Callable[[int, torch.Generator], Tensor]
LENGTHS = {16: 0.85, 32: 0.1, 128: 0.05}
"""Lengths to which a step pads its words, with their shares: a model that has seen much padding overlooks it, so that
FluxPipeline's own `max_sequence_length` of 512 does little harm."""
MOST_GUIDANCE = 5.0
PLAIN_SHARE = 0.25
"""Share of a distillation batch at w = 1, where the copy must stay the model it came from."""


def cache_latents(autoencoder: Any, data: Pictures, file: Path, seed: int, views: int) -> None:
    """Encode several colourings of every garment and pack them 2x2 as FluxPipeline does.

    Writes `tokens` (N views, 16, 16) float16 with mean 0 and standard deviation 1, `labels` (N views, 3) uint8 and
    the autoencoder's `shift` and `scale`, both ().
    """
    device = next(autoencoder.parameters()).device
    content = encode_views(placed(autoencoder, device), data, views, seed, device)
    write_checkpoint(file, packed(content["latents"].float() / content["scale"], content["labels"]))


def packed(latents: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Latents (N, 4, 8, 8) as the autoencoder gives them -> the content of the cache."""
    from diffusers import FluxPipeline

    shift, scale = latents.mean(), 1 / latents.std()
    tokens = FluxPipeline._pack_latents((latents - shift) * scale, *latents.shape)
    return {"tokens": tokens.half(), "labels": labels, "shift": shift, "scale": scale}


class PhraseTable:
    """The token ids of every caption for both tokenizers, so that a training step only looks them up."""

    def __init__(self, clip: Any, t5: Any, dropout: float = 0.1) -> None:
        self.dropout = dropout
        texts = [""]
        index = {"": 0}
        most = max(sum(1 for _ in captions(garment, 0, 0)) for garment in range(len(GARMENTS)))
        self.shares = torch.zeros(len(GARMENTS), most)
        self.phrases = torch.zeros(len(GARMENTS), 10, 10, most, dtype=torch.int64)
        for garment, colour, background in all_labels():
            for position, (text, share) in enumerate(captions(garment, colour, background)):
                if text not in index:
                    index[text] = len(texts)
                    texts.append(text)
                self.phrases[garment, colour, background, position] = index[text]
                self.shares[garment, position] = share
        # What follows the end mark does not reach CLIP's pooled vector, whose attention looks back only.
        self.clip = clip(texts, padding="max_length", max_length=WORDS, truncation=True, return_tensors="pt").input_ids
        self.t5 = t5(texts, padding="max_length", max_length=WORDS, return_tensors="pt").input_ids
        if self.t5.shape[1] != WORDS:
            raise ValueError(f"A caption has {self.t5.shape[1]} tokens; WORDS is {WORDS}.")

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A random caption for each row of labels, or the empty one: (B, 3) int64 -> (B,) int64, rows of the tables."""
        garment, colour, background = labels.unbind(1)
        position = torch.multinomial(self.shares[garment], 1, generator=generator)[:, 0]
        phrase = self.phrases[garment, colour, background, position]
        dropped = torch.rand(len(labels), generator=generator) < self.dropout
        return torch.where(dropped, 0, phrase)

    def encode(self, networks: nn.ModuleDict, phrases: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Captions -> words (B, length, 128) padded as T5 pads, and pooled vectors (B, 128)."""
        device = next(networks.parameters()).device
        ids = nn.functional.pad(self.t5[phrases], (0, length - WORDS))
        words = networks["text_encoder_2"](input_ids=ids.to(device))[0]
        pooled = networks["text_encoder"](input_ids=self.clip[phrases].to(device)).pooler_output
        return words, pooled


def noise_levels(count: int, generator: torch.Generator, uniform: float = 0.3) -> Tensor:
    """Noise levels of a batch: (B,) in (0, 1), one stratum each.

    Most follow the logit-normal law (Esser et al., 2024, arXiv:2403.03206), which spends the effort where velocities
    are hard to guess; a share is uniform, since inversion asks for velocities at the very ends.
    """
    share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    middle = torch.special.ndtri(share.double().clamp(1e-6, 1 - 1e-6)).sigmoid().float()
    even = torch.rand(count, generator=generator) < uniform
    return torch.where(even, share, middle)


def pad_length(generator: torch.Generator) -> int:
    """A length of the padded words, by the shares of `LENGTHS`."""
    choice = torch.multinomial(torch.tensor(list(LENGTHS.values())), 1, generator=generator)
    return list(LENGTHS)[int(choice)]


class Batches:
    """Random batches of packed latents, noise levels, noise and captions."""

    def __init__(self, cache: dict[str, Tensor], table: PhraseTable, batch: int) -> None:
        self.tokens, self.labels = cache["tokens"], cache["labels"]
        self.table = table
        self.batch = batch

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """x_sigma (B, 16, 16), sigma (B,), eps - x0 (B, 16, 16), captions (B,), length of the padded words.

        A batch with longer words has fewer pictures, so that every step costs about the same.
        """
        length = pad_length(generator)
        count = max(2, self.batch * 2 * WORDS // (WORDS + length))
        index = torch.randint(len(self.tokens), (count,), generator=generator)
        x0 = self.tokens[index].float()
        sigma = noise_levels(count, generator)
        noise = torch.randn(x0.shape, generator=generator)
        level = sigma[:, None, None]
        phrases = self.table.draw(self.labels[index].long(), generator)
        return (1 - level) * x0 + level * noise, sigma, noise - x0, phrases, length


def read_cache(work: Path) -> dict[str, Tensor]:
    return read_checkpoint(work / "latents.pt", "latents")


def train_denoiser(fit: Fit, work: Path, seed: int, device: torch.device, watch: Any = None) -> nn.ModuleDict:
    """Train both text encoders and the transformer together; returns their average."""
    networks, clip, t5 = new_networks(seed)
    table = PhraseTable(clip, t5)
    words_encoder: Any = networks["text_encoder_2"]
    silence_unused(words_encoder.get_input_embeddings(), table.t5)
    networks.to(device)
    prepare_transformer(networks["transformer"])
    batches = Batches(read_cache(work), table, fit.batch)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        x, sigma, target, phrases, length = batches.draw(generator)
        words, pooled = table.encode(networks, phrases, length)
        predicted = velocity(networks["transformer"], x.to(device), sigma.to(device), words, pooled)
        return (predicted - target.to(device)).square().mean()

    return train("denoiser", networks, loss, fit, work, seed, watch=watch)


def train_guidance(fit: Fit, work: Path, seed: int, device: torch.device) -> Any:
    """Distil classifier-free guidance into a copy of the trained transformer; returns its average."""
    networks, clip, t5 = new_networks(seed)
    table = PhraseTable(clip, t5)
    networks = average_of(networks, "denoiser", work).to(device).requires_grad_(False)
    student = with_guidance(networks["transformer"]).to(device)
    for transformer in (networks["transformer"], student):
        prepare_transformer(transformer)
    batches = Batches(read_cache(work), replace_dropout(table, 0.05), fit.batch)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        x, sigma, _, phrases, length = batches.draw(generator)
        w = 1 + (MOST_GUIDANCE - 1) * torch.rand(len(x), generator=generator)
        plain = torch.rand(len(x), generator=generator) < PLAIN_SHARE
        w = torch.where(plain, 1.0, w).to(device)
        x, sigma = x.to(device), sigma.to(device)
        with torch.no_grad():
            words, pooled = table.encode(networks, phrases, length)
            empty_words, empty_pooled = table.encode(networks, torch.zeros(1, dtype=torch.int64), length)
            empty_words, empty_pooled = empty_words.expand_as(words), empty_pooled.expand_as(pooled)
            conditional = velocity(networks["transformer"], x, sigma, words, pooled)
            free = velocity(networks["transformer"], x, sigma, empty_words, empty_pooled)
            target = free + w[:, None, None] * (conditional - free)
        return (velocity(student, x, sigma, words, pooled, w) - target).square().mean()

    return train("guidance", student, loss, fit, work, seed + 1)


def replace_dropout(table: PhraseTable, dropout: float) -> PhraseTable:
    """The same table with another share of empty captions."""
    other = deepcopy(table)
    other.dropout = dropout
    return other


def prepare_transformer(transformer: Any) -> None:
    """Settings of training only: exact times, and plain matrix products for attention, which are faster than the
    blockwise kernel on 32 tokens."""
    keep_times_exact(transformer)
    transformer.set_attention_backend("_native_math")


def smoke(fit: Fit) -> Fit:
    """A few small steps, to see that everything runs."""
    return replace(fit, steps=3, batch=8, warmup=1, minutes=None, bfloat16=False)
