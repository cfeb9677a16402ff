"""The recipe of garments-flow: its tokenizer, networks and batches, and the whole recipe for a few steps."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from scipy import stats
from torch import nn

import fewstep.assets
from fewstep.assets.recipes import garments_flow
from fewstep.assets.recipes import garments_flow_networks as networks_file
from fewstep.assets.recipes import garments_flow_training as training_file
from fewstep.assets.recipes.garments_data import captions
from fewstep.assets.recipes.garments_flow_export import draw, new_pipeline

MODELS = Path(fewstep.assets.__file__).parent / "models"


@pytest.fixture(scope="module")
def parts() -> tuple[nn.ModuleDict, Any, Any]:
    return networks_file.new_networks(seed=0)


@pytest.fixture(scope="module")
def table(parts: tuple[nn.ModuleDict, Any, Any]) -> training_file.PhraseTable:
    return training_file.PhraseTable(parts[1], parts[2])


@pytest.fixture
def awake(parts: tuple[nn.ModuleDict, Any, Any]) -> Any:
    """A transformer whose modulations and output are not zero, so that its velocities are not."""
    transformer = networks_file.new_transformer()
    torch.manual_seed(3)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return transformer.eval()


def some_inputs(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, words, pooled = (
        torch.randn(shape, generator=generator) for shape in ((count, 16, 16), (count, 16, 128), (count, 128))
    )
    return x, torch.linspace(0.1, 0.9, count), words, pooled


# ---------------------------------------------------------------------------------------------------------- tokenizer


def test_every_caption_fits_and_its_words_are_single_tokens(parts: tuple[nn.ModuleDict, Any, Any]) -> None:
    tokenizer = parts[2]
    for label in itertools.product(range(10), range(10), range(5)):
        texts = [text for text, _ in captions(*label)]
        for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(ids)
            assert len(tokens) <= networks_file.WORDS
            assert tokens[-1] == "</s>"
            assert all(token.startswith("▁") and len(token) > 1 for token in tokens[:-1]), (text, tokens)


def test_tokenizer_is_the_same_after_saving_and_overlooks_capitals_and_accents(
    parts: tuple[nn.ModuleDict, Any, Any], tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = parts[2]
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path, local_files_only=True)
    for text in ("a red boot", "A Réd T-SHIRT, on beige!", "zebra 12 ☃", ""):
        assert again(text).input_ids == tokenizer(text).input_ids
    assert again("A Réd Boot").input_ids == tokenizer("a red boot").input_ids
    assert tokenizer.convert_ids_to_tokens(again("xyz").input_ids) == ["▁", "x", "y", "z", "</s>"]
    assert again(["red"], padding="max_length", max_length=4).input_ids[0][-2:] == [0, 0]


def test_tokens_that_no_caption_uses_say_nothing(parts: tuple[nn.ModuleDict, Any, Any], table: Any) -> None:
    embedding = nn.Embedding(len(parts[2]), 8)
    before = embedding.weight.detach().clone()
    networks_file.silence_unused(embedding, table.t5)
    red, q = (parts[2].convert_tokens_to_ids(token) for token in ("▁red", "q"))
    assert torch.equal(embedding.weight[red], before[red])
    assert not bool(embedding.weight[q].any())


def test_words_encoder_reads_back_what_it_saved(parts: tuple[nn.ModuleDict, Any, Any], tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    encoder: Any = parts[0]["text_encoder_2"]
    encoder.save_pretrained(tmp_path)
    again = T5EncoderModel.from_pretrained(tmp_path, local_files_only=True)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids)[0], encoder.eval()(ids)[0])
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in encoder.parameters())


# ----------------------------------------------------------------------------------------------------------- networks


def test_new_transformer_starts_with_velocity_zero_and_fits_the_size(parts: tuple[nn.ModuleDict, Any, Any]) -> None:
    x, sigma, words, pooled = some_inputs()
    assert float(networks_file.velocity(parts[0]["transformer"], x, sigma, words, pooled).abs().max()) == 0
    count = sum(p.numel() for p in parts[0].parameters())
    count += sum(p.numel() for p in AutoencoderKL.from_pretrained(MODELS / "garments" / "vae").parameters())
    assert 2 * count < 15.9e6, "bytes in float16"


def test_with_guidance_says_the_same_at_every_scale(awake: Any) -> None:
    x, sigma, words, pooled = some_inputs()
    distilled = networks_file.with_guidance(awake).eval()
    expected = networks_file.velocity(awake, x, sigma, words, pooled)
    for scale in (1.0, 3.5):
        found = networks_file.velocity(distilled, x, sigma, words, pooled, torch.full((3,), scale))
        torch.testing.assert_close(found, expected)


def test_velocity_is_what_the_pipeline_integrates(parts: tuple[nn.ModuleDict, Any, Any], awake: Any) -> None:
    networks = nn.ModuleDict({**parts[0], "transformer": awake}).eval()
    cache = {"shift": torch.tensor(0.0), "scale": torch.tensor(1.0)}
    autoencoder = AutoencoderKL.from_pretrained(MODELS / "garments" / "vae")
    pipeline = new_pipeline(networks, parts[1], parts[2], autoencoder, cache)
    noise = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(5))
    text = "a red boot"
    with torch.no_grad():
        found = pipeline(
            text,
            height=32,
            width=32,
            num_inference_steps=1,
            latents=noise,
            max_sequence_length=16,
            output_type="latent",
        ).images
        table = training_file.PhraseTable(parts[1], parts[2])
        clip = parts[1]([text], padding="max_length", max_length=16, return_tensors="pt").input_ids
        phrase = (table.clip == clip).all(1).nonzero()[0]
        words, pooled = table.encode(networks, phrase, 16)
        # One Euler step from sigma 1 to 0.
        expected = noise - networks_file.velocity(awake, noise, torch.ones(1), words, pooled)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert float((found - noise).abs().max()) > 0.01


def test_times_stay_exact_under_bfloat16(awake: Any) -> None:
    seen = []
    awake.time_text_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().float()))
    x, _, words, pooled = some_inputs()
    sigma = torch.tensor([0.9985, 0.7531, 0.0123])
    for keep in (False, True):
        if keep:
            networks_file.keep_times_exact(awake)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            networks_file.velocity(awake, x, sigma, words, pooled)
    assert float((seen[0] - 1000 * sigma).abs().max()) > 0.5, "bfloat16 rounds the times"
    torch.testing.assert_close(seen[1], 1000 * sigma)


# ------------------------------------------------------------------------------------------------------------ batches


def test_packed_latents_are_unpacked_by_the_pipeline() -> None:
    latents = 3 + 2 * torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    content = training_file.packed(latents, torch.zeros(5, 3, dtype=torch.uint8))
    assert content["tokens"].shape == (5, 16, 16)
    assert abs(float(content["tokens"].float().mean())) < 1e-2
    back = FluxPipeline._unpack_latents(content["tokens"].float(), 32, 32, 4) / content["scale"] + content["shift"]
    torch.testing.assert_close(back, latents, atol=5e-3, rtol=1e-2)


def test_batches_lie_on_straight_paths_from_the_data(table: Any) -> None:
    latents = torch.randn(7, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[i, i, i % 5] for i in range(7)], dtype=torch.uint8)
    cache = training_file.packed(latents, labels)
    batches = training_file.Batches(cache, table, 256)
    x, sigma, direction, phrases, length = batches.draw(torch.Generator().manual_seed(0))
    assert len(x) == len(phrases) == max(2, 256 * 32 // (16 + length))
    ends = x - sigma[:, None, None] * direction
    distances = (ends[:, None] - cache["tokens"].float()[None]).abs().amax((2, 3))
    assert float(distances.min(1).values.max()) < 1e-4, "every path ends in a picture"
    noise = (x + (1 - sigma[:, None, None]) * direction).double().flatten()
    assert abs(float(noise.mean())) < 4 / len(noise) ** 0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / len(noise)) ** 0.5


def test_noise_levels_follow_their_law() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.cat([training_file.noise_levels(256, generator) for _ in range(40)]).numpy()

    def law(sigma: np.ndarray) -> np.ndarray:
        return 0.3 * sigma + 0.7 * stats.norm.cdf(np.log(sigma / (1 - sigma)))

    assert levels.min() > 0
    assert levels.max() < 1
    assert stats.kstest(levels, law).statistic < 0.02


def test_table_draws_captions_of_its_labels_and_drops_a_tenth(
    table: Any, parts: tuple[nn.ModuleDict, Any, Any]
) -> None:
    label = (5, 3, 2)
    phrases = table.draw(torch.tensor([label]).repeat(2000, 1), torch.Generator().manual_seed(0))
    allowed = {tuple(parts[2](text).input_ids) for text, _ in captions(*label)} | {(1,)}
    drawn = Counter(tuple(i for i in row if i) for row in table.t5[phrases].tolist())
    assert set(drawn) <= allowed
    assert abs(drawn[(1,)] / 2000 - 0.1) < 4 * (0.09 / 2000) ** 0.5


def test_longer_padding_is_that_of_the_pipeline(table: Any, parts: tuple[nn.ModuleDict, Any, Any]) -> None:
    networks, _, t5 = parts
    text = "a red boot"
    short = t5([text], padding="max_length", max_length=16, return_tensors="pt").input_ids
    phrase = (table.t5 == short).all(1).nonzero()[0]
    with torch.no_grad():
        found, _ = table.encode(networks, phrase, 32)
        ids = t5([text], padding="max_length", max_length=32, return_tensors="pt").input_ids
        torch.testing.assert_close(found, networks["text_encoder_2"](ids)[0])


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Error: Stage all needs --data"),
        (["--stage", "latents"], "Error: Stage latents needs --data"),
        (["--stage", "latents", "--data", "nowhere.npz"], "Error: There is no autoencoder in models/garments/vae"),
        (["--stage", "denoiser"], "Error: There is no latents.pt in"),
        (["--stage", "guidance"], "Error: There is no denoiser.pt in"),
        (["--stage", "export"], "Error: There is no autoencoder in"),
        (["--stage", "measure", "--calls", "0"], "Error: --calls must be positive, got 0."),
        (["--stage", "measure"], "Error: There is no garments-flow in"),
        (["--stage", "card"], "Error: There is no report at"),
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
    monkeypatch.setattr(sys, "argv", ["garments_flow", *arguments])
    with pytest.raises(SystemExit) as exit_:
        garments_flow.main()
    assert exit_.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_smoke_run_makes_a_folder_that_plain_diffusers_loads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.zeros((64, 28, 28), np.uint8)
    x[:, 6:22, 8:20] = rng.integers(40, 255, (64, 16, 12))
    y = (np.arange(64) % 10).astype(np.int64)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:0], y_test=y[:0])
    for part in ("garments/vae", "garments-judge"):
        shutil.copytree(MODELS / part, tmp_path / "models" / part)
    command = [sys.executable, "-m", "fewstep.assets.recipes.garments_flow", "--data", "data.npz", "--out", "models"]
    subprocess.run([*command, "--smoke"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "work-garments-flow" / "measure.json").read_text())
    assert report["pictures"] == 10
    assert report["guidance distilled"] is True
    folder = tmp_path / "models" / "garments-flow"
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 16e6
    pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True)
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == pipeline.text_encoder_2.dtype == torch.float32
    assert pipeline.transformer.config.guidance_embeds
    pictures = draw(pipeline, ["a red coat", "a teal bag"], steps=1, guidance=3.5)
    assert pictures.shape == (2, 3, 32, 32)
    weights = AutoencoderKL.from_pretrained(MODELS / "garments" / "vae").state_dict()
    for key, value in pipeline.vae.state_dict().items():
        assert torch.equal(value, weights[key]), "the autoencoder of garments, as it is"
    assert draw(pipeline, ["a red coat"], steps=1, true_cfg=2.0).shape == (1, 3, 32, 32)
