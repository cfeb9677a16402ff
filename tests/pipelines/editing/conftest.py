"""Tiny random pipelines of the three families, and a picture for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

KINDS = ("flux", "sd3", "sd")


@pytest.fixture(scope="session")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import tiny_models

    folder = tmp_path_factory.mktemp("tokens")
    torch.set_num_threads(1)
    made = {
        "flux": tiny_models.flux(folder / "flux"),
        "sd3": tiny_models.stable_diffusion_3(folder / "sd3"),
        "sd": tiny_models.stable_diffusion(folder / "sd"),
    }
    made["flux"].tokenizer_2.model_max_length = 16
    pixels = torch.from_numpy(smooth()).permute(2, 0, 1)[None] / 127.5 - 1
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():  # latents as large as noise, as trained autoencoders have them
            latents = pipe.vae.encode(pixels).latent_dist.mode()
        pipe.vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return made


@pytest.fixture(params=KINDS)
def pipe(request: pytest.FixtureRequest, pipes: dict[str, Any]) -> Any:
    """A pipeline of each family."""
    return pipes[request.param]


@pytest.fixture
def flux(pipes: dict[str, Any]) -> Any:
    return pipes["flux"]


@pytest.fixture
def sd3(pipes: dict[str, Any]) -> Any:
    return pipes["sd3"]


@pytest.fixture
def sd(pipes: dict[str, Any]) -> Any:
    return pipes["sd"]


def smooth() -> np.ndarray:
    """(32, 32, 3) uint8."""
    y, x = np.mgrid[0:32, 0:32] / 31
    return np.rint(255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)


@pytest.fixture
def picture() -> np.ndarray:
    """(32, 32, 3) uint8: smooth colours."""
    return smooth()
