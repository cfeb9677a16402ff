"""Draw and Compare: the command and the Python on the screen give the same pictures, and errors mean what they say."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from fewstep.apps.web.compare import References, compare, compare_request, parse_steps
from fewstep.apps.web.draw import draw, draw_request
from fewstep.apps.web.jobs import Cancelled, Job
from fewstep.apps.web.tables import comparison
from fewstep.pipelines.guidance import guidance_of

PROMPT = "a red ankle boot on a white background"


def asked(**more):
    said = {"prompt": PROMPT, "steps": 4, "count": 2, "seed": 5, **more}
    return draw_request("ghvb", {"momentum": "1.5", "weights": "moment-matched"}, **said)


def test_the_command_on_the_screen_writes_the_same_files(models, fewstep, tmp_path):
    request = asked(
        grid="karras", guidance=4.0, guidance_mode="cfg-zero", interval="0.5,inf", cache="ab:order=1,interval=2"
    )
    made = draw(models, request, Job("draw"))
    files = made.write(tmp_path / "page", PROMPT)
    words = shlex.split(made.command)
    assert words[0] == "fewstep"
    said = fewstep(*words[1:], "--out", tmp_path / "cli.png" if made.seeds == [5] else tmp_path / "cli")
    if said.code:  # several pictures need a folder
        (tmp_path / "cli").mkdir()
        said = fewstep(*words[1:], "--out", tmp_path / "cli")
    assert said.code == 0, said.err
    for file in files:
        assert (tmp_path / "cli" / file.name).read_bytes() == file.read_bytes()


def test_the_python_on_the_screen_gives_the_same_pixels(models):
    made = draw(models, asked(), Job("draw"))
    names: dict = {}
    exec(made.python, names)
    for ours, theirs in zip(made.images, names["images"], strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_downloaded_picture_holds_its_settings(models, tmp_path):
    made = draw(models, asked(count=1), Job("draw"))
    (file,) = made.write(tmp_path, PROMPT)
    inside = json.loads(Image.open(file).text["fewstep"])
    assert inside["fields"]["momentum"] == 1.5
    assert inside["seed"] == 5
    assert inside["prompt"] == PROMPT


def test_guidance_of_one_run_does_not_stay_for_the_next(models):
    plain = draw(models, asked(count=1), Job("draw")).images[0]
    draw(models, asked(count=1, interval="1,inf"), Job("draw"))
    assert guidance_of(models.get("garments", "draw")) is None
    again = draw(models, asked(count=1), Job("draw")).images[0]
    assert plain.tobytes() == again.tobytes()


def test_a_cancelled_run_makes_no_further_step(models):
    job = Job("draw")
    steps = []
    step = job.step

    def cancelling(done, total, *rest):
        steps.append(done)
        if done == 2:
            job.cancel()
        step(done, total, *rest)

    job.step = cancelling
    with pytest.raises(Cancelled):
        draw(models, asked(steps=30), job)
    assert steps == [1, 2]


def test_a_run_that_fails_leaves_the_model_as_it_was(models):
    before = type(models.get("garments", "draw").scheduler).__name__
    with pytest.raises(ValueError, match="unknown model"):
        draw(models, asked(model="garmets"), Job("draw"))
    with pytest.raises(ValueError):
        draw(models, asked(cache="ab:order=9"), Job("draw"))
    assert type(models.get("garments", "draw").scheduler).__name__ == before


@pytest.fixture(scope="module")
def few():
    """Solutions of fewer steps, which are near enough for what is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.apps.web.compare.REFERENCE_STEPS", 40)
        yield


@pytest.fixture(scope="module")
def compared(models, few):
    request = compare_request(
        ["exponential-adams", "diffusers:DDIMScheduler"], "4, 16", 0, prompt=PROMPT, model="garments", guidance=2.0
    )
    return compare(models, References(), request, Job("compare"))


def test_the_error_falls_with_the_steps_and_the_better_solver_has_less(compared):
    error = {key: cell.error for key, cell in compared.cells.items()}
    assert error["exponential-adams", 16] < error["exponential-adams", 4]
    assert error["diffusers:DDIMScheduler", 16] < error["diffusers:DDIMScheduler", 4]
    assert error["exponential-adams", 16] < error["diffusers:DDIMScheduler", 16]


def test_the_difference_is_that_of_the_pictures(compared):
    cell = compared.cells["exponential-adams", 4]
    apart = np.abs(np.asarray(cell.image).astype(int) - np.asarray(compared.reference))
    assert np.array_equal(np.asarray(cell.difference), np.minimum(4 * apart, 255))


def test_a_sampler_that_does_not_fit_has_its_sentence_and_the_others_their_pictures(models, few):
    request = compare_request(
        ["exponential-adams", "diffusers:DDIMScheduler"], "2", 0, prompt=PROMPT, model="garments-flow", guidance=1.0
    )
    kept = References()
    made = compare(models, kept, request, Job("compare"))
    assert made.cells["exponential-adams", 2].image is not None
    assert "variance-preserving" in made.cells["diffusers:DDIMScheduler", 2].reason
    table = comparison(made, "pictures")
    assert "variance-preserving" in table
    assert "<script" not in comparison(made, "differences")


def test_a_solution_is_computed_once(models, few):
    kept = References()
    totals = []
    for steps in ("2", "3"):
        job = Job("compare")
        request = compare_request(["ghvb"], steps, 0, prompt=PROMPT, model="garments", guidance=1.0)
        compare(models, kept, request, job)
        totals.append(job.total)
    assert totals == [42, 3]


def test_the_commands_of_a_comparison_make_its_pictures(compared, fewstep, tmp_path):
    line = compared.command.splitlines()[0]
    assert fewstep(*shlex.split(line)[1:]).code == 0
    sheet = Image.open(tmp_path / "steps-4.png").convert("RGB")
    inside = np.asarray(compared.cells["exponential-adams", 4].image)
    large = np.asarray(sheet)
    cell = inside.repeat(4, 0).repeat(4, 1)  # a sheet enlarges 32 pixels to 128
    windows = np.lib.stride_tricks.sliding_window_view(large[..., 0], cell.shape[:2])
    places = np.argwhere((windows[:, :, 0, 0] == cell[0, 0, 0]) & (windows[:, :, 64, 64] == cell[64, 64, 0]))
    assert any(np.array_equal(large[y : y + 128, x : x + 128], cell) for y, x in places)


def test_the_python_of_a_comparison_makes_its_pictures(compared):
    names: dict = {}
    exec(compared.python, names)
    assert set(names["images"]) == set(compared.cells)
    for place, image in names["images"].items():
        assert np.array_equal(np.asarray(image), np.asarray(compared.cells[place].image))


def test_steps_are_read_from_text():
    assert parse_steps("4, 8 16;8") == (4, 8, 16)
    with pytest.raises(ValueError, match="whole numbers"):
        parse_steps("four")
