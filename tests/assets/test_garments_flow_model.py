"""The folder that ships: what is in it, that plain diffusers loads it, and that it draws what it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import fewstep.assets
from fewstep.assets.recipes.garments import measure_pictures, prompts
from fewstep.assets.recipes.garments_flow_export import draw
from fewstep.eval.judge import Judge

MODELS = Path(fewstep.assets.__file__).parent / "models"
FOLDER = MODELS / "garments-flow"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import FluxPipeline

    loaded = FluxPipeline.from_pretrained(FOLDER, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_folder_is_small_and_holds_only_harmless_files() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md"}
    assert sum(file.stat().st_size for file in files) < 16e6
    assert (FOLDER / "README.md").read_text(encoding="utf-8").startswith("---\n")
    for file in files:
        if file.suffix == ".json":
            assert "_name_or_path" not in file.read_text(encoding="utf-8"), file


def test_weights_are_half_precision_and_finite() -> None:
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(key)
                assert tensor.dtype in (torch.float16, torch.int64), key
                assert bool(tensor.isfinite().all()), key


def test_index_names_only_stock_classes() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "FluxPipeline"
    parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list) and value[0]}
    assert parts == {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "PreTrainedTokenizerFast"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }


def test_autoencoder_is_that_of_garments() -> None:
    name = Path("vae") / "diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(FOLDER / name), load_file(MODELS / "garments" / name)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_everything_loads_in_float32(pipeline: Any) -> None:
    for name in ("vae", "text_encoder", "text_encoder_2", "transformer"):
        assert getattr(pipeline, name).dtype == torch.float32, name
    assert pipeline.tokenizer_2.model_max_length == 16


def test_it_draws_what_it_is_told(pipeline: Any) -> None:
    texts, labels = prompts(100)
    distilled = bool(pipeline.transformer.config.guidance_embeds)
    # 20 calls either way.
    pictures = draw(pipeline, texts, 20, guidance=3.0) if distilled else draw(pipeline, texts, 10, true_cfg=3.0)
    found = measure_pictures(Judge.from_pretrained(MODELS / "garments-judge"), pictures, labels)
    assert found["garment"] >= 0.85
    assert found["colour"] >= 0.95
    assert found["background"] >= 0.95
