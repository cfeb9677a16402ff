"""Figures of edits against their formulas written out, against torchmetrics, and against transformers' own models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import save_tiny_clip
from transformers import CLIPModel, CLIPProcessor, ViTConfig, ViTModel

from fewstep.assets.recipes.garments_data import BACKGROUNDS, colourise
from fewstep.eval.editing_edits import Edit
from fewstep.eval.editing_garments import found_mask, garments_judge, painted_mask
from fewstep.eval.editing_measures import (
    ClipSimilarity,
    dino_places,
    judge_places,
    judged,
    outside,
    structure_distance,
)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_structure_distance_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    for row in range(2):
        total = 0.0
        for i in range(5):
            for j in range(5):
                cosines = [
                    float(x[row, i] @ x[row, j] / np.sqrt(float(x[row, i] @ x[row, i]) * float(x[row, j] @ x[row, j])))
                    for x in (a, b)
                ]
                total += (cosines[0] - cosines[1]) ** 2 / 25
        assert float(structure_distance(a, b)[row]) == pytest.approx(total, rel=1e-10)
    scale = 1 + torch.rand(2, 5, 1, generator=generator, dtype=torch.float64)
    assert structure_distance(a, scale * a).abs().max() < 1e-20  # lengths of features do not count


def test_the_judges_places_are_those_before_its_last_halving(pictures: torch.Tensor) -> None:
    judge = garments_judge()
    places = judge_places(judge)(pictures)
    assert places.shape == (3, 8 * 8, judge.widths[-2])
    rest = judge.body[4 * (len(judge.widths) - 1) :]
    with torch.no_grad():
        maps = rest(places.transpose(1, 2).reshape(3, -1, 8, 8))
        features = judge.neck(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
        assert torch.allclose(features, judge.features(2 * pictures - 1), atol=1e-5)


def test_places_of_a_vision_transformer_are_the_keys_of_its_last_attention(
    pictures: torch.Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=224, patch_size=56
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "dino")
    places = dino_places(tmp_path / "dino", "cpu")(pictures)
    scaled = torch.nn.functional.interpolate(pictures, (224, 224), mode="bilinear", antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        states = model(
            pixel_values=(scaled - mean[:, None, None]) / deviation[:, None, None], output_hidden_states=True
        ).hidden_states
        named = dict(model.named_modules())
        norm = next(module for name, module in named.items() if "1" in name and name.endswith("layernorm_before"))
        key = next(
            module for name, module in named.items() if "1" in name and name.rsplit(".", 1)[-1] in ("key", "k_proj")
        )
        expected = key(norm(states[1]))
    assert places.shape == (3, 1 + 4 * 4, 16)
    assert torch.allclose(places, expected, atol=1e-5)
    with pytest.raises(FileNotFoundError, match="no folder"):
        dino_places(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no vision transformer"):
        dino_places(tmp_path / "empty")


def test_outside_of_a_region_only_what_is_there_counts(pictures: torch.Tensor) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    region = np.zeros((32, 32), np.float32)
    region[:, :20] = 1
    changed = pictures.clone()
    changed[:, :, :, :20] = 0.3
    changed[:, :, :, 20:] += 0.05
    found = outside(changed, pictures, [region, None, np.ones((32, 32), np.float32)])
    black = [values[:1] * torch.from_numpy(1 - region) for values in (changed, pictures)]
    assert found["psnr_outside"][0] == pytest.approx(float(peak_signal_noise_ratio(*black, data_range=1.0)), abs=1e-4)
    alike = structural_similarity_index_measure(*black, data_range=1.0)
    assert found["ssim_outside"][0] == pytest.approx(float(alike), abs=1e-5)
    # a shift of 0.05 on 12 of 32 columns: the mean squared error is that part of 0.0025
    assert found["psnr_outside"][0] == pytest.approx(-10 * np.log10(0.0025 * 12 / 32), abs=1e-3)
    assert np.isnan(found["psnr_outside"][1:]).all()
    assert np.isnan(found["ssim_outside"][1:]).all()


def test_clip_similarity_is_that_of_transformers(pictures: torch.Tensor, tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    texts = ["a red boot", "a bag", "x"]
    found = ClipSimilarity(folder, "cpu").of(pictures, texts)
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    images = [(picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for picture in pictures]
    with torch.no_grad():
        out = model(**processor(text=texts, images=images, return_tensors="pt", padding=True))
        cosines = (out.image_embeds * out.text_embeds).sum(1)
    assert np.allclose(found, 100 * cosines.clamp(min=0).numpy(), atol=1e-2)


def test_the_judge_says_what_is_reached_and_what_is_kept() -> None:
    judge = garments_judge()
    grey = torch.zeros(1, 28, 28)
    grey[:, 6:22, 4:24] = 0.7
    label = {"colour": torch.tensor([0]), "background": torch.tensor([0])}
    before = colourise(grey, **label) / 2 + 0.5
    after = colourise(grey, torch.tensor([5]), torch.tensor([0])) / 2 + 0.5
    wanted = {"colour": judge.labels["colour"].index("blue")}
    edit = Edit(before[0].permute(1, 2, 0).numpy(), "", "", "colour", None, wanted, ("background",))
    assert {name: values.tolist() for name, values in judged(judge, after, before, [edit]).items()} == {
        "reached": [1.0],
        "kept": [1.0],
        "both": [1.0],
    }
    ground = colourise(grey, torch.tensor([5]), torch.tensor([1])) / 2 + 0.5
    assert judged(judge, ground, before, [edit])["kept"].tolist() == [0.0]
    assert judged(judge, before, before, [edit])["both"].tolist() == [0.0]


def test_the_mask_of_a_painting_is_what_hides_the_ground() -> None:
    generator = torch.Generator().manual_seed(2)
    grey = torch.rand(2, 28, 28, generator=generator) * (torch.rand(2, 28, 28, generator=generator) > 0.7)
    mask = painted_mask(grey)
    colour = torch.tensor([3, 8])
    mint, beige = (colourise(grey, colour, torch.tensor([k, k])) / 2 + 0.5 for k in (4, 2))
    grounds = [torch.tensor(list(BACKGROUNDS.values())[k])[:, None, None] for k in (4, 2)]
    assert torch.allclose(mint - beige, (1 - mask[:, None]) * (grounds[0] - grounds[1]), atol=1e-5)
    found = found_mask(mint)
    assert ((found > 0.5) == (mask > 0.5)).float().mean() > 0.95
