"""The CLIP score: a tiny CLIP of random weights, against the formula by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import save_tiny_clip
from transformers import CLIPModel, CLIPProcessor

from fewstep.eval import ClipScore, feature_network
from fewstep.eval.clip_score import load_clip

PROMPTS = ["a red boot", "a blue bag on white", "something green", "boots", "a photo of a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)


def by_hand(folder: Path, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Projected features from the parts of the model, through the processor and pictures of PIL."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        values = processor(images=[Image.fromarray(x) for x in pixels], return_tensors="pt")["pixel_values"]
        images = model.visual_projection(model.vision_model(pixel_values=values).pooler_output)
        tokens = processor(text=PROMPTS, return_tensors="pt", padding=True)
        texts = model.text_projection(model.text_model(**tokens).pooler_output)
    return images, texts


def as_images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_score_is_the_mean_cosine(folder: Path, pixels: np.ndarray) -> None:
    images, texts = by_hand(folder, pixels)
    expected = 100 * float(torch.nn.functional.cosine_similarity(images, texts).mean())
    score = ClipScore(folder, device="cpu")
    with pytest.raises(ValueError, match="no pictures"):
        score.compute()
    for part in ([0, 1], [2, 3, 4]):
        score.update(as_images(pixels[part]), [PROMPTS[i] for i in part])
    assert score.count == 5
    assert score.compute() == pytest.approx(max(expected, 0), abs=1e-3)
    assert abs(expected) > 1e-2


def test_a_long_prompt_is_cut_and_keeps_its_end_mark(folder: Path, pixels: np.ndarray) -> None:
    words = "abcdefghijklmnopqrstuvwxyz" * 3  # a token a letter; the model reads 32 with the two marks
    scores = []
    for text in (words, words[:40], words[:29] + words[29]):
        score = ClipScore(folder, device="cpu")
        score.update(as_images(pixels[:1]), [text])
        scores.append((float(score._metric.score), score.cut))
    assert scores[0][1] == scores[1][1] == 1
    assert scores[2][1] == 0
    assert scores[0][0] == pytest.approx(scores[1][0], abs=1e-4)


def test_features_are_those_of_the_model(folder: Path, pixels: np.ndarray) -> None:
    network = feature_network(f"clip:{folder}", device="cpu")
    found = network(as_images(pixels))
    torch.testing.assert_close(found, by_hand(folder, pixels)[0], atol=1e-5, rtol=1e-4)
    assert network.dim == found.shape[1] == 10
    assert "16x16" in network.resize


def test_hash_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_clip(tmp_path / "same")
    assert feature_network(f"clip:{other}").hash == feature_network(f"clip:{folder}").hash
    model = CLIPModel.from_pretrained(other)
    model.logit_scale.data += 1
    model.save_pretrained(other)
    assert feature_network(f"clip:{other}").hash != feature_network(f"clip:{folder}").hash


def test_what_is_not_here_is_a_sentence(
    folder: Path, tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no CLIP model"):
        load_clip(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_clip("./none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing --local-dir"):
        load_clip("nobody/nothing")
    with pytest.raises(ValueError, match="5 pictures and 4 prompts"):
        ClipScore(folder).update(as_images(pixels), PROMPTS[:4])
