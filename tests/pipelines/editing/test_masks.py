"""Masks of every kind mean the same, and none of their white is lost in the latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.pipelines.editing.frames import Frame
from fewstep.pipelines.editing.masks import latent_mask, read_mask


@pytest.fixture
def drawn() -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[3:11, 5:9] = True
    return mask


def test_masks_of_every_kind_are_the_same(drawn: np.ndarray, tmp_path: Path) -> None:
    levels = np.where(drawn, 255, 0).astype(np.uint8)
    strokes = np.zeros((20, 30, 4), np.uint8)
    strokes[drawn] = 255  # white strokes on a transparent layer
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.fromarray(levels).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(levels).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(strokes).save(tmp_path / "layer.png")
    Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / "labels.png")
    files = [tmp_path / f"{name}.png" for name in ("grey", "bits", "colour", "layer", "labels")]
    for source in [drawn, levels, drawn.astype(int), drawn.astype(float), Image.fromarray(levels), *files]:
        assert np.allclose(read_mask(source, (30, 20)), drawn, atol=1e-6)


def test_grey_is_between() -> None:
    mask = read_mask(np.full((4, 4), 51, np.uint8), (4, 4))
    assert np.allclose(mask, 0.2)


def test_bad_masks_are_refused(drawn: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"30x20 pixels and the picture 20x30"):
        read_mask(drawn, (20, 30))
    with pytest.raises(ValueError, match="black everywhere"):
        read_mask(np.zeros((4, 4)), (4, 4))
    with pytest.raises(FileNotFoundError, match="no mask"):
        read_mask(tmp_path / "none.png", (4, 4))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a picture"):
        read_mask(tmp_path / "text.png", (4, 4))


def test_a_cell_is_white_where_one_of_its_pixels_is() -> None:
    mask = np.zeros((16, 16), np.float32)
    mask[5, 9] = 1
    cells = latent_mask(mask, Frame((16, 16), (16, 16), (16, 16)), (4, 4))
    assert cells.shape == (1, 1, 4, 4)
    assert cells[0, 0, 1, 2] == 1
    assert cells.sum() == 1


def test_padding_is_kept() -> None:
    frame = Frame.fit((12, 16), 16, 256, "own")
    assert frame.padded == (16, 16)
    cells = latent_mask(np.ones((16, 12), np.float32), frame, (8, 8))
    assert (cells[0, 0, :, 0] == 0).all()
    assert (cells[0, 0, :, 1:7] == 1).all()
