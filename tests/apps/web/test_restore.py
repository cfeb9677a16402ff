"""Restore: the same picture on the command line and in Python, and honest figures beside it."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

from fewstep.apps.web.jobs import Cancelled, Job
from fewstep.apps.web.models import Models
from fewstep.apps.web.restore import AUTO, restore, restore_asked, tasks


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Folder of a pixel model of random weights."""
    import torch
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("prior") / "tiny-prior"
    DDPMPipeline(unet=unet, scheduler=DDIMScheduler()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(prior):
    return Models([prior])


@pytest.fixture
def photo():
    ramp = np.linspace(20, 230, 16)
    rgb = np.stack(
        [ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None], 128 + 0 * ramp[None] + 0 * ramp[:, None]], 2
    )
    image = Image.fromarray(rgb.astype(np.uint8))
    image.filename = "photo.png"
    return image


def asked(picture, task="sr2", **more):
    said = {"model": "tiny-prior", "sigma": 0.0, "simulate": True, "mask": None, "steps": 4, "prompt": "", "samples": 1}
    said |= {"seed": 0, "options": {}, **more}
    return restore_asked(picture, task, said.pop("method", AUTO), said.pop("entered", {}), **said)


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("sr2", {"options": {"kernel": "area"}}),
        ("denoise", {"sigma": 20.0, "samples": 2}),
        ("inpaint", {"simulate": False}),
        ("colorize", {"method": "ddnm", "entered": {"eta": 0.5}}),
    ],
)
def test_the_command_and_the_python_on_the_screen_restore_the_same(models, photo, fewstep, tmp_path, task, more):
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 9, 9))
    request = asked(photo, task, **{**more, "mask": mask if task == "inpaint" else None})
    folder = tmp_path / "page"
    folder.mkdir()
    made = restore(models, request, folder, Job("restore"))
    photo.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    said = fewstep(*shlex.split(made.command)[1:])
    assert said.code == 0, said.err
    ours, theirs = Image.open(folder / f"photo-{task}.png"), Image.open(tmp_path / f"photo-{task}.png")
    assert ours.tobytes() == theirs.tobytes()
    names: dict = {}
    exec(made.python, names)
    mean = np.mean([np.asarray(image, dtype=float) for image in names["images"]], axis=0)
    assert np.abs(mean - np.asarray(ours)).max() <= 1
    assert (made.uncertainty is not None) == (more.get("samples", 1) > 1)
    assert made.before.size == made.after.size
    assert dict(made.figures)["method"]


def test_what_is_known_stays_where_a_part_is_missing(models, photo, tmp_path):
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 9, 9))
    made = restore(models, asked(photo, "inpaint", mask=mask, simulate=False), tmp_path, Job("restore"))
    off = np.abs(np.asarray(made.after).astype(int) - np.asarray(photo))
    assert off[np.asarray(mask) == 0].max() <= 2  # the noise of 8 bits is all that may change


def test_a_cancel_ends_the_run(models, photo, tmp_path):
    job = Job("restore")
    steps, step = [], job.step

    def cancelling(done, total, *rest):
        steps.append(done)
        job.cancel()
        step(done, total, *rest)

    job.step = cancelling
    with pytest.raises(Cancelled):
        restore(models, asked(photo), tmp_path, job)
    assert steps == [1]


@pytest.mark.parametrize(
    ("task", "more", "said"),
    [
        ("inpaint", {}, "paint what is missing"),
        ("denoise", {}, "denoise needs"),
        ("motion-deblur", {"simulate": False}, "needs the kernel"),
        ("sr3", {}, "did you mean"),
        ("sr2", {"method": "ddmn"}, "did you mean"),
        ("custom", {}, "unknown task"),
        ("sr2", {"samples": 100}, "samples must be"),
    ],
)
def test_what_cannot_be_restored_is_refused_with_a_sentence(models, photo, tmp_path, task, more, said):
    with pytest.raises(ValueError, match=said):
        restore(models, asked(photo, task, **more), tmp_path, Job("restore"))


def test_code_of_others_is_no_task_of_the_page():
    assert "custom" not in tasks()


def test_a_result_for_a_whole_afternoon_is_refused(photo):
    with pytest.raises(ValueError, match="at most"):
        asked(photo.resize((600, 600)), "sr4", simulate=False)
