"""The two language models of the recipe `verses`, what they descend, and the bound that is measured.

Masked diffusion with the log-linear schedule masks every token with probability t; its negative evidence bound is

    -log p(x) <= int_0^1 (1/t) E[sum_{masked i} -log p(x_i|z_t)] dt = L E_S[mean_{i in S} -log p(x_i|x without S)]

where the set S of k places is uniformly random and k is uniform on {1..L}: the integral over t of
t^{k-1} (1-t)^{L-k} C(L, k) is 1/k. The right side has no 1/t and so less variance; it is what is trained and measured
here. It does not mention t: the network is not told the time.

Sahoo et al. (2024, arXiv:2406.07524), Ou et al. (2024, arXiv:2406.03736); for the sum over k, Hoogeboom et al. (2021,
arXiv:2110.02037).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .verses_data import ALPHABET, LENGTH, all_windows

MASK_ID, PAD_ID = len(ALPHABET), len(ALPHABET) + 1
VOCABULARY = len(ALPHABET) + 3


def new_masked_model(width: int = 384, layers: int = 4, inner: int = 640, heads: int = 6) -> Any:
    """ModernBertForMaskedLM, (B, L) ids -> (B, L, 68) logits; all layers see the whole text, positions by rotation."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_activation="silu",
            max_position_embeddings=LENGTH,
            layer_types=["full_attention"] * layers,
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
            pad_token_id=PAD_ID,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
        )
    )


def new_judge_model(width: int = 256, layers: int = 4, inner: int = 512, heads: int = 4) -> Any:
    """LlamaForCausalLM, (B, L) ids -> (B, L, 68) logits of the next character."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def random_masks(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Sets S of k uniformly random places: (count, length) bool, True where masked.

    The k of the rows are spread evenly over {1..length}, from a common random start: row b has
    k = 1 + floor(length frac(u + b / count)).
    """
    share = (torch.rand((), generator=generator) + torch.arange(count) / count) % 1
    k = (share * length).long().clamp(max=length - 1) + 1
    order = torch.rand(count, length, generator=generator).argsort(1).argsort(1)
    return order < k[:, None]


def masked_cross_entropy(logits: Tensor, ids: Tensor, masks: Tensor) -> Tensor:
    """Mean cross-entropy of each row's masked places, in nats: (B, L, V), (B, L), (B, L) -> (B,) float32."""
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
    return (losses * masks).sum(1) / masks.sum(1)


def row_bounds(logits_of: Callable[[Tensor], Tensor], ids: Tensor, generator: torch.Generator) -> Tensor:
    """One unbiased estimate of each row's bound in bits a character: (B, L) -> (B,) float32."""
    masks = random_masks(len(ids), ids.shape[1], generator).to(ids.device)
    return masked_cross_entropy(logits_of(ids.masked_fill(masks, MASK_ID)), ids, masks) / math.log(2)


class Measured(NamedTuple):
    """A mean over windows of text, its standard error over them and how many they are."""

    bits: float
    error: float
    windows: int

    @classmethod
    def of(cls, bits: Tensor) -> Measured:
        """From the bits a character of each window, (W,)."""
        return cls(float(bits.mean()), float(bits.std() / len(bits) ** 0.5), len(bits))


@torch.no_grad()
def window_bounds(
    logits_of: Callable[[Tensor], Tensor], ids: Tensor, draws: int, seed: int, length: int = LENGTH, batch: int = 32
) -> Tensor:
    """The bound in bits a character of each consecutive window of a text, unbiased: (N,) -> (W,) float64.

    Args:
        logits_of: ids (B, L) with masks in them to logits (B, L, V).
        ids: the text, (N,).
        draws: sets of each window, their sizes spread evenly over {1..L} from a random start.
        seed: of the sets.
        length: of a window.
        batch: about how many sequences a call has.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for window in _windows(ids, length):
        masks = random_masks(draws, length, generator)
        rows.append((window.expand(draws, length), masks))
    found = []
    for start in range(0, len(rows), max(1, batch // draws)):
        clean, masks = (torch.cat(part) for part in zip(*rows[start : start + max(1, batch // draws)], strict=True))
        losses = masked_cross_entropy(logits_of(clean.masked_fill(masks, MASK_ID)), clean, masks)
        found.append(losses.double().view(-1, draws).mean(1) / math.log(2))
    return torch.cat(found)


@torch.no_grad()
def window_bits(logits_of: Callable[[Tensor], Tensor], ids: Tensor, length: int = LENGTH, batch: int = 32) -> Tensor:
    """Bits a character of a causal model in each consecutive window, the first one given: (N,) -> (W,) float64."""
    rows = []
    for chunk in _windows(ids, length).split(batch):
        logits = logits_of(chunk)[:, :-1].float()
        losses = F.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="none")
        rows.append(losses.view(len(chunk), -1).mean(1).double() / math.log(2))
    return torch.cat(rows)


def _windows(ids: Tensor, length: int) -> Tensor:
    windows = all_windows(ids, length)
    if len(windows) < 2:
        raise ValueError(f"This needs at least two windows of {length} characters, got {len(ids)} characters.")
    return windows


class ChannelDropout(nn.Module):
    """Dropout of whole channels, the same at every place of a row: (B, L, C) -> (B, L, C).

    It costs B C random numbers instead of B L C, which on a processor take as long as the matrix products.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), 1, x.shape[-1], device=x.device) >= self.share
        return x * (kept.to(x.dtype) / (1 - self.share))


def with_channel_dropout(model: Any, share: float) -> Any:
    """A ModernBERT whose feed-forward layers drop channels while it trains; its weights and files are the same."""
    for layer in model.model.layers:
        layer.mlp.drop = ChannelDropout(share)
    return model


@torch.no_grad()
def drawn_texts(
    logits_of: Callable[[Tensor], Tensor], count: int, calls: int, seed: int, length: int = LENGTH
) -> Tensor:
    """Texts drawn from nothing: (count, length) ids. Random groups of about length / calls places are filled together.

    With calls = length this draws from the model's law exactly, one place a call; with fewer it ignores how the
    places of a group depend on each other. The plain rule, to see what a network call buys.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((count, length), MASK_ID)
    order = torch.rand(count, length, generator=generator).argsort(1)
    for places in order.tensor_split(calls, dim=1):
        law = logits_of(ids)[:, :, : len(ALPHABET)].double().softmax(-1)
        chosen = law.gather(1, places[:, :, None].expand(-1, -1, law.shape[-1]))
        drawn = torch.multinomial(chosen.flatten(0, 1), 1, generator=generator).view(places.shape)
        ids.scatter_(1, places, drawn)
    return ids


def unigram_entropy(ids: Tensor) -> float:
    """Entropy of the characters' frequencies over all texts, in bits: dull text has little."""
    share = ids.flatten().bincount(minlength=len(ALPHABET)).double() / ids.numel()
    return float(-(share * share.clamp_min(1e-300).log2()).sum())
