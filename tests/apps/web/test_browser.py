"""The page in Chromium, each tab end to end with the shipped models; screenshots are kept in `runs/screenshots`."""

from __future__ import annotations

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[3] / "apps" / "web" / "examples"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def pixels(source) -> np.ndarray:
    return np.asarray(Image.open(source).convert("RGB")).astype(int)


def test_draw_with_a_field_of_the_sampler_and_download(visit, tmp_path):
    from fewstep.pipelines import generate, load

    page = visit("Draw")
    page.field("Prompt").fill("a green coat on a white background")
    page.choose("Sampler", "ghvb")
    page.fold("Fields of the sampler").click()
    page.field("momentum").fill("1.5")
    page.slide("Steps", 3)
    page.slide("Count", 2)
    page.button("Draw").click()
    assert re.match(r"3 network calls\s*·\s*[\d.]+ s\s*·\s*32 x 32 pixels", page.finished())
    page.panel.locator(".fs-gallery img").nth(1).wait_for()
    said = page.code()
    assert "--sampler ghvb --momentum 1.5 --steps 3" in said
    assert "momentum=1.5" in said
    page.keep("draw")
    archive = zipfile.ZipFile(page.download("Download, with the settings inside", tmp_path))
    files = sorted(archive.namelist())
    pipe = load("garments", "ghvb", momentum=1.5)
    alone = generate(pipe, "a green coat on a white background", steps=3, guidance=3.0, count=2).images
    for seed, (name, image) in enumerate(zip(files, alone, strict=True)):
        file = archive.read(name)
        assert json.loads(Image.open(BytesIO(file)).text["fewstep"])["seed"] == seed
        assert np.array_equal(pixels(BytesIO(file)), np.asarray(image))


def test_a_picture_that_was_drawn_goes_on_to_edit(visit):
    page = visit("Draw")
    page.slide("Steps", 2)
    page.slide("Count", 1)
    page.button("Draw").click()
    page.finished()
    page.button("Edit the chosen picture").click()
    page.page.get_by_role("tab", name="Edit", exact=True, selected=True).wait_for()
    page.field("What it shows").wait_for()
    page.panel.locator(".image-frame img").first.wait_for()
    assert page.field("What it shows").input_value() == "a red ankle boot on a white background"


def test_draw_with_the_keyboard_alone(visit):
    page = visit("Draw")

    def tab_to(element) -> None:
        for _ in range(60):
            if element.evaluate("element => element === document.activeElement"):
                return
            page.page.keyboard.press("Tab")
        pytest.fail("the Tab key does not reach it")

    page.page.get_by_role("tab", name="Draw", exact=True).focus()
    tab_to(page.field("Prompt"))
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("a blue dress on a white background")
    tab_to(page.panel.get_by_label("number input for Steps", exact=True))
    page.page.keyboard.type("2")
    tab_to(page.button("Draw"))
    page.page.keyboard.press("Enter")
    assert "2 network calls" in page.finished()
    tab_to(page.fold("Command line and Python"))
    page.page.keyboard.press("Enter")
    assert "a blue dress" in page.panel.locator(".cm-content").first.inner_text()
    tab_to(page.button("Yellow dress, 6 steps"))
    page.page.keyboard.press("Enter")
    page.page.wait_for_function("document.querySelector('[role=tabpanel] textarea').value.startsWith('a yellow')")


def test_compare_pictures_and_differences(visit):
    page = visit("Compare")
    page.field("Steps").fill("2, 4")
    page.slide("Guidance", 1)
    page.button("Compare").click()
    assert re.search(r"\d+ network calls", page.finished())
    rows = page.panel.locator("table.fs-table tbody tr")
    assert [row.split("\n")[0].split("\t")[0] for row in rows.all_inner_texts()][-1] == "solution"
    assert page.panel.locator("table.fs-table img").count() == 3 * 2 + 1
    page.keep("compare")
    before = page.panel.locator("table.fs-table img").first.get_attribute("src")
    page.field("differences").check()
    page.page.wait_for_function("src => document.querySelector('table.fs-table img').src !== src", arg=before)
    assert "difference" in page.panel.locator("table.fs-table img").first.get_attribute("alt")


