"""FlowEdit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fewstep.pipelines import FlowEdit, flow_edit
from fewstep.pipelines.editing.inversion_free import _draw
from fewstep.pipelines.editing.models import edit_model

SOURCE, TARGET = "a red boot", "a grey bag"


def test_equal_prompts_and_guidance_return_the_picture(pipe: Any, picture: np.ndarray) -> None:
    same = FlowEdit(source_guidance=2.0, guidance=2.0, average=2)
    done = flow_edit(pipe, picture, SOURCE, SOURCE, same, steps=4, size="own")
    assert done.latent_error[0] == 0


def test_steps_are_those_of_the_algorithm(sd3: Any, picture: np.ndarray) -> None:
    """Algorithm 1 of Kulikov et al., written out."""
    settings = FlowEdit(skip=1, last=1, source_guidance=1.0, guidance=1.0)
    done = flow_edit(sd3, picture, SOURCE, TARGET, settings, steps=4, seed=3, size="own")
    model = edit_model(sd3)
    x = model.encode(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)
    levels = [node.sigma for node in model.grid(4, x).nodes]
    source, target = model.condition([SOURCE], 1.0).cond, model.condition([TARGET], 1.0).cond

    def v(z: torch.Tensor, sigma: float, told: dict[str, torch.Tensor]) -> torch.Tensor:
        return model.velocity(z, sigma, told, (32, 32), 1.0)

    z = x.clone()
    for i in (1, 2):
        z_source = (1 - levels[i]) * x + levels[i] * _draw(x, 3, i, 0, 1)
        z_target = z + z_source - x
        z = z + (levels[i + 1] - levels[i]) * (v(z_target, levels[i], target) - v(z_source, levels[i], source))
    z_source = (1 - levels[3]) * x + levels[3] * _draw(x, 3, 3, 0, 1)
    z = z + z_source - x
    z = z - levels[3] * v(z, levels[3], target)
    expected = model.decode(z, (32, 32)).numpy().transpose(0, 2, 3, 1)
    assert np.allclose(done.pixels, expected, atol=1e-5)
    assert done.calls == 5


def test_a_mask_keeps_what_is_outside(pipe: Any, picture: np.ndarray) -> None:
    mask = np.zeros((32, 32), bool)
    mask[:10] = True
    done = flow_edit(pipe, picture, SOURCE, TARGET, FlowEdit(skip=0), steps=2, mask=mask, size="own")
    out = np.asarray(done.image)
    assert (out[~mask] == picture[~mask]).all()
    assert (out[mask] != picture[mask]).any()


def test_a_picture_is_its_seed_whatever_its_batch(flux: Any, picture: np.ndarray) -> None:
    pictures = [picture, 255 - picture]
    both = flow_edit(flux, pictures, SOURCE, TARGET, steps=2, seed=5, size="own")
    alone = flow_edit(flux, pictures[1], SOURCE, TARGET, steps=2, seed=6, size="own")
    assert np.allclose(both.pixels[1], alone.pixels[0], atol=1e-5)
    other = flow_edit(flux, pictures[1], SOURCE, TARGET, steps=2, seed=7, size="own")
    assert not np.allclose(other.pixels, alone.pixels, atol=1e-5)


def test_bad_settings_are_refused(flux: Any, picture: np.ndarray) -> None:
    for wrong in ({"average": 0}, {"last": -1}, {"guidance": float("inf")}):
        with pytest.raises(ValueError, match="must be"):
            FlowEdit(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is left to edit"):
        flow_edit(flux, picture, SOURCE, TARGET, FlowEdit(skip=2), steps=2, size="own")
