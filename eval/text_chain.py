"""An exact model of texts: a Markov chain of letters with the true law of every token, for masks and uniform noise.

V letters; the first is drawn uniformly, each next one is the successor of the last (cyclic) with probability
s + (1 - s) / V, and any other with (1 - s) / V. What a noisy sequence says of each letter is a smoothing problem of a
hidden Markov model, solved exactly by forward and backward recursions (Rabiner 1989):

    p(x_0^i = v | x_t)  proportional to  f_i(v) b_i(v),     f_{i+1} = (f_i T) e_{i+1},     b_i = T (e_{i+1} b_{i+1}),

with e_i(v) = p(x_t^i | x_0^i = v) of the noise. Nothing is learned, so what a sampler gets wrong is its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.samplers import MaskedProcess, UniformProcess
from fewstep.samplers.core.registry import nearest
from fewstep.samplers.discrete import LinearMask, LogLinear

from .text_judge import Law, Score

VALUES = 16
STRENGTH = 0.6
KINDS = ("masked", "uniform")


def transition(strength: float, values: int = VALUES) -> Tensor:
    """T[a, b] = p(b | a), (V, V) float64."""
    made = torch.full((values, values), (1.0 - strength) / values, dtype=torch.float64)
    at = torch.arange(values)
    made[at, (at + 1) % values] += strength
    return made


def posterior(emission: Tensor, matrix: Tensor) -> Tensor:
    """p(x_0^i | x_t) of a chain that begins uniformly: emissions (B, L, V), transitions (V, V) -> (B, L, V)."""
    length = emission.shape[1]
    forward, backward = torch.empty_like(emission), torch.ones_like(emission)
    f = emission[:, 0]
    for i in range(length):
        if i:
            f = (f @ matrix) * emission[:, i]
        f = f / f.sum(-1, keepdim=True)
        forward[:, i] = f
    for i in range(length - 2, -1, -1):
        b = (emission[:, i + 1] * backward[:, i + 1]) @ matrix.T
        backward[:, i] = b / b.sum(-1, keepdim=True)
    p = forward * backward
    return p / p.sum(-1, keepdim=True)


class _Network(nn.Module):
    """The exact denoiser as a module, so that its calls are counted like those of any network."""

    def __init__(self, matrix: Tensor, kind: str) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.kind = kind

    def forward(self, tokens: Tensor, alpha: float) -> Tensor:
        matrix: Any = self.matrix
        values = len(matrix)
        if self.kind == "masked":
            clean = nn.functional.one_hot(tokens.clamp_max(values - 1), values).double()
            emission = torch.where((tokens == values)[..., None], 1.0, clean)
        else:
            emission = alpha * nn.functional.one_hot(tokens, values).double() + (1.0 - alpha) / values
        return posterior(emission, matrix).clamp_min(1e-300).log()


class ChainText:
    """The chain as a model to sample and, for masks and uniform noise, the process that goes with it.

    Args:
        kind: ``"masked"`` or ``"uniform"``.
        strength: s, in [0, 1).
        name: in reports.
    """

    def __init__(self, kind: str = "masked", strength: float = STRENGTH, name: str = "") -> None:
        if kind not in KINDS:
            raise ValueError(f"the noise of a chain is masked or uniform, got {kind!r}{nearest(str(kind), KINDS)}")
        if not 0 <= strength < 1:
            raise ValueError(f"the strength of a chain must be in [0, 1), got {strength!r}")
        self.kind, self.strength, self.name = kind, strength, name or f"oracle:chain:{strength:g}:{kind}"
        self.network = _Network(transition(strength), kind)
        self.device = torch.device("cpu")
        self.time_aware = kind == "uniform"
        self.mask = VALUES if kind == "masked" else None
        self.process = MaskedProcess(LogLinear(), mask=VALUES) if kind == "masked" else UniformProcess(LinearMask())
        self.fingerprint: dict[str, Any] = {
            "model": "chain",
            "kind": kind,
            "strength": strength,
            "values": VALUES,
            "dtype": "float64",
        }

    @classmethod
    def of_name(cls, name: str) -> ChainText:
        """From ``oracle:chain[:STRENGTH][:masked|uniform]``.

        Raises:
            ValueError: another name.
        """
        words = name.split(":")
        if words[:2] != ["oracle", "chain"] or len(words) > 4:
            raise ValueError(
                f"unknown exact model {name!r}; of texts there is oracle:chain[:STRENGTH][:masked|uniform], such as "
                "oracle:chain:0.6:uniform"
            )
        kind, strength = "masked", STRENGTH
        for word in words[2:]:
            try:
                strength = float(word)
            except ValueError:
                kind = word
        return cls(kind, strength, name)

    def __call__(self, tokens: Tensor, t: float) -> Tensor:
        """log p(v | x_t, i), (B, L, V), exactly."""
        return self.network(tokens, self.process.schedule.alpha(t))

    def start(self, prompts: list[str], length: int) -> Tensor:
        """Sequences of masks, or zeros that uniform noise will replace, (n, length)."""
        if any(prompts):
            raise ValueError("an exact chain takes no prompts")
        return torch.full((len(prompts), length), VALUES if self.kind == "masked" else 0)

    def texts(self, tokens: Tensor) -> list[str]:
        """Letters from a on."""
        return ["".join(chr(97 + token) for token in row) for row in tokens.tolist()]

    # -- as judge and reference ------------------------------------------------------------------------------------

    def score(self, texts: Sequence[str], given: Sequence[str] | None = None) -> Score:
        """Exact likelihood of the letters after the first."""
        log_t: Any = transition(self.strength).log()
        nats = []
        for text in texts:
            tokens = torch.tensor([ord(letter) - 97 for letter in text])
            nats.append(-float(log_t[tokens[:-1], tokens[1:]].sum()))
        count = np.array([len(text) - 1.0 for text in texts])
        return Score(np.array(nats), count, count)

    def entropy_rate(self) -> float:
        """Of a letter given the one before it, in nats: log of the perplexity of exact texts."""
        row = transition(self.strength)[0]
        return float(-(row * row.log()).sum())

    def law(self, n: int) -> Law:
        """Exact law of n letters in a row, coded as `text_judge.ngram_law` does."""
        p = torch.full((VALUES,), 1 / VALUES, dtype=torch.float64)
        codes = np.arange(97, 97 + VALUES)
        matrix = transition(self.strength)
        for k in range(1, n):
            p = (p[..., None] * matrix).reshape(*p.shape, VALUES)
            codes = codes[..., None] + (np.arange(97, 97 + VALUES) << (21 * k))
        order = codes.reshape(-1).argsort()
        return codes.reshape(-1)[order], p.reshape(-1).numpy()[order]

    def draw(self, count: int, length: int, seed: int = 0) -> list[str]:
        """Exact texts."""
        generator = torch.Generator().manual_seed(seed)
        u = torch.rand(count, length, generator=generator, dtype=torch.float64)
        tokens = (u * VALUES).long()
        cumulative = transition(self.strength).cumsum(-1)
        for i in range(1, length):
            found = torch.searchsorted(cumulative[tokens[:, i - 1]], u[:, i, None].contiguous(), right=True)[:, 0]
            tokens[:, i] = found.clamp_max(VALUES - 1)
        return self.texts(tokens)

    def perplexity(self) -> float:
        """Of exact texts."""
        return math.exp(self.entropy_rate())
