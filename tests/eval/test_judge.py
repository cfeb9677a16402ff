"""The judge: its arithmetic on a small random one, its eyesight on the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import fewstep.assets
from fewstep.assets.recipes.garments_data import BACKGROUNDS, COLOURS, GARMENTS, colourise
from fewstep.eval.judge import Judge

FOLDER = Path(fewstep.assets.__file__).parent / "models" / "garments-judge"
LABELS = {"garment": ["hat", "glove", "scarf"], "colour": ["red", "blue"]}


@pytest.fixture
def small() -> Judge:
    torch.manual_seed(0)
    return Judge(LABELS, widths=(8, 16), num_features=12, size=16).eval()


@pytest.fixture(scope="module")
def shipped() -> Judge:
    return Judge.from_pretrained(FOLDER)


def shapes() -> torch.Tensor:
    """Three grey silhouettes: a shirt with sleeves, two trouser legs, a bag with a handle. (3, 28, 28) uint8."""
    grey = torch.zeros(3, 28, 28, dtype=torch.uint8)
    grey[0, 4:24, 8:20] = 170
    grey[0, 4:10, 3:25] = 170
    grey[1, 2:8, 9:19] = 150
    grey[1, 8:26, 9:13] = 150
    grey[1, 8:26, 15:19] = 150
    grey[2, 12:24, 4:24] = 190
    grey[2, 4:12, 9:11] = 190
    grey[2, 4:12, 17:19] = 190
    grey[2, 4:6, 9:19] = 190
    return grey


def painted() -> tuple[torch.Tensor, torch.Tensor]:
    """Every shape in every colour on every background: (150, 3, 32, 32) and labels (150, 3)."""
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(len(COLOURS)), torch.arange(len(BACKGROUNDS)))
    return colourise(shapes()[grid[:, 0]], grid[:, 1], grid[:, 2]), grid


# --------------------------------------------------------------------------------------------------------- arithmetic


def test_forward_gives_logits_of_every_question(small: Judge) -> None:
    logits = small(torch.zeros(5, 3, 16, 16))
    assert {question: tuple(value.shape) for question, value in logits.items()} == {"garment": (5, 3), "colour": (5, 2)}


def test_heads_read_the_rectified_features(small: Judge) -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    features = small.features(x)
    assert features.shape == (4, 12)
    state = small.state_dict()
    by_hand = features.clamp(min=0) @ state["heads.colour.weight"].T + state["heads.colour.bias"]
    torch.testing.assert_close(small(x)["colour"], by_hand)


def test_other_sizes_are_resized_with_antialiasing(small: Judge) -> None:
    x = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    resized = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(small.features(x), small.features(resized))


def test_answers_do_not_depend_on_the_batch(small: Judge) -> None:
    x = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    whole, pieces = small.answers(x), small.answers(x, batch_size=3)
    for question, logits in small(x).items():
        assert torch.equal(whole[question], logits.argmax(1))
        assert torch.equal(whole[question], pieces[question])
    assert small.answers(x[:0])["colour"].shape == (0,)


def test_saving_rounds_to_half_and_loads_back(small: Judge, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "judge")
    again = Judge.from_pretrained(tmp_path / "judge")
    assert again.labels == small.labels
    assert not again.training
    for key, value in small.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[key], expected)
    with safe_open(tmp_path / "judge" / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert kinds == {"F16", "I64"}


def test_the_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        Judge({})
    with pytest.raises(ValueError, match="at least one question, each with at least one answer"):
        Judge({"colour": []})
    with pytest.raises(ValueError, match="size must be at least 8 for 3 widths, got 4"):
        Judge(LABELS, size=4)
    with pytest.raises(ValueError, match="must be positive"):
        Judge(LABELS, num_features=0)


def test_the_pictures_are_checked(small: Judge) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\), got \(3, 16, 16\)"):
        small.features(torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match=r"float in \[-1, 1\], got torch.uint8"):
        small.features(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        small.answers(torch.zeros(1, 3, 16, 16), batch_size=0)


def test_broken_folders_are_named(small: Judge, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Judge.from_pretrained(tmp_path)
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_features": 13}))
    with pytest.raises(ValueError, match="does not hold the weights of this judge"):
        Judge.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the configuration of a judge"):
        Judge.from_pretrained(tmp_path)


# ----------------------------------------------------------------------------------------------------------- eyesight


def test_shipped_judge_asks_the_questions_of_the_data(shipped: Judge) -> None:
    assert shipped.labels == {"garment": list(GARMENTS), "colour": list(COLOURS), "background": list(BACKGROUNDS)}
    assert 64 <= shipped.num_features <= 128


def test_shipped_judge_sees_colour_and_background_of_shapes_it_never_saw(shipped: Judge) -> None:
    pictures, grid = painted()
    answers = shipped.answers(pictures)
    assert float((answers["colour"] == grid[:, 1]).float().mean()) >= 0.95
    assert float((answers["background"] == grid[:, 2]).float().mean()) >= 0.95


def test_shipped_judge_knows_trousers_and_a_bag_by_their_outline(shipped: Judge) -> None:
    pictures, grid = painted()
    answers = shipped.answers(pictures)["garment"]
    for shape, name in ((1, "pair of trousers"), (2, "bag")):
        found = answers[grid[:, 0] == shape] == GARMENTS.index(name)
        assert float(found.float().mean()) >= 0.8, name


def test_shipped_judge_is_not_swayed_by_size(shipped: Judge) -> None:
    pictures, _ = painted()
    larger = F.interpolate(pictures, scale_factor=3, mode="nearest")
    small, large = shipped.answers(pictures), shipped.answers(larger)
    for question in shipped.labels:
        assert float((small[question] == large[question]).float().mean()) >= 0.95, question


def test_shipped_features_are_finite_and_say_something(shipped: Judge) -> None:
    pictures, _ = painted()
    with torch.inference_mode():
        features = shipped.features(pictures)
    assert bool(features.isfinite().all())
    # A feature network whose features are mostly constant makes every Fréchet distance small.
    assert float(features.std(0).median()) > 0.05
