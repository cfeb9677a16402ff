"""The recipe of garments-tokens: its own parts, and the whole recipe for a few steps on synthetic files."""

from __future__ import annotations

import gzip
import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AmusedScheduler, AutoencoderKL
from scipy.cluster.vq import kmeans2

import fewstep.assets
from fewstep.assets.recipes import garments_tokens as recipe
from fewstep.assets.recipes import garments_tokens_networks as networks
from fewstep.assets.recipes import garments_tokens_training as training
from fewstep.assets.recipes.garments import CaptionTable, new_tokenizer
from fewstep.assets.recipes.garments_tokens_card import card
from fewstep.assets.recipes.garments_tokens_measure import draw, load_pipeline, settings
from fewstep.assets.recipes.training import hidden_matrices

MODELS = Path(fewstep.assets.__file__).parent / "models"

# ----------------------------------------------------------------------------------------------------------- tokenizer


def distortion(points: torch.Tensor, centres: torch.Tensor) -> float:
    return float(torch.cdist(points, centres).min(1).values.square().mean())


def test_kmeans_is_as_good_as_scipys() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 4, generator=generator) * torch.tensor([3.0, 1.0, 1.0, 0.3])
    ours = training.kmeans(points, 32, generator)
    theirs = kmeans2(points.double().numpy(), 32, iter=12, minit="points", seed=0)[0]
    assert distortion(points, ours) < 1.05 * distortion(points, torch.from_numpy(theirs).float())


def test_kmeans_leaves_no_cluster_empty_where_points_repeat() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0]]).repeat_interleave(50, 0)
    centres = training.kmeans(points, 8, torch.Generator().manual_seed(1))
    assert bool(centres.isfinite().all())
    assert set(centres.flatten().tolist()) <= {0.0, 1.0, 2.0}


def test_vqvae_starts_as_the_autoencoder_whose_latents_it_quantises() -> None:
    folder = MODELS / "garments" / "vae"
    source: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    vqvae = networks.new_vqvae().eval()
    networks.start_from_autoencoder(vqvae, folder)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mean = source.encode(2 * pictures - 1).latent_dist.mean
        latents = vqvae.encode(pictures).latents
        # The borders differ: what is padded with zeros is mid-grey for one and black for the other.
        torch.testing.assert_close(latents[..., 3:5, 3:5], mean[..., 3:5, 3:5], atol=0.5, rtol=0)
        decoded = vqvae.decoder(vqvae.post_quant_conv(mean))
        torch.testing.assert_close(2 * decoded - 1, source.decode(mean).sample, atol=1e-4, rtol=0)


def test_unused_codes_restart_at_what_the_encoder_makes() -> None:
    vqvae = networks.new_vqvae()
    usage = training.Usage(vqvae, every=2)
    before = vqvae.quantize.embedding.weight.detach().clone()
    vectors = torch.full((5, 4), 7.0)
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(500)
    assert usage.update(0, codes, vectors, generator) == 0
    assert usage.update(1, codes, vectors, generator) == networks.CODES - 500
    after = vqvae.quantize.embedding.weight
    assert torch.equal(after[:500], before[:500])
    assert bool((after[500:] == 7).all())
    assert float(vqvae.quantize.usage.sum()) == 0


def test_tokens_are_the_nearest_codes() -> None:
    vqvae = networks.new_vqvae().eval()
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    tokens = training.tokens_of(vqvae, pictures)
    with torch.no_grad():
        latents = vqvae.encode((pictures + 1) / 2).latents.permute(0, 2, 3, 1).double()
    distance = (latents[..., None, :] - vqvae.quantize.embedding.weight.double()).square().sum(-1)
    chosen = distance.flatten(1, 2).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(chosen, distance.flatten(1, 2).min(-1).values, atol=1e-6, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------ denoiser


def test_mask_ratio_is_that_of_diffusers_scheduler() -> None:
    scheduler = AmusedScheduler(mask_token_id=networks.CODES)
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(1, 40000, dtype=torch.int64)
    for i, timestep in enumerate(scheduler.timesteps[:-1]):
        theirs = scheduler.add_noise(tokens, timestep, generator)
        time = torch.tensor([1 - (i + 1) / 8])  # where the call after this one is
        ours, hidden = training.masked(tokens, time, generator)
        assert torch.equal(ours == networks.CODES, hidden)
        expected = math.sin(math.pi / 2 * float(time))
        # Four standard deviations of a binomial.
        for share in (theirs == networks.CODES, hidden):
            assert abs(float(share.float().mean()) - expected) < 4 * (expected * (1 - expected) / 40000) ** 0.5


def test_untrained_loss_is_that_of_a_guess_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    both = training.new_networks(tokenizer.get_vocab())
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(networks.CODES, (4, 64), generator=generator)
    words = CaptionTable(tokenizer).draw(torch.tensor([[1, 2, 3]] * 4), generator)[:, : networks.WORDS]
    loss = training.masked_loss(both, tokens, words, generator)
    assert float(loss.detach()) == pytest.approx(math.log(networks.CODES), abs=0.1)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in both.parameters())
    assert not {p.shape for p in hidden_matrices(both)} & {both["transformer"].embed.embeddings.weight.shape}


