"""The folder that ships: what is in it, that plain diffusers loads it, and that it draws what it is told."""

from __future__ import annotations

import colorsys
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import fewstep.assets
from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, canonical_caption, colourise
from fewstep.eval.judge import Judge

MODELS = Path(fewstep.assets.__file__).parent / "models"
FOLDER = MODELS / "garments"
FOLDERS = (FOLDER, MODELS / "garments-judge")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


# ---------------------------------------------------------------------------------------------------------- the files


def test_folders_are_small_and_hold_only_harmless_files() -> None:
    for folder, most in zip(FOLDERS, (12e6, 2e6), strict=True):
        files = [file for file in folder.rglob("*") if file.is_file()]
        assert files
        assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
        assert sum(file.stat().st_size for file in files) < most
        assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_no_file_says_where_it_was_made() -> None:
    for folder in FOLDERS:
        for file in folder.rglob("*"):
            if file.suffix in {".json", ".txt", ".md"}:
                text = file.read_text(encoding="utf-8")
                assert "_name_or_path" not in text, file
                if file.name not in {"tokenizer.json", "vocab.json", "merges.txt"}:
                    assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|mnt|Users)\b", text), file


def test_weights_are_half_precision_and_finite() -> None:
    for file in [file for folder in FOLDERS for file in folder.rglob("*.safetensors")]:
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(key)
                assert tensor.dtype in (torch.float16, torch.int64), key
                assert bool(tensor.isfinite().all()), key


def test_index_names_only_stock_classes_and_no_safety_checker() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list)}
    assert parts["text_encoder"] == ("transformers", "CLIPTextModel")
    assert parts["tokenizer"] == ("transformers", "CLIPTokenizer")
    assert parts["unet"] == ("diffusers", "UNet2DConditionModel")
    assert parts["vae"] == ("diffusers", "AutoencoderKL")
    assert parts["scheduler"][0] == "diffusers"
    assert parts["safety_checker"] == parts["feature_extractor"] == (None, None)
    assert index["requires_safety_checker"] is False


PLAIN = """
import sys, warnings
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
kinds = {str(p.dtype) for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters()}
image = pipeline("a red ankle boot", num_inference_steps=2).images[0]
print(sorted(kinds), image.size, image.mode, any(name.split(".")[0] == "fewstep" for name in sys.modules))
"""


def test_plain_diffusers_loads_it_offline_in_float32_at_its_own_size() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(FOLDER)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "['torch.float32'] (32, 32) RGB False"


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "DDIMScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_schedulers_swapped_in_keep_the_noise_schedule(pipeline: Any, name: str) -> None:
    import diffusers

    scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    assert scheduler.config.beta_schedule == "scaled_linear"
    assert scheduler.config.prediction_type == "epsilon"
    assert (scheduler.config.beta_start, scheduler.config.beta_end) == (0.00085, 0.012)
    if "clip_sample" in scheduler.config:
        assert scheduler.config.clip_sample is False, "latents are not confined to [-1, 1]"


# ------------------------------------------------------------------------------------------------------ the tokenizer


def test_tokenizer_round_trip(pipeline: Any) -> None:
    tokenizer = pipeline.tokenizer
    assert tokenizer.model_max_length == 32
    text = "a red ankle boot on a white background"
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(ids) == len(text.split()) + 2, "the words of captions are one token each"
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
    assert tokenizer(text.upper()).input_ids == ids


@pytest.mark.parametrize(
    "text", ["naïve café", "靴", "ботинок", "👢👢", "\x00\x07", "xyzzy 1234567890 !?#", "İstanbul", "e\u0301", "\u200b"]
)
def test_no_text_is_unknown(pipeline: Any, text: str) -> None:
    tokenizer = pipeline.tokenizer
    inner = tokenizer(text).input_ids[1:-1]
    assert tokenizer.unk_token_id not in inner
    assert max(inner, default=0) < pipeline.text_encoder.config.vocab_size


def test_long_and_empty_prompts_are_cut_and_padded(pipeline: Any) -> None:
    with torch.inference_mode():
        for text in ("", "very " * 200 + "red bag"):
            positive, negative = pipeline.encode_prompt(text, "cpu", 1, True)
            assert positive.shape == negative.shape == (1, 32, 128)


# --------------------------------------------------------------------------------------------------------- the drawing