def test_edit_with_a_painted_mask_keeps_what_was_not_painted(visit, tmp_path):
    page = visit("Edit")
    page.upload(EXAMPLES / "red-sneaker.png")
    page.field("What it shows").fill("a red sneaker on a white background")
    page.field("What it shall show").fill("a blue sneaker on a white background")
    page.slide("Steps", 3)
    page.fold("Mask: paint where the picture may change").click()
    canvas = page.panel.locator("canvas").first
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    page.page.wait_for_timeout(2000)  # the canvas says nowhere that its picture is there
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x - 60, y)
    page.page.mouse.down()
    page.page.mouse.move(x + 60, y, steps=10)
    page.page.mouse.up()
    page.keep("edit-mask")
    page.button("Edit").click()
    assert re.search(r"reconstruction [\d.]+ dB", page.finished())
    archive = zipfile.ZipFile(page.download("Download the edit, with the settings inside", tmp_path))
    mask = pixels(BytesIO(archive.read("mask.png")))[..., 0] > 0
    assert 0.02 < mask.mean() < 0.6
    name = next(name for name in archive.namelist() if name != "mask.png")
    off = np.abs(pixels(BytesIO(archive.read(name))) - pixels(EXAMPLES / "red-sneaker.png")).max(-1)
    assert off[~mask].max() == 0
    assert off[mask].max() > 20
    assert "--mask mask.png" in page.code()
    first = int(re.search(r"(\d+) network calls", page.finished())[1])
    page.field("What it shall show").fill("a green sneaker on a white background")
    page.button("Edit").click()
    page.panel.locator(".fs-done", has_text="inversion reused").wait_for()
    assert int(re.search(r"(\d+) network calls", page.finished())[1]) < first
    page.keep("edit")


def test_restore_an_uploaded_picture(visit, tmp_path):
    from skimage.metrics import peak_signal_noise_ratio

    page = visit("Restore")
    page.upload(EXAMPLES / "cat.png")
    page.field("Simulate").check()
    page.slide("Samples", 2)
    page.fold("Method, steps, seed").click()
    page.field("Steps").fill("3")
    page.button("Restore").click()
    assert re.search(r"\d+ network calls", page.finished())
    page.panel.get_by_text("Uncertainty", exact=True).wait_for()
    figures = page.panel.locator("table.fs-figures").inner_text()
    page.keep("restore")
    said = float(re.search(r"PSNR\s+([\d.]+) dB", figures)[1])
    archive = zipfile.ZipFile(page.download("Download the results, with the settings inside", tmp_path))
    result = pixels(BytesIO(archive.read("cat-sr4.png"))).astype(np.uint8)
    found = peak_signal_noise_ratio(pixels(EXAMPLES / "cat.png").astype(np.uint8), result)
    assert found == pytest.approx(said, abs=0.05)  # rounding to 8 bits moves 25 dB by less
    assert "--task sr4" in page.code()


def test_infill_a_text_by_clicking_words(visit):
    page = visit("Write")
    page.field("fill blanks").check()
    word = page.button("light")
    word.click()
    assert word.get_attribute("aria-pressed") == "true"
    box = page.field("Text with blanks")
    assert "what [MASK][MASK][MASK][MASK][MASK] through" in box.input_value()
    page.slide("Steps", 4)
    page.button("Write").click()
    page.finished()
    text = page.panel.locator(".fs-text").inner_text()
    assert re.match(r"(?s)ROMEO:\nBut soft, what .{5} through yonder window breaks\?\nIt is the east", text)
    assert len(page.panel.locator(".fs-text mark").inner_text()) == 5
    page.keep("write")


def test_a_cancel_frees_the_worker_within_one_step(visit, live):
    page = visit("Draw")
    page.slide("Steps", 100)
    page.slide("Count", 9)
    page.button("Draw").click()
    page.panel.get_by_text(re.compile(r"step \d+ of 100")).wait_for()
    (job,) = [job for jobs in live.bench.desk._jobs.values() for job in jobs]
    done, cancel = [], job.cancel
    job.cancel = lambda: (done.append(job.done), cancel())
    page.button("Cancel").click()
    said = page.panel.locator(".fs-stopped")
    said.wait_for()
    page.keep("cancelled")
    after = int(re.search(r"Cancelled after (\d+) of 100 steps", said.inner_text())[1])
    assert done[0] <= after <= done[0] + 1
    assert job.over.is_set()
    page.slide("Steps", 1)
    page.slide("Count", 1)
    page.button("Draw").click()
    page.panel.locator(".fs-done", has_text="1 network call").wait_for()
    assert live.bench.desk.open_jobs == 0


def test_a_bad_upload_is_a_sentence_where_it_is_read(visit, tmp_path):
    page = visit("Edit")
    file = tmp_path / "holiday.png"
    file.write_bytes(b"<svg onload=alert(1)>")
    page.panel.locator("input[type=file]").first.set_input_files(file)
    said = page.panel.locator(".fs-failed[role=alert]", has_text="This is not a picture that can be read")
    said.wait_for()
    page.field("What it shall show").fill("a boot")
    page.button("Edit").click()
    page.page.locator(".toast-body", has_text="This is not a picture that can be read").wait_for()
    assert said.is_visible()
    page.keep("bad-upload")
    words = page.page.locator("body").inner_text()
    assert "/tmp" not in words
    assert "Traceback" not in words