def test_every_position_can_be_told_apart_when_all_is_masked() -> None:
    """UVit2DModel has no position embedding: only zero padding of its convolutions tells positions apart."""
    torch.manual_seed(0)
    transformer = networks.new_transformer()
    seen = torch.ones(1, 1, networks.SIDE, networks.SIDE)
    for _ in [*transformer.down_block.res_blocks, *transformer.up_block.res_blocks]:
        seen = torch.nn.functional.conv2d(seen / seen.mean(), torch.rand(1, 1, 3, 3), padding=1)
    assert len(seen.flatten().unique()) == networks.SIDE**2


# ----------------------------------------------------------------------------------------------------------- the rest


def test_card_tells_what_was_measured() -> None:
    row = {
        "scheduler": "AmusedScheduler",
        "calls": 12,
        "guidance": 3.0,
        "pictures": 1000,
        "garment": 0.876,
        "colour": 0.95,
        "background": 1.0,
        "garment of each": {"shirt": 0.5},
        "garments taken for another": {"shirt -> coat": 50},
    }
    report = {
        "megabytes": 14.6,
        "parameters": {"vqvae": 644431, "text_encoder": 370048, "transformer": 6264256},
        "training": {"denoiser": {"steps": 1234, "batch": 128, "minutes": 30.4, "history": []}},
        "drawn": [row],
        "versions": {"torch": "2.13.0"},
    }
    text = card(report)
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "| `AmusedScheduler` | 12 | 3 | 87.6% | 95.0% | 100.0% |" in text
    assert "| denoiser | 1,234 | 128 | 30 min |" in text
    assert "6,264,256" in text
    assert "{" not in text
    assert "## Measured" not in card({**report, "drawn": []})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--stage", "tokenizer"], "Error: Stage tokenizer needs --data"),
        (["--stage", "denoiser", "--data", "nowhere.npz"], "Error: There is no Fashion-MNIST at nowhere.npz"),
        (["--stage", "measure", "--calls", "0"], "Error: --calls must be positive, got 0."),
        (["--stage", "export"], "Error: There is no denoiser.pt in"),
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
    monkeypatch.setattr(sys, "argv", ["garments_tokens", *arguments])
    with pytest.raises(SystemExit) as exit_:
        recipe.main()
    assert exit_.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed
    assert "Traceback" not in printed


def test_no_autoencoder_to_start_from_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no autoencoder in .* make garments first"):
        networks.start_from_autoencoder(networks.new_vqvae(), tmp_path)


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


@pytest.mark.slow
def test_smoke_run_makes_a_folder_that_plain_diffusers_loads(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx")
    shutil.copytree(MODELS / "garments" / "vae", tmp_path / "models" / "garments" / "vae")
    shutil.copytree(MODELS / "garments-judge", tmp_path / "models" / "garments-judge")
    command = [sys.executable, "-m", "fewstep.assets.recipes.garments_tokens", "--data", "idx", "--out", "models"]
    subprocess.run([*command, "--smoke"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "work-garments-tokens" / "measure.json").read_text())
    assert [row["scheduler"] for row in report["drawn"]] == [s.scheduler for s in settings((2,), 3.0)]
    assert all(row["pictures"] == 10 for row in report["drawn"])
    assert 0 < report["tokens of test images"]["bits a token"] <= 9
    assert set(report["training"]) == {"tokenizer", "denoiser"}
    folder = tmp_path / "models" / "garments-tokens"
    assert report["megabytes"] < 16
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    from diffusers import AmusedPipeline, UVit2DModel

    pipeline = AmusedPipeline.from_pretrained(folder, local_files_only=True)
    assert isinstance(pipeline.transformer, UVit2DModel)
    assert pipeline.tokenizer.model_max_length == networks.WORDS
    with pytest.raises(ValueError, match="makes 2 calls a step; 3 is no multiple"):
        draw(load_pipeline(folder, "DiscreteThetaScheduler"), ["a red bag"], 3, 1.0, 0)
    with pytest.raises(ValueError, match="UNet2DModel is no scheduler class"):
        load_pipeline(folder, "UNet2DModel")
