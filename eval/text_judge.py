"""How likely and how varied texts are: perplexity under an independent language model, entropy, n-gram laws.

Perplexity under a judge rewards dull text: a sampler that repeats the likeliest words scores best. So three things
stand beside each other: the judge's perplexity, the unigram entropy of each text (dull text has less of it), and the
distance between the 3-gram laws of the texts and of real text, without bias: 0 for real text, however short, and above
it for dull text. The total variation of the same laws is reported as well; it has a bias that few and varied texts pay
for, and dull ones less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .features import hash_of_module

Law = tuple[np.ndarray, np.ndarray]  #: codes of n-grams, increasing, and their probabilities


class Score(NamedTuple):
    """What a judge says of n texts, one entry each.

    Attributes:
        nats: -log p of what was scored, given all that stands before it.
        tokens: of the judge that were scored.
        characters: that they spell.
    """

    nats: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray


def negative_log_likelihood(logits: Tensor, tokens: Tensor, start: int = 1) -> Tensor:
    """-sum_{i >= start} log p(x_i | x_<i) of each sequence, in nats.

    Args:
        logits: (B, L, V); column i says what stands at i + 1.
        tokens: (B, L) int64.
        start: first token that counts, at least 1: the first token of a text has nothing before it.

    Returns:
        (B,) float64.
    """
    if start < 1:
        raise ValueError(f"the first token of a text cannot be scored; start must be at least 1, got {start}")
    log_p = torch.log_softmax(logits[:, start - 1 : -1].double(), dim=-1)
    return -log_p.gather(-1, tokens[:, start:, None])[..., 0].sum(1)


def characters(text: str) -> np.ndarray:
    """Code points of a text, (len(text),) int64."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)


