"""The parts of the recipe `verses` against closed forms and exact chains, and the whole recipe for a few steps."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from fewstep.assets.recipes import verses
from fewstep.assets.recipes.verses_data import (
    ALPHABET,
    LENGTH,
    Split3,
    all_windows,
    encoded,
    new_tokenizer,
    random_windows,
    read_text,
)
from fewstep.assets.recipes.verses_model import (
    MASK_ID,
    PAD_ID,
    VOCABULARY,
    ChannelDropout,
    Measured,
    drawn_texts,
    masked_cross_entropy,
    new_masked_model,
    random_masks,
    unigram_entropy,
    window_bits,
    window_bounds,
    with_channel_dropout,
)


def synthetic_text(count: int = 12_000) -> str:
    """Every character, in lines and paragraphs."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(ALPHABET), (count,), generator=generator).tolist()
    return "".join(ALPHABET[index] for index in drawn) + "\n\nROMEO:\n  two  spaces\n\n\n"


# --------------------------------------------------------------------------------------------------------------- data


def test_alphabet_is_in_code_point_order_without_repeats() -> None:
    assert list(ALPHABET) == sorted(set(ALPHABET))
    assert len(ALPHABET) == 65


def test_tokenizer_returns_every_text_exactly_also_after_saving(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    new_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = synthetic_text()
    ids = tokenizer(text, verbose=False).input_ids
    assert ids == encoded(text).tolist()
    assert tokenizer.decode(ids) == text
    for piece in ("", "\n", "\n\n", " \n  \n", "  a", "ROMEO:\n\n"):
        assert tokenizer.decode(tokenizer(piece).input_ids) == piece
    assert tokenizer(["ab", "c"], padding=True).input_ids == [[39 + 0, 40], [41, PAD_ID]]
    assert tokenizer("a[MASK]b").input_ids == [39, MASK_ID, 40]
    assert tokenizer("é").input_ids == [tokenizer.unk_token_id]
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, len(tokenizer)) == (MASK_ID, PAD_ID, VOCABULARY)


def test_parts_are_the_text_in_order() -> None:
    ids = torch.arange(1003)
    parts = Split3.of(ids)
    assert torch.equal(torch.cat([parts.train, parts.watched, parts.held_out]), ids)
    assert [len(part) for part in (parts.train, parts.watched, parts.held_out)] == [902, 50, 51]


def test_windows_are_pieces_of_the_text_and_start_anywhere() -> None:
    ids = torch.arange(100)
    windows = random_windows(ids, 4000, 90, torch.Generator().manual_seed(0))
    assert torch.equal(windows.diff(dim=1), torch.ones(4000, 89, dtype=torch.int64))
    counts = windows[:, 0].bincount(minlength=11)
    assert len(counts) == 11
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert torch.equal(all_windows(ids, 30).flatten(), ids[:90])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"caf\xc3\xa9 " * 4000, "holds 'é', which the 65 characters do not cover"),
        (b"short", "must hold at least 10240 characters, got 5"),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "input.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_text(file)


# ---------------------------------------------------------------------------------------------------------- the bound


