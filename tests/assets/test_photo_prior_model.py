"""The folder of the photograph prior that ships: its files, that plain diffusers loads it, and what it can do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import fewstep.assets
from fewstep.assets.recipes.photo_prior import denoising, new_scheduler, new_unet
from fewstep.eval.restoration_problem import drawn_pictures

FOLDER = Path(fewstep.assets.__file__).parent / "models" / "photo-prior"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the model photo-prior is not in this checkout")


@pytest.fixture(scope="module")
def unet() -> Any:
    from diffusers import DDPMPipeline

    return DDPMPipeline.from_pretrained(FOLDER).unet.eval()


def test_folder_is_small_and_holds_only_harmless_files() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md"}
    assert sum(file.stat().st_size for file in files) < 24e6
    assert (FOLDER / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_no_file_says_where_it_was_made() -> None:
    for file in FOLDER.rglob("*"):
        if file.suffix in {".json", ".md"}:
            text = file.read_text(encoding="utf-8")
            assert "_name_or_path" not in text, file
            assert not re.search(r"(?<![\w.:/])/(home|root|work|tmp|usr|mnt|Users)\b", text), file


def test_weights_are_half_precision_and_finite() -> None:
    for file in FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensor = weights.get_tensor(key)
                assert tensor.dtype == torch.float16, key
                assert bool(tensor.isfinite().all()), key


def test_index_names_only_stock_classes() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list)}
    assert parts == {"scheduler": ("diffusers", "DDPMScheduler"), "unet": ("diffusers", "UNet2DModel")}


def test_it_is_the_network_of_the_recipe(unet: Any) -> None:
    mine = {name: tuple(value.shape) for name, value in new_unet().state_dict().items()}
    assert {name: tuple(value.shape) for name, value in unet.state_dict().items()} == mine
    config = json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())
    fresh = new_scheduler().config
    for key in ("beta_schedule", "prediction_type", "timestep_spacing", "num_train_timesteps"):
        assert config[key] == fresh[key], key


PLAIN = """
import sys
from diffusers import DDPMPipeline
pipeline = DDPMPipeline.from_pretrained(sys.argv[1])
kinds = {str(p.dtype) for p in pipeline.unet.parameters()}
image = pipeline(num_inference_steps=2).images[0]
print(sorted(kinds), image.size, image.mode, any(name.split(".")[0] == "fewstep" for name in sys.modules))
"""


def test_plain_diffusers_loads_it_offline_in_float32_at_its_own_size() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(FOLDER)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "['torch.float32'] (64, 64) RGB False"


def test_it_knows_what_is_noise_and_what_is_picture(unet: Any) -> None:
    """Pictures of a formula, which it was not trained on. Noise of 50 / 255 leaves 14.2 dB, of 15 / 255 24.6 dB; means
    over 3 x 3 and over 2 x 2 pixels would bring 9.5 and 6 dB more, were the pictures flat, and they are not."""
    clean = 2 * torch.stack(drawn_pictures(3, 64)) - 1
    assert denoising(unet, clean, 50) > 14.2 + 8
    assert denoising(unet, clean, 15) > 24.6 + 4


def test_sides_may_be_any_multiple_of_eight(unet: Any) -> None:
    with torch.inference_mode():
        assert unet(torch.zeros(1, 3, 40, 72), 500).sample.shape == (1, 3, 40, 72)