def unigram_entropy(text: str) -> float:
    """Entropy of the characters of one text, -sum_c f_c log2 f_c, in bits; 0 for an empty one."""
    if not text:
        return 0.0
    _, counts = np.unique(characters(text), return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def shared_beginning(a: str, b: str) -> str:
    """The characters that two texts begin with alike."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def ngram_law(texts: Sequence[str], n: int) -> Law:
    """Law of n characters in a row, n at most 3, over all texts; none lies across two of them.

    Raises:
        ValueError: no text has n characters.
    """
    if n not in (1, 2, 3):
        raise ValueError(f"n must be 1, 2 or 3, got {n!r}")
    codes = []
    for text in texts:
        points = characters(text)
        codes.append(sum(points[k : len(points) - n + 1 + k] << (21 * k) for k in range(n)))  # code points have 21 bits
    joined = np.concatenate(codes) if codes else np.empty(0, np.int64)
    if not len(joined):
        raise ValueError(f"there is no text of {n} characters or more")
    found, counts = np.unique(joined, return_counts=True)
    return found, counts / counts.sum()


def law_distance(texts: Sequence[str], law: Law, n: int) -> float:
    """Squared Euclidean distance sum (p - q)^2 between the law p of the texts' n-grams and a law q, without bias.

    p.p is estimated over pairs of different texts, so that what few texts have by chance does not count: for texts
    drawn from q the mean is 0, and single values lie on both sides of it. (The maximum mean discrepancy with the
    spectrum kernel of Leslie, Eskin and Noble 2002; the estimate without bias is that of Gretton et al. 2012.)

    Raises:
        ValueError: fewer than two texts of n characters.
    """
    laws = [ngram_law([text], n) for text in texts if len(text) >= n]
    if len(laws) < 2:
        raise ValueError(f"the distance of laws needs at least two texts of {n} characters, got {len(laws)}")
    codes = np.unique(np.concatenate([law[0], *(codes for codes, _ in laws)]))
    total, real, own = np.zeros(len(codes)), np.zeros(len(codes)), 0.0
    real[np.searchsorted(codes, law[0])] = law[1]
    for where, share in laws:
        total[np.searchsorted(codes, where)] += share
        own += float(share @ share)
    count = len(laws)
    return float((total @ total - own) / (count * (count - 1)) - 2 * (total @ real) / count + real @ real)


def total_variation(p: Law, q: Law) -> float:
    """1/2 sum |p - q|, in [0, 1]."""
    codes = np.union1d(p[0], q[0])
    whole = np.zeros((2, len(codes)))
    for row, (where, mass) in zip(whole, (p, q), strict=True):
        row[np.searchsorted(codes, where)] = mass
    return float(0.5 * np.abs(whole[0] - whole[1]).sum())


class TextJudge:
    """An autoregressive language model of transformers that scores texts.

    Args:
        model: a causal language model.
        tokenizer: its own. Where it has a token for the beginning of a text, the first character is scored as well.
        name: in reports.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "") -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        config = model.config
        most = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self.window = int(most) if most and int(most) > 1 else 1 << 20
        self.fingerprint = {"model": type(model).__name__, "weights": hash_of_module(model)}

    @classmethod
    def from_pretrained(cls, name: str, device: Any = None) -> TextJudge:
        """A shipped judge, a folder, or a name on the hub.

        Raises:
            FileNotFoundError, ValueError: no such model, or none that writes from left to right.
        """
        from transformers import AutoModelForCausalLM

        from .text_models import load_pair

        model, tokenizer = load_pair(name, AutoModelForCausalLM, "a judge is a causal language model of transformers")
        made = cls(model.to(device or "cpu", torch.float32), tokenizer, name)
        if not made.is_causal():
            raise ValueError(f"{name!r} reads what comes after a token before it says how likely it is; no judge can")
        return made

    @torch.no_grad()
    def is_causal(self) -> bool:
        """Whether what the model says at a place does not depend on later ones."""
        device = next(self.model.parameters()).device
        logits = self.model(input_ids=torch.tensor([[0, 1, 0, 0], [0, 1, 0, 1]], device=device)).logits
        return torch.allclose(logits[0, :3], logits[1, :3], atol=1e-4, rtol=1e-4)

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def score(self, texts: Sequence[str], given: Sequence[str] | None = None, batch: int = 32) -> Score:
        """Score texts; of each the beginning that was `given` is only read.

        A text longer than the model's positions is read in windows that overlap by half.

        Raises:
            ValueError: a text of fewer than two tokens, or one that does not begin with what was given.
        """
        given = [""] * len(texts) if given is None else list(given)
        begin = self.tokenizer.bos_token_id
        rows: list[list[int]] = []
        starts, spelled = [], []
        for text, prompt in zip(texts, given, strict=True):
            if not text.startswith(prompt):
                raise ValueError(f"the text {text[:40]!r} does not begin with what was given, {prompt[:40]!r}")
            tokens = self._tokens(text)
            known = len(self._tokens(prompt)) if prompt else 0
            if begin is not None:
                tokens, known = [begin, *tokens], known + 1
            start = max(known, 1)
            if len(tokens) <= start:
                raise ValueError(f"the text {text[:40]!r} has no token that a judge could score")
            left_out = len(prompt) if prompt or begin is not None else len(self.tokenizer.decode(tokens[:1]))
            rows.append(tokens)
            starts.append(start)
            spelled.append(len(text) - left_out)
        nats = np.zeros(len(rows))
        groups: dict[tuple[int, int], list[int]] = {}
        for i, tokens in enumerate(rows):
            groups.setdefault((len(tokens), starts[i]), []).append(i)
        for (_, start), members in groups.items():
            for at in range(0, len(members), batch):
                part = members[at : at + batch]
                nats[part] = self._nats(torch.tensor([rows[i] for i in part]), start).numpy()
        scored = np.array([len(tokens) - start for tokens, start in zip(rows, starts, strict=True)], dtype=np.float64)
        return Score(nats, scored, np.array(spelled, dtype=np.float64))

    def _nats(self, tokens: Tensor, start: int) -> Tensor:
        device = next(self.model.parameters()).device
        length, total = tokens.shape[1], torch.zeros(len(tokens), dtype=torch.float64)
        done = start
        while done < length:
            first = 0 if done == start and length <= self.window else max(0, done - self.window // 2)
            part = tokens[:, first : first + self.window].to(device)
            logits = self.model(input_ids=part).logits
            total += negative_log_likelihood(logits, part, done - first).cpu()
            done = first + part.shape[1]
        return total


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean negative log-likelihood of a token, over all texts."""
    return math.exp(min(float(nats.sum() / tokens.sum()), 700.0))


def shipped(name: str) -> Path | None:
    """The folder of a model that comes with the package, or None."""
    import fewstep.assets

    folder = Path(fewstep.assets.__file__).parent / "models" / name
    plain = bool(name) and "/" not in name and "\\" not in name and name not in (".", "..")
    return folder if plain and folder.is_dir() else None
