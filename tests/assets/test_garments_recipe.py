"""The recipe's own parts, and the whole recipe for a few steps on synthetic files."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tokenizers.pre_tokenizers import ByteLevel

from fewstep.assets.recipes import garments
from fewstep.assets.recipes.garments_data import captions, colourise
from fewstep.eval.judge import Judge

# ---------------------------------------------------------------------------------------------------------- tokenizer


def test_byte_symbols_are_the_alphabet_of_byte_level_bpe() -> None:
    symbols = garments.byte_symbols()
    assert len(symbols) == len(set(symbols)) == 256
    assert set(symbols) == set(ByteLevel.alphabet())


def test_merges_join_the_most_frequent_pair_first() -> None:
    vocabulary, merges = garments.byte_pair_encoding(Counter({"low": 5, "lower": 2, "newest": 6, "widest": 3}))
    # By hand, after Sennrich et al. (2016): e+s (9), es+t</w> (9), then l+o (7).
    assert merges[:3] == [("e", "s"), ("es", "t</w>"), ("l", "o")]
    assert {"low</w>", "lower</w>", "newest</w>", "widest</w>"} <= set(vocabulary)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_every_caption_fits_and_its_words_are_single_tokens() -> None:
    tokenizer = garments.new_tokenizer()
    for label in itertools.product(range(10), range(10), range(5)):
        for text, _ in captions(*label):
            tokens = tokenizer.tokenize(text)
            assert len(tokens) <= garments.MAX_TOKENS - 2
            assert all(token.endswith("</w>") for token in tokens), (text, tokens)


def test_caption_table_draws_captions_of_its_labels_and_drops_a_tenth() -> None:
    tokenizer = garments.new_tokenizer()
    table = garments.CaptionTable(tokenizer)
    label = (5, 3, 2)
    generator = torch.Generator().manual_seed(0)
    ids = table.draw(torch.tensor([label]).repeat(2000, 1), generator)
    allowed = {tuple(garments.tokenize(tokenizer, [text])[0].tolist()) for text, _ in captions(*label)}
    empty = tuple(garments.tokenize(tokenizer, [""])[0].tolist())
    drawn = Counter(map(tuple, ids.tolist()))
    assert set(drawn) <= allowed | {empty}
    assert abs(drawn[empty] / 2000 - 0.1) < 4 * (0.09 / 2000) ** 0.5


# ----------------------------------------------------------------------------------------------------------- training


def test_signal_shares_are_those_of_diffusers() -> None:
    theirs = DDIMScheduler(**garments.scheduler_config()).alphas_cumprod  # type: ignore[attr-defined]
    torch.testing.assert_close(garments.alphas_cumprod(), theirs, atol=1e-6, rtol=1e-5)


def test_augmenting_keeps_shape_and_is_small() -> None:
    zero = torch.zeros(8, dtype=torch.int64)
    grey = torch.zeros(8, 28, 28, dtype=torch.uint8)
    grey[:, 6:22, 8:20] = 200
    pictures = colourise(grey, zero, zero)
    first, again = (garments.augment(pictures, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == pictures.shape
    # The middle of an even garment stays what it is, but for the noise.
    assert float((first - pictures)[:, :, 14:18, 14:18].abs().max()) < 0.25


# ---------------------------------------------------------------------------------------------------------- measuring


def test_prompts_cover_everything_evenly() -> None:
    texts, labels = garments.prompts(1000)
    assert len(texts) == 1000
    assert set(Counter(map(tuple, labels.tolist())).values()) == {2}, "500 combinations, each twice"
    assert texts[0] == "a red t-shirt on a white background"
    assert sorted(Counter(labels[:100, 2].tolist()).values()) == [20] * 5


class Constant(Judge):
    """A judge that always answers the same, so that counting can be checked by hand."""

    def answers(self, pictures: torch.Tensor, batch_size: int = 256) -> dict[str, torch.Tensor]:
        return {question: torch.zeros(len(pictures), dtype=torch.int64) for question in self.labels}


def test_measure_counts_what_was_found() -> None:
    judge = Constant(garments.new_judge().labels)
    labels = torch.tensor([[0, 0, 0], [0, 1, 0], [6, 0, 0], [6, 0, 1]])
    result = garments.measure_pictures(judge, torch.zeros(4, 3, 32, 32), labels)
    assert result["garment"] == 0.5
    assert result["colour"] == 0.75
    assert result["background"] == 0.75
    assert result["garment of each"] == {"t-shirt": 1.0, "shirt": 0.0}
    assert result["colour of each"] == {"red": pytest.approx(1.0), "orange": 0.0}
    assert result["garments taken for another"] == {"shirt -> t-shirt": 2}


def test_load_pipeline_knows_only_schedulers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="UNet2DModel is no scheduler class of diffusers"):
        garments.load_pipeline(tmp_path, "UNet2DModel", None)


# ------------------------------------------------------------------------------------------------------- command line


def write_idx(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for prefix in ("train", "t10k"):
        x = np.zeros((64, 28, 28), np.uint8)
        x[:, 6:22, 8:20] = rng.integers(40, 255, (64, 16, 12))
        y = (np.arange(64) % 10).astype(np.uint8)
        images = gzip.compress(struct.pack(">IIII", 2051, 64, 28, 28) + x.tobytes())
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 64) + y.tobytes())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "judge"], "Error: Stage judge needs --data"),
        (["--stage", "judge", "--data", "nowhere.npz"], "Error: There is no Fashion-MNIST at nowhere.npz"),
        (["--stage", "measure", "--steps", "0"], "Error: --steps must be positive, got 0."),
        (["--stage", "export"], "Error: There is no autoencoder.pt in"),
        (["--stage", "measure"], "holds no judge: config.json is missing."),
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
    monkeypatch.setattr(sys, "argv", ["garments", *arguments])
    with pytest.raises(SystemExit) as exit_:
        garments.main()
    assert exit_.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_smoke_run_makes_folders_that_plain_diffusers_loads(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx")
    command = [sys.executable, "-m", "fewstep.assets.recipes.garments", "--data", "idx", "--out", "models", "--smoke"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "work" / "measure.json").read_text())
    assert report["pictures"] == 10
    assert set(report["asked for and found"]) >= {"garment", "colour", "background"}
    assert set(report["judge on test images"]) == {"garment", "colour", "background"}
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "models" / "garments", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red ankle boot", num_inference_steps=1, output_type="pt").images
    assert image.shape == (1, 3, 32, 32)
    assert Judge.from_pretrained(tmp_path / "models" / "garments-judge").features(image * 2 - 1).shape == (1, 96)
