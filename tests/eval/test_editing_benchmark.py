"""`fewstep benchmark --task editing` with a folder laid out as PIE-Bench and a Flux pipeline with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import save_tiny_clip
from transformers import ViTConfig, ViTModel

from fewstep.eval.editing_contenders import PUBLISHED
from fewstep.eval.editing_pie import SIDE, PieBench, decode_mask, is_pie_bench
from fewstep.eval.editing_run import EditingOptions
from fewstep.eval.tasks import run

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))

SQUARE = [value for y in range(100, 200) for value in (y * SIDE + 50, 300)]


@pytest.fixture(scope="module")
def pie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three edits as the folder of PIE-Bench holds them."""
    folder = tmp_path_factory.mktemp("pie")
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    values = np.rint(255 * np.stack([x, y, (x + y) / 2], axis=2)).astype(np.uint8)
    places = ("0_random_140/000000000000.jpg", "1_change_object_80/1_artificial/1_animal/111000000000.jpg")
    mapping: dict[str, Any] = {}
    for k, place in enumerate((*places, "6_change_attribute_color_40/1_artificial/611000000001.jpg")):
        path = folder / "annotation_images" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(values, 100 * k, axis=1)).save(path, quality=95)
        mapping[path.stem] = {
            "image_path": place,
            "original_prompt": "a [red] boot on grass",
            "editing_prompt": "a [blue] boot on grass",
            "editing_instruction": "make the boot blue",
            "editing_type_id": "016"[k],
            "blended_word": "boot boot",
            "mask": SQUARE,
        }
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_models

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    pipe = tiny_models.flux(folder / "tokens")
    pipe.tokenizer_2.model_max_length = 16
    pipe.transformer.register_to_config(sample_size=8)
    pipe.save_pretrained(folder / "flux")
    return folder / "flux"


def options(pie: Path, flux: Path, out: Path, **more: Any) -> EditingOptions:
    given = {"model": str(flux), "data": str(pie), "out": str(out), "count": 3, "batch": 2, "device": "cpu"}
    return EditingOptions(**{**given, **more})


def test_masks_are_pairs_of_first_pixel_and_number() -> None:
    mask = decode_mask(SQUARE)
    assert (mask[100:200, 50:350] == 1).all()
    assert mask[1:100, 1:-1].sum() == mask[200:-1, 1:-1].sum() == 0
    assert all(edge.all() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert decode_mask([SIDE * SIDE - 2, 50])[1:-1, 1:-1].sum() == 0  # cut at the last pixel
    for wrong in ([5], [-1, 3], [0, -2], ["a", 1]):
        with pytest.raises(ValueError):
            decode_mask(wrong)


def test_a_folder_is_read_as_it_is_published(pie: Path, tmp_path: Path) -> None:
    assert is_pie_bench(pie)
    assert not is_pie_bench(tmp_path)
    edits = PieBench(pie)
    first, second, third = edits.edits(range(3))
    assert (first.source, first.target) == ("a red boot on grass", "a blue boot on grass")
    assert [edit.kind for edit in (first, second, third)] == ["random", "change object", "change colour"]
    assert (first.region == decode_mask(SQUARE)).all()
    theirs = np.asarray(Image.open(pie / "annotation_images" / "0_random_140" / "000000000000.jpg"))
    assert np.abs(first.picture * 255 - theirs).max() < 1e-3


def broken(pie: Path, folder: Path, change: Any) -> Path:
    mapping = json.loads((pie / "mapping_file.json").read_text())
    change(mapping)
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    (folder / "annotation_images").symlink_to(pie / "annotation_images")
    return folder


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (lambda m: m.clear(), ValueError, "holds no edits"),
        (lambda m: m["000000000000"].pop("mask"), ValueError, "has no mask"),
        (lambda m: m["000000000000"].update(mask="0 5"), ValueError, "is not what PIE-Bench holds"),
        (lambda m: m["000000000000"].update(mask=[1, 2, 3]), ValueError, "cannot be read: a mask is a list of pairs"),
        (lambda m: m["000000000000"].update(image_path="../x.jpg"), ValueError, "outside of the folder"),
        (lambda m: m["000000000000"].update(image_path="none.jpg"), FileNotFoundError, "1 of 3 pictures are not in"),
    ],
)
def test_a_damaged_folder_is_one_sentence(pie: Path, tmp_path: Path, change: Any, kind: Any, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        PieBench(broken(pie, tmp_path, change)).edits(range(1))


def test_the_published_table_by_one_command(pie: Path, flux: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=224, patch_size=56
    )
    ViTModel(vit, add_pooling_layer=False).save_pretrained(tmp_path / "dino")
    clip = save_tiny_clip(tmp_path / "clip")
    given = options(pie, flux, tmp_path / "run", dino=str(tmp_path / "dino"), clip=str(clip), count=2)
    outcome, _ = run(given, str(tmp_path / "pie.json"))
    assert [row["sampler"] for row in outcome.rows] == list(PUBLISHED)
    assert [row["calls"] for row in outcome.rows] == [figures[-1] for figures in PUBLISHED.values()]
    for row in outcome.rows:
        assert row["samples"] == 2
        assert row["reached"] is None
        assert 0 < row["psnr_outside"] < 60
        assert -1 <= row["ssim_outside"] <= 1
        assert row["structure"] >= 0
        assert 0 <= row["clip"] <= 100
        assert 0 <= row["clip_edited"] <= 100
    table = (tmp_path / "run" / "table.md").read_text()
    assert table.count("| published |") == len(PUBLISHED)
    assert "0.0271" in table
    assert json.loads((tmp_path / "pie.json").read_text())["settings"]["pictures"] == "PIE-Bench"


def test_a_run_goes_on_and_repeats(pie: Path, flux: Path, tmp_path: Path) -> None:
    def figures(rows: Any) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    given = {"samplers": ("fireflow none", "flowedit"), "nfe": (8,)}
    late, _ = run(options(pie, flux, tmp_path / "a", limit_time=0, **given))
    assert not late.complete
    whole, _ = run(options(pie, flux, tmp_path / "a", **given))
    again, _ = run(options(pie, flux, tmp_path / "b", **given))
    assert whole.complete
    assert figures(whole.rows) == figures(again.rows)
    assert len(whole.rows) == 2
    assert any("--dino" in note for note in whole.notes)
    few, _ = run(options(pie, flux, tmp_path / "c", **{**given, "count": 9, "samplers": ("flowedit",)}))
    assert few.rows[0]["samples"] == 3
    assert any("there are 3 edits" in note for note in few.notes)