def silhouettes() -> torch.Tensor:
    """A bag with a handle and a pair of legs, (2, 28, 28) uint8."""
    grey = torch.zeros(2, 28, 28, dtype=torch.uint8)
    grey[0, 12:24, 4:24] = 190
    grey[0, 4:12, 9:11] = grey[0, 4:12, 17:19] = grey[0, 4:6, 9:19] = 190
    grey[1, 2:8, 9:19] = grey[1, 8:26, 9:13] = grey[1, 8:26, 15:19] = 150
    return grey


def test_autoencoder_returns_pictures_it_never_saw(pipeline: Any) -> None:
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(len(COLOURS)), torch.arange(len(BACKGROUNDS)))
    pictures = colourise(silhouettes()[grid[:, 0]], grid[:, 1], grid[:, 2])
    with torch.inference_mode():
        latents = pipeline.vae.encode(pictures).latent_dist.mean
        drawn = pipeline.vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (100, 4, 8, 8)
    assert 0.5 < float(latents.std()) * pipeline.vae.config.scaling_factor < 2
    psnr = 10 * np.log10(4 / (drawn - pictures).square().mean().item())
    assert psnr > 20, "synthetic outlines are harder than garments"


@pytest.fixture(scope="module")
def drawn(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures of every garment, all colours and backgrounds: (20, 3, 32, 32) in [-1, 1] and labels (20, 3)."""
    index = torch.arange(20)
    labels = torch.stack([index % 10, (index + index // 10 * 5) % 10, index % 5], 1)
    texts = [canonical_caption(*row) for row in labels.tolist()]
    images = pipeline(
        texts, num_inference_steps=15, guidance_scale=3.0, generator=seeds(*range(20)), output_type="pt"
    ).images
    return images * 2 - 1, labels


def test_it_draws_what_the_judge_was_told_to_expect(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    pictures, labels = drawn
    judge = Judge.from_pretrained(MODELS / "garments-judge")
    answers = judge.answers(pictures)
    found = {question: int((answers[question] == labels[:, i]).sum()) for i, question in enumerate(judge.labels)}
    assert found["garment"] >= 15, found
    assert found["colour"] >= 18, found
    assert found["background"] >= 18, found


def test_its_colours_are_right_without_asking_the_judge(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The ground is read from the top corners, the paint as the median of the pixels far from the ground."""
    pictures, labels = drawn
    hits = {"background": 0, "colour": 0}
    for picture, (_, colour, background) in zip(((pictures + 1) / 2).numpy(), labels.tolist(), strict=True):
        corner = np.concatenate([picture[:, :2, :2], picture[:, :2, -2:]], 2).reshape(3, -1).mean(1)
        distances = {name: float(np.abs(corner - np.array(value)).max()) for name, value in BACKGROUNDS.items()}
        hits["background"] += min(distances, key=lambda name: distances[name]) == list(BACKGROUNDS)[background]
        pixels = picture.reshape(3, -1).T
        garment = pixels[np.abs(pixels - corner).max(1) > 0.25]
        if len(garment) == 0:
            continue
        hue, saturation, _ = colorsys.rgb_to_hsv(*np.median(garment, 0).tolist())
        asked_hue, asked_saturation, _ = colorsys.rgb_to_hsv(*list(COLOURS.values())[colour])
        apart = min(abs(hue - asked_hue), 1 - abs(hue - asked_hue))
        hits["colour"] += saturation < 0.2 if asked_saturation < 0.1 else apart < 0.06 and saturation > 0.25
    assert hits["background"] >= 18, hits
    assert hits["colour"] >= 17, hits


def test_a_picture_depends_on_its_seed_and_not_on_its_batch_mates(pipeline: Any) -> None:
    arguments = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}
    text = f"a blue {GARMENTS[8]} on a white background"
    alone = pipeline(text, generator=seeds(7), **arguments).images
    together = pipeline([text, text], generator=seeds(8, 7), **arguments).images
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=0)
    assert float((together[0] - together[1]).abs().max()) > 0.05


def test_guidance_and_words_matter(pipeline: Any) -> None:
    arguments = {"num_inference_steps": 4, "output_type": "pt"}
    bag, boot = (
        pipeline(f"a red {name}", generator=seeds(3), guidance_scale=3.0, **arguments).images
        for name in ("bag", "boot")
    )
    unguided = pipeline("a red bag", generator=seeds(3), guidance_scale=1.0, **arguments).images
    assert float((bag - boot).abs().mean()) > 0.02
    assert float((bag - unguided).abs().mean()) > 0.005
