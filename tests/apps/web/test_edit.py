"""Edit: the same picture on the command line and in Python; a kept inversion; masks that hold to the pixel."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from fewstep.apps.web.edit import edit, edit_request
from fewstep.apps.web.jobs import Cancelled, Job

SOURCE, TARGET = "a red sneaker on a white background", "a blue sneaker on a white background"


def asked(picture, **more):
    said = {"target": TARGET, "model": "garments-flow", "solver": "fireflow", "steps": 3, "strategy": "replace_v"}
    said |= {"inject": 1, "guidance": 2.0, "skip": 0, "mask": None, "seed": 0}
    return edit_request(picture, SOURCE, **{**said, **more})


@pytest.fixture
def half():
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    return mask


def test_the_command_and_the_python_on_the_screen_make_the_same_edit(models, sneaker, half, fewstep, tmp_path):
    made = edit(models, asked(sneaker, mask=half), None, Job("edit"))
    sneaker.save(tmp_path / "red-sneaker.png")
    half.save(tmp_path / "mask.png")
    assert fewstep(*shlex.split(made.command)[1:], "--out", "cli.png").code == 0
    theirs = Image.open(tmp_path / "cli.png")
    assert theirs.tobytes() == made.image.tobytes()
    ours, other = made.settings, json.loads(theirs.text["fewstep"])
    assert json.loads(json.dumps(ours)) == other
    names: dict = {}
    exec(made.python, names)
    assert names["picture"].tobytes() == made.image.tobytes()


def test_outside_of_the_mask_the_pixels_stay(models, sneaker, half):
    made = edit(models, asked(sneaker, mask=half), None, Job("edit"))
    assert np.array_equal(np.asarray(made.image)[:, :16], np.asarray(sneaker)[:, :16])
    assert not np.array_equal(np.asarray(made.image)[:, 16:], np.asarray(sneaker)[:, 16:])


def test_a_second_edit_of_the_picture_costs_half_or_less(models, sneaker):
    first = edit(models, asked(sneaker, guidance=1.0), None, Job("edit"))
    assert not first.reused
    again = edit(models, asked(sneaker, guidance=1.0, target="a green sneaker"), first.kept, Job("edit"))
    assert again.reused
    assert again.calls <= first.calls / 2
    fresh = edit(models, asked(sneaker, guidance=1.0, target="a green sneaker"), None, Job("edit"))
    assert again.image.tobytes() == fresh.image.tobytes()


def test_another_picture_is_inverted_anew(models, sneaker):
    kept = edit(models, asked(sneaker), None, Job("edit")).kept
    other = sneaker.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not edit(models, asked(other), kept, Job("edit")).reused
    assert asked(sneaker).key != asked(sneaker, skip=1).key


def test_flowedit_has_a_command_and_python_too(models, sneaker, fewstep, tmp_path):
    made = edit(models, asked(sneaker, solver="flowedit", steps=4), None, Job("edit"))
    assert made.kept is None
    sneaker.save(tmp_path / "red-sneaker.png")
    assert fewstep(*shlex.split(made.command)[1:], "--out", "cli.png").code == 0
    assert Image.open(tmp_path / "cli.png").tobytes() == made.image.tobytes()
    names: dict = {}
    exec(made.python, names)
    assert names["picture"].tobytes() == made.image.tobytes()


def test_a_cancel_ends_the_inversion(models, sneaker):
    job = Job("edit")
    steps, step = [], job.step

    def cancelling(done, total, *rest):
        steps.append(done)
        job.cancel()
        step(done, total, *rest)

    job.step = cancelling
    with pytest.raises(Cancelled):
        edit(models, asked(sneaker), None, job)
    assert steps == [1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"target": " "}, "is empty"),
        ({"solver": "firefly"}, "did you mean 'fireflow'"),
        ({"inject": 9}, "injection must be"),
        ({"skip": 3}, "skip must be"),
        ({"strategy": "replace_x"}, "unknown strategy"),
        ({"model": "verses"}, "unknown model"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_a_sentence(models, sneaker, more, said):
    with pytest.raises(ValueError, match=said):
        edit(models, asked(sneaker, **more), None, Job("edit"))
    with pytest.raises(ValueError, match="choose a picture"):
        asked(None)
