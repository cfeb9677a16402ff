"""Statistics of a real text, kept without the text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.eval.text_reference import CountedReference, TextReference, counted, held_out, read_reference

TEXT = "the quick brown fox jumps over the lazy dog. " * 30 + "a boot is a boot, is it not? " * 20
JUDGE = SimpleNamespace(
    fingerprint={"weights": "a judge"},
    score=lambda windows: SimpleNamespace(nats=np.full(len(windows), 2.0), tokens=np.ones(len(windows))),
)


@pytest.fixture
def kept(tmp_path: Path) -> CountedReference:
    counted(TEXT, JUDGE, (16,), (4, 8)).save(tmp_path / "text.npz")
    found = read_reference(tmp_path / "text.npz")
    assert isinstance(found, CountedReference)
    return found


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_laws_are_the_counts(kept: CountedReference, n: int) -> None:
    windows = Counter(TEXT[i : i + n] for i in range(len(TEXT) - n + 1))
    codes, shares = kept.law(n)
    expected = {sum(ord(c) << (21 * k) for k, c in enumerate(gram)): count for gram, count in windows.items()}
    assert dict(zip(codes.tolist(), (shares * windows.total()).round(6).tolist(), strict=True)) == expected


def test_figures_are_those_of_the_text(kept: CountedReference) -> None:
    assert kept.figures(JUDGE, 16, 8) == TextReference(TEXT).figures(JUDGE, 16, 8)
    assert kept.figures(JUDGE, 16, 8)["reference_perplexity"] == pytest.approx(np.exp(2), abs=1e-4)
    assert kept.fingerprint == TextReference(TEXT).fingerprint


def test_what_was_not_measured_is_left_out(kept: CountedReference) -> None:
    assert set(kept.figures(JUDGE, 17, 8).values()) == {None}
    other = SimpleNamespace(fingerprint={"weights": "another"})
    assert kept.figures(other, 16, 8)["reference_perplexity"] is None
    assert kept.figures(other, 16, 8)["reference_entropy"] is not None


def test_the_shipped_statistics_hold_no_text() -> None:
    path = held_out("verses")
    assert path is not None
    shipped = CountedReference.load(path)
    assert len(shipped.law(1)[0]) <= 65
    for n in (1, 2, 3):
        assert shipped.law(n)[1].sum() == pytest.approx(1)
    assert path.stat().st_size < 60_000


def test_another_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="holds no statistics of a text"):
        read_reference(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_text("no archive")
    with pytest.raises(ValueError, match="holds no statistics of a text"):
        read_reference(tmp_path / "b.npz")
