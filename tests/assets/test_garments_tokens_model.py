"""The folder of token pictures that ships: its files, that plain diffusers loads it, and that it draws as told."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import fewstep.assets
from fewstep.assets.recipes.garments import prompts
from fewstep.assets.recipes.garments_data import colourise
from fewstep.assets.recipes.garments_tokens_measure import draw, load_pipeline
from fewstep.assets.recipes.garments_tokens_training import tokens_of
from fewstep.eval.judge import Judge

MODELS = Path(fewstep.assets.__file__).parent / "models"
FOLDER = MODELS / "garments-tokens"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_pipeline(FOLDER)


def parts(pipeline: Any) -> dict[str, Any]:
    """The components, with a scheduler of their own: the inpainting pipeline edits its configuration."""
    return {**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler)}


# ---------------------------------------------------------------------------------------------------------- the files


def test_folder_is_small_and_holds_only_harmless_files() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert sum(file.stat().st_size for file in files) < 16e6
    assert (FOLDER / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_no_file_says_where_it_was_made() -> None:
    for file in FOLDER.rglob("*"):
        if file.suffix in {".json", ".txt", ".md"}:
            text = file.read_text(encoding="utf-8")
            assert "_name_or_path" not in text, file
            if file.name not in {"tokenizer.json", "vocab.json", "merges.txt"}:
                assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|mnt|Users)\b", text), file


def test_weights_are_half_precision_and_finite() -> None:
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(key)
                assert tensor.dtype in (torch.float16, torch.int64), key
                assert bool(tensor.isfinite().all()), key


def test_index_names_only_stock_classes() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "AmusedPipeline"
    assert {name: tuple(value) for name, value in index.items() if isinstance(value, list)} == {
        "scheduler": ("diffusers", "AmusedScheduler"),
        "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "transformer": ("diffusers", "UVit2DModel"),
        "vqvae": ("diffusers", "VQModel"),
    }


PLAIN = """
import sys
from diffusers import AmusedPipeline
pipeline = AmusedPipeline.from_pretrained(sys.argv[1])
kinds = {str(p.dtype) for m in (pipeline.transformer, pipeline.vqvae, pipeline.text_encoder) for p in m.parameters()}
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


# ------------------------------------------------------------------------------------------------------- the pipelines


def test_schedulers_swapped_in_keep_mask_and_schedule() -> None:
    for name, calls in (("DiscreteThetaScheduler", 2), ("DiscreteAdamsBashforthScheduler", 1)):
        scheduler = load_pipeline(FOLDER, name).scheduler
        assert scheduler.config.mask_token_id == 512
        assert scheduler.config.masking_schedule == "cosine"
        assert scheduler.order == calls


@pytest.mark.parametrize("name", ["AmusedScheduler", "DiscreteAdamsBashforthScheduler", "DiscreteThetaScheduler"])
def test_image_to_image_and_inpainting_run_and_keep_what_they_should(name: str) -> None:
    from diffusers import AmusedImg2ImgPipeline, AmusedInpaintPipeline

    pipeline = load_pipeline(FOLDER, name)
    grey = torch.zeros(1, 28, 28, dtype=torch.uint8)
    grey[:, 8:26, 5:23] = 190
    picture = colourise(grey, torch.tensor([0]), torch.tensor([0]))[0]
    image = Image.fromarray(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    arguments: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 3.0}
    arguments["generator"] = torch.Generator().manual_seed(0)
    again: Any = AmusedImg2ImgPipeline(**parts(pipeline))
    again.set_progress_bar_config(disable=True)
    tokens = again("a red bag", image, strength=0.5, **arguments).images
    assert tokens.shape == (1, 8, 8)
    assert int(tokens.max()) < 512, "no mask is left"
    known = tokens_of(pipeline.vqvae, picture[None]).view(1, 8, 8)
    assert float((tokens == known).float().mean()) > 0.1, "half of the noise leaves some tokens as they were"
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    inpaint: Any = AmusedInpaintPipeline(**parts(pipeline))
    inpaint.set_progress_bar_config(disable=True)
    hole = Image.fromarray((mask * 255).byte().numpy())
    tokens = inpaint("a red bag", image, hole, strength=1.0, **arguments).images
    assert torch.equal(tokens[:, :, :4], known[:, :, :4])
    assert int(tokens.max()) < 512


@pytest.mark.parametrize("name", ["AmusedScheduler", "DiscreteAdamsBashforthScheduler"])
def test_it_draws_what_the_judge_was_told_to_expect(name: str) -> None:
    texts, labels = prompts(40)
    pictures = draw(load_pipeline(FOLDER, name), texts, 12, 3.0, seed=0)
    judge = Judge.from_pretrained(MODELS / "garments-judge")
    answers = judge.answers(pictures)
    found = {question: int((answers[question] == labels[:, i]).sum()) for i, question in enumerate(judge.labels)}
    assert found["garment"] >= 28, found
    assert found["colour"] >= 32, found
    assert found["background"] >= 32, found


def test_pictures_come_back_from_their_tokens(pipeline: Any) -> None:
    grey = torch.zeros(2, 28, 28, dtype=torch.uint8)
    grey[0, 12:24, 4:24] = 190
    grey[1, 2:8, 9:19] = grey[1, 8:26, 9:13] = grey[1, 8:26, 15:19] = 150
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(10), torch.arange(5))
    pictures = colourise(grey[grid[:, 0]], grid[:, 1], grid[:, 2])
    tokens = tokens_of(pipeline.vqvae, pictures).view(100, 8, 8)
    assert len(tokens.unique()) > 100
    with torch.inference_mode():
        drawn = pipeline.vqvae.decode(tokens, force_not_quantize=True, shape=(100, 8, 8, 4)).sample.clamp(0, 1)
    psnr = 10 * torch.log10(4 / (2 * drawn - 1 - pictures).square().mean())
    assert float(psnr) > 18, "synthetic outlines are harder than garments"


def test_words_matter(pipeline: Any) -> None:
    arguments: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt", "guidance_scale": 3.0}
    bag, boot = (
        pipeline(f"a red {name}", generator=torch.Generator().manual_seed(3), **arguments).images
        for name in ("bag", "boot")
    )
    again = pipeline("a red bag", generator=torch.Generator().manual_seed(3), **arguments).images
    assert torch.equal(bag, again)
    assert float((bag - boot).abs().mean()) > 0.02