def every_mask(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All non-empty sets of places (2^L - 1, L) and their probability when k is uniform and the set is, given k."""
    masks = torch.tensor([m for m in itertools.product([False, True], repeat=length) if any(m)])
    share = torch.tensor([1 / (length * math.comb(length, int(k))) for k in masks.sum(1)], dtype=torch.float64)
    return masks, share


def test_masks_have_uniform_size_and_are_uniform_given_their_size() -> None:
    length, count = 4, 4000
    generator = torch.Generator().manual_seed(3)
    masks = torch.cat([random_masks(8, length, generator) for _ in range(count // 8)])
    place = 2 ** torch.arange(length)
    found = (masks * place).sum(1).bincount(minlength=2**length)[1:]
    patterns, share = every_mask(length)
    expected = torch.zeros(2**length, dtype=torch.float64)
    expected[(patterns * place).sum(1)] = share * count
    # The sizes are stratified, so the statistic is smaller than chi-square, never larger.
    assert float(((found - expected[1:]).square() / expected[1:]).sum()) < stats.chi2.ppf(1 - 1e-4, 2**length - 2)
    for k in range(1, 5):
        assert int((random_masks(8, length, generator).sum(1) == k).sum()) == 2


class Chain:
    """A Markov chain over three characters, 4 places: its law and its exact conditionals given any known places."""

    length, values = 4, 3

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        first = torch.rand(self.values, generator=generator, dtype=torch.float64)
        move = torch.rand(self.values, self.values, generator=generator, dtype=torch.float64) ** 3
        move = move / move.sum(1, keepdim=True)
        self.texts = torch.tensor(list(itertools.product(range(self.values), repeat=self.length)))
        law = (first / first.sum())[self.texts[:, 0]]
        for left, right in itertools.pairwise(range(self.length)):
            law = law * move[self.texts[:, left], self.texts[:, right]]
        self.law = law

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """log p(x_i | known places), (B, 4) -> (B, 4, 68)."""
        fits = ((ids[:, None] == self.texts) | (ids[:, None] == MASK_ID)).all(2) * self.law
        out = torch.full((*ids.shape, VOCABULARY), -math.inf, dtype=torch.float64)
        for place, value in itertools.product(range(self.length), range(self.values)):
            joint = (fits * (self.texts[:, place] == value)).sum(1)
            out[:, place, value] = (joint / fits.sum(1)).log()
        return out


def test_bound_of_exact_conditionals_is_the_likelihood_itself() -> None:
    chain = Chain(0)
    masks, share = every_mask(4)
    for text, probability in zip(chain.texts, chain.law, strict=True):
        ids = text.expand(len(masks), 4)
        losses = masked_cross_entropy(chain.logits(ids.masked_fill(masks, MASK_ID)), ids, masks)
        assert float((losses.double() * share).sum()) == pytest.approx(-math.log(probability) / 4, rel=1e-5)


def test_sets_of_uniform_size_are_the_integral_over_time() -> None:
    """For any network, consistent or not, against quadrature of the definition with weight 1/t."""
    network = torch.randn(5, VOCABULARY, 4, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(2))

    def logits(ids: torch.Tensor) -> torch.Tensor:
        kept = torch.nn.functional.one_hot(ids, VOCABULARY).float()
        seen = torch.einsum("blv,ovl->bo", kept, network)
        return weight + seen[:, :4, None].sin() * weight.roll(1, 1)

    masks, share = every_mask(4)
    ids = torch.tensor([3, 60, 7, 7]).expand(len(masks), 4)
    losses = masked_cross_entropy(logits(ids.masked_fill(masks, MASK_ID)), ids, masks).double()
    sizes = masks.sum(1).double()

    def integrand(t: float) -> float:
        return float((t**sizes * (1 - t) ** (4 - sizes) * losses * sizes).sum()) / t

    assert float((losses * share).sum()) == pytest.approx(quad(integrand, 0, 1)[0] / 4, rel=1e-6)


def context_free(logits: torch.Tensor) -> Any:
    return lambda ids: logits.expand(*ids.shape, len(logits))


def test_a_uniform_model_pays_the_logarithm_of_the_alphabet() -> None:
    ids = encoded(synthetic_text())
    for allowed in (VOCABULARY, len(ALPHABET)):
        logits = torch.full((VOCABULARY,), -math.inf)
        logits[:allowed] = 0
        assert float(window_bounds(context_free(logits), ids, draws=1, seed=0).mean()) == pytest.approx(
            math.log2(allowed), rel=1e-6
        )
        assert float(window_bits(context_free(logits), ids).mean()) == pytest.approx(math.log2(allowed), rel=1e-6)


def test_a_context_free_model_pays_its_cross_entropy() -> None:
    ids = encoded(synthetic_text())
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(5))
    bits = -logits.log_softmax(0)[ids] / math.log(2)
    windows = bits[: len(bits) // LENGTH * LENGTH].view(-1, LENGTH)
    draws = 40
    found, error, count = Measured.of(window_bounds(context_free(logits), ids, draws=draws, seed=0))
    assert count == len(windows)
    # The variance of the mean of a random k-subset of a window, averaged over k: s^2 (H_L - 1) / (L - 1).
    harmonic = sum(1 / k for k in range(1, LENGTH + 1))
    noise = (windows.var(1, correction=0).mean() * (harmonic - 1) / (LENGTH - 1) / (draws * count)).sqrt()
    assert abs(found - float(windows.mean())) < 4.5 * float(noise)
    both = (windows.mean(1).var() / count + noise**2).sqrt()
    assert error == pytest.approx(float(both), rel=0.4)
    assert float(window_bits(context_free(logits), ids).mean()) == pytest.approx(float(windows[:, 1:].mean()), rel=1e-6)


def test_too_little_text_is_refused() -> None:
    for measured in (
        lambda ids: window_bounds(context_free(torch.zeros(VOCABULARY)), ids, 1, 0),
        lambda ids: window_bits(context_free(torch.zeros(VOCABULARY)), ids),
    ):
        with pytest.raises(ValueError, match="at least two windows of 256 characters, got 300"):
            measured(torch.zeros(300, dtype=torch.int64))


# -------------------------------------------------------------------------------------------------------- the networks


def test_one_place_a_call_draws_the_exact_law_and_all_at_once_the_marginals() -> None:
    chain = Chain(4)
    place = 3 ** torch.arange(3, -1, -1)
    count = 6000
    one = (drawn_texts(chain.logits, count, calls=4, seed=0, length=4) * place).sum(1).bincount(minlength=81)
    expected = chain.law / chain.law.sum()
    common = expected * count > 5
    assert stats.chisquare(one[common], expected[common] / expected[common].sum() * one[common].sum()).pvalue > 1e-4
    product = torch.ones(81, dtype=torch.float64)
    for i in range(4):
        marginal = torch.stack([chain.law[chain.texts[:, i] == v].sum() for v in range(3)])
        product = product * marginal[chain.texts[:, i]]
    all_at_once = (drawn_texts(chain.logits, count, calls=1, seed=0, length=4) * place).sum(1).bincount(minlength=81)
    common = product * count > 5
    assert (
        stats.chisquare(all_at_once[common], product[common] / product[common].sum() * all_at_once[common].sum()).pvalue
        > 1e-4
    )


def test_unigram_entropy_of_known_texts() -> None:
    assert unigram_entropy(torch.arange(64).repeat(3, 1)) == pytest.approx(6)
    assert unigram_entropy(torch.zeros(3, 5, dtype=torch.int64)) == 0
    assert unigram_entropy(torch.tensor([[1, 1, 1, 2]])) == pytest.approx(float(stats.entropy([3, 1], base=2)))


def test_channel_dropout_keeps_the_mean_drops_whole_channels_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = ChannelDropout(0.25).train()
    x = torch.ones(200, 7, 50)
    y = layer(x)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert abs(float((y == 0).float().mean()) - 0.25) < 4.5 * (0.25 * 0.75 / 10_000) ** 0.5
    assert torch.equal(layer.eval()(x), x)


def test_the_masked_model_sees_both_sides_and_nothing_of_its_time() -> None:
    torch.manual_seed(0)
    model = with_channel_dropout(new_masked_model(width=32, layers=2, inner=48, heads=2), 0.1).eval()
    ids = torch.randint(65, (1, 40))
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        for changed, place in ((0, 39), (39, 0)):
            other = ids.clone()
            other[0, changed] = MASK_ID
            assert float((model(input_ids=other).logits - plain)[0, place].abs().max()) > 1e-6


# -------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "judge"], "Error: Stage judge needs --data"),
        (["--stage", "model", "--data", "nowhere.txt"], "Error: There is no text at nowhere.txt"),
        (["--stage", "measure", "--draws", "0"], "Error: --draws must be positive, got 0."),
        (["--stage", "measure", "--dropout", "1"], "Error: --dropout must be in [0, 1), got 1.0."),
        (["--stage", "export"], "Error: There is no model.pt in work; run --stage model first."),
    ],
)
def test_errors_are_sentences_and_exit_two(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["verses", *arguments])
    with pytest.raises(SystemExit) as exit_:
        verses.main()
    assert exit_.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_smoke_run_makes_folders_that_plain_transformers_loads(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(synthetic_text(), encoding="utf-8")
    command = [sys.executable, "-m", "fewstep.assets.recipes.verses", "--data", "input.txt", "--out", "models"]
    subprocess.run([*command, "--smoke"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "work" / "measure.json").read_text())
    for name in ("verses", "verses-judge"):
        # Three steps teach nothing: a guess among 65 or 68 characters costs about six bits.
        assert 5 < report[name]["last 10 %"]["bits"] < 8
        assert report[name]["training"]["steps"] == 3
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tmp_path / "models" / "verses", local_files_only=True)(
        "ROMEO:\n", return_tensors="pt"
    ).input_ids
    for kind, name in ((AutoModelForMaskedLM, "verses"), (AutoModelForCausalLM, "verses-judge")):
        model = kind.from_pretrained(tmp_path / "models" / name, local_files_only=True)
        assert model(input_ids=ids).logits.shape == (1, 7, VOCABULARY)
