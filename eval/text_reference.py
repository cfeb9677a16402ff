"""Real text to compare with: laws of its n-grams, and what its windows score, so that figures have a scale."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .text_chain import ChainText
from .text_judge import Law, law_distance, ngram_law, perplexity, total_variation, unigram_entropy

#: Statistics of the text that a shipped model has not been trained on, by the model's name; in assets/statistics.
HELD_OUT = {"verses": "verses.npz"}


class TextReference:
    """A real text, cut into windows.

    Args:
        text: the whole of it.
        name: in reports.

    Raises:
        ValueError: a text of fewer than three characters.
    """

    def __init__(self, text: str, name: str = "") -> None:
        if len(text) < 3:
            raise ValueError(f"the reference text {name!r} must hold at least 3 characters, got {len(text)}")
        self.text, self.name = text, name
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.lru_cache(maxsize=4)  # noqa: B019  one lives as long as the run
    def law(self, n: int) -> Law:
        """Law of n characters in a row."""
        return ngram_law([self.text], n)

    def figures(self, judge: Any, length: int, count: int) -> dict[str, float | None]:
        """What as much real text as one seed's texts scores: perplexity, entropy, distances to the rest.

        The windows are spread evenly over the text; where it has fewer than twice as many, half of them is taken.
        """
        windows = [self.text[i : i + length] for i in range(0, len(self.text) - length + 1, length)]
        found: dict[str, float | None] = dict.fromkeys(
            f"reference_{name}" for name in ("perplexity", "entropy", "trigram_distance", "bigram_tv", "trigram_tv")
        )
        if len(windows) < 2:
            return found
        number = min(count, len(windows) // 2)
        picked = set(np.linspace(0, len(windows) - 1, number).round().astype(int).tolist())
        some = [window for i, window in enumerate(windows) if i in picked]
        rest = [window for i, window in enumerate(windows) if i not in picked]
        score = judge.score(windows)
        found["reference_perplexity"] = round(perplexity(score.nats, score.tokens), 4)
        found["reference_entropy"] = round(float(np.mean([unigram_entropy(window) for window in windows])), 4)
        for n, name in ((2, "bigram"), (3, "trigram")):
            if length >= n:
                variation = total_variation(ngram_law(some, n), ngram_law(rest, n))
                found[f"reference_{name}_tv"] = round(variation, 4)
        if length >= 3 and len(some) > 1:
            found["reference_trigram_distance"] = round(1e4 * law_distance(some, ngram_law(rest, 3), 3), 3)
        return found


class CountedReference:
    """A real text of which only statistics are left: counts of its n-grams, and what its windows scored.

    Args:
        laws: law of n characters in a row by n, 1 to 3.
        scores: figures by "LENGTH:COUNT", see `TextReference.figures`.
        judge: hash of the judge's weights that the perplexities are of.
        fingerprint: of the text.
        name: in reports.
    """

    def __init__(
        self, laws: dict[int, Law], scores: dict[str, dict[str, Any]], judge: str, fingerprint: str, name: str = ""
    ) -> None:
        self.laws, self.scores, self.judge = laws, scores, judge
        self.fingerprint, self.name = fingerprint, name

    def law(self, n: int) -> Law:
        """Law of n characters in a row."""
        return self.laws[n]

    def figures(self, judge: Any, length: int, count: int) -> dict[str, float | None]:
        """What as much real text as one seed's texts scored, if it was measured for this length and number."""
        names = ("perplexity", "entropy", "trigram_distance", "bigram_tv", "trigram_tv")
        found: dict[str, float | None] = {f"reference_{n}": None for n in names}
        found |= self.scores.get(f"{length}:{count}", {})
        if judge.fingerprint.get("weights") != self.judge:
            found["reference_perplexity"] = None
        return found

    def save(self, path: Path) -> None:
        """Write an npz file whole or not at all."""
        from .statistics import write_npz

        arrays: dict[str, Any] = {"scores": np.str_(json.dumps(self.scores)), "judge": np.str_(self.judge)}
        arrays["fingerprint"] = np.str_(self.fingerprint)
        for n, (codes, shares) in self.laws.items():
            arrays |= {f"codes{n}": codes, f"shares{n}": shares}
        write_npz(path, arrays)

    @classmethod
    def load(cls, path: Path) -> CountedReference:
        """Read what `save` wrote.

        Raises:
            ValueError: another file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                laws = {n: (file[f"codes{n}"], file[f"shares{n}"]) for n in (1, 2, 3)}
                scores = json.loads(str(file["scores"]))
                return cls(laws, scores, str(file["judge"]), str(file["fingerprint"]), path.name)
        except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{str(path)!r} holds no statistics of a text: {error}") from error


class _Once:
    """A judge that scores windows of one length once."""

    def __init__(self, judge: Any) -> None:
        self.judge = judge
        self.scored: dict[int, Any] = {}

    def score(self, windows: Sequence[str]) -> Any:
        length = len(windows[0])
        if length not in self.scored:
            self.scored[length] = self.judge.score(windows)
        return self.scored[length]


def counted(
    text: str, judge: Any, lengths: Sequence[int] = (128, 256), counts: Sequence[int] = (8, 16, 24, 32, 48, 64)
) -> CountedReference:
    """Statistics of a text: laws of its n-grams, and its figures for these lengths and numbers of texts a seed."""
    whole, once = TextReference(text), _Once(judge)
    scores = {
        f"{length}:{count}": whole.figures(once, length, count)
        for length in lengths
        for count in counts
        if len(text) >= 2 * length
    }
    laws = {n: whole.law(n) for n in (1, 2, 3)}
    return CountedReference(laws, scores, str(judge.fingerprint["weights"]), whole.fingerprint)


class ChainReference:
    """The exact laws of a chain of letters."""

    def __init__(self, chain: ChainText) -> None:
        self.chain, self.name = chain, chain.name
        self.fingerprint = f"exact {chain.strength}"

    def law(self, n: int) -> Law:
        """Law of n letters in a row, exactly."""
        return self.chain.law(n)

    def figures(self, judge: Any, length: int, count: int) -> dict[str, float | None]:
        """Exact perplexity; entropy and distances of as many exact texts as one seed has."""
        texts = self.chain.draw(count, length)
        found: dict[str, float | None] = {
            "reference_perplexity": round(self.chain.perplexity(), 4),
            "reference_entropy": round(float(np.mean([unigram_entropy(text) for text in texts])), 4),
        }
        for n, name in ((2, "bigram"), (3, "trigram")):
            variation = total_variation(ngram_law(texts, n), self.law(n)) if length >= n else None
            found[f"reference_{name}_tv"] = None if variation is None else round(variation, 4)
        if length >= 3 and count > 1:
            found["reference_trigram_distance"] = round(1e4 * law_distance(texts, self.law(3), 3), 3)
        return found


def held_out(model: str) -> Path | None:
    """Statistics of the held-out text of a shipped model; None for another model."""
    import fewstep.assets

    if model not in HELD_OUT:
        return None
    path = Path(fewstep.assets.__file__).parent / "statistics" / HELD_OUT[model]
    return path if path.is_file() else None


def read_reference(path: str | Path) -> TextReference | CountedReference:
    """A text file in UTF-8, or an npz file of `CountedReference`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text, or hardly any.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no reference text {str(path)!r}")
    if file.suffix == ".npz":
        return CountedReference.load(file)
    try:
        return TextReference(file.read_bytes().decode("utf-8").replace("\r\n", "\n"), file.name)
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} is not a text file in UTF-8") from None
