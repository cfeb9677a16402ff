"""`fewstep restore` with bad input: a sentence, the input untouched, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_priors
from PIL import Image

Fewstep = Callable[..., Any]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("priors")
    tiny_priors.random_prior().save_pretrained(folder / "random")
    return folder / "random"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, bytes]:
    """Good and bad files, and what they hold."""
    array = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "good.png")
    image.resize((320, 240)).save(tmp_path / "good.jpg")
    jpeg, png = (tmp_path / "good.jpg").read_bytes(), (tmp_path / "good.png").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "corrupted.png").write_bytes(png[:200] + bytes(100) + png[300:])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, size, colour in (("other", (8, 8), 255), ("black", (32, 24), 0), ("white", (32, 24), 255)):
        Image.new("L", size, colour).save(tmp_path / f"{name}.png")
    Image.new("L", (32, 24), 100).save(tmp_path / "dark.png")
    Image.new("L", (3, 3), 0).save(tmp_path / "kernel.png")
    Image.new("RGB", (30_000, 4)).save(tmp_path / "wide.png")
    (tmp_path / "there.png").write_bytes(b"something of mine")
    (tmp_path / "folder.png").mkdir()
    return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def unchanged(inputs: dict[str, bytes]) -> bool:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == inputs


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("good.png out.png", "say what was done to the picture: --task, one of sr2, sr4"),
        ("good.png out.png --task denois --sigma 5", "unknown task 'denois', did you mean 'denoise'?"),
        ("good.png --task sr2", "takes two files, INPUT and OUTPUT, or two folders; got 1"),
        ("--task sr2", "got none"),
        ("none.png out.png --task sr2", "there is no picture 'none.png'"),
        ("text.png out.png --task sr2", "'text.png' is not a picture that can be read"),
        ("empty.png out.png --task sr2", "'empty.png' is not a picture that can be read"),
        ("truncated.jpg out.png --task sr2", "'truncated.jpg' is not a picture that can be read"),
        ("corrupted.png out.png --task sr2", "'corrupted.png' is not a picture that can be read"),
        ("wide.png out.png --task sr8", "cut the picture into parts, or make it smaller first"),
        ("good.png good.png --task sr2 --overwrite", "is the input itself, which is never written over"),
        ("good.png ./good.png --task sr2", "is the input itself, which is never written over"),
        ("good.png white.png --task inpaint --mask white.png --overwrite", "is the mask itself"),
        ("good.png there.png --task sr2", "exists already; choose another OUTPUT, or say --overwrite"),
        ("good.png out.jpg --task sr2", "written as PNG"),
        ("good.png there.png/out.png --task sr2", "is not a folder"),
        ("good.png out.png --task inpaint", "needs --mask FILE"),
        ("good.png out.png --task inpaint --mask none.png", "there is no mask 'none.png'"),
        ("good.png out.png --task inpaint --mask other.png", "must have the size of its picture"),
        ("good.png out.png --task inpaint --mask black.png", "white is what is missing"),
        ("good.png out.png --task inpaint --mask dark.png", "darker than middle grey; white is what is missing"),
        ("good.png out.png --task inpaint --mask white.png", "white everywhere, so that no pixel is known"),
        ("good.png out.png --task inpaint --mask text.png", "'text.png' is not a picture"),
        ("good.png out.png --task denoise", "denoise needs --sigma"),
        ("good.png out.png --task denoise --sigma 300", "in the scale of 0 to 255, got 300.0"),
        ("good.png out.png --task denoise --sigma nan", "denoise needs --sigma"),
        ("good.png out.png --task sr2 --sigma -1", "in the scale of 0 to 255"),
        ("good.png out.png --task sr2 --mask white.png", "sr2 has no use for --mask; it listens to --kernel"),
        ("good.png out.png --task sr2 --kernel cubic", "unknown resampling kernel 'cubic', did you mean 'bicubic'?"),
        ("good.png out.png --task gaussian-deblur --kernel-size 4", "must be odd"),
        ("good.png out.png --task gaussian-deblur --blur-sigma 0", "sigma above 0"),
        ("good.png out.png --task motion-deblur", "needs the kernel of the blur"),
        ("good.png out.png --task motion-deblur --kernel-file kernel.png", "holds no blur kernel"),
        ("good.png out.png --task motion-deblur --kernel-file text.png", "not a picture"),
        ("good.png out.png --task colorize --luma rec60", "did you mean 'rec601'?"),
        ("good.png out.png --task custom", "needs --operator module:function"),
        ("good.png out.png --task custom --operator nothing", "module:function"),
        ("good.png out.png --task custom --operator no_such_module:f", "cannot be loaded"),
        ("good.png out.png --task sr2 --size 9x9", "--size is for custom alone"),
        ("good.png out.png --task sr2 --method ddnn", "did you mean 'ddnm'?"),
        ("good.png out.png --task sr2 --method stsl", "works on latents and this model on pictures"),
        ("good.png out.png --task motion-deblur --kernel-seed 1 --method ddnm-plus", "needs the singular values of"),
        ("good.png out.png --task sr2 --method ddnm --renois 0.5", "no option --renois, did you mean '--renoise'?"),
        ("good.png out.png --task sr2 --method ddnm --renoise 2", "renoise must be"),
        ("good.png out.png --task sr2 --method ddnm --zeta 0.3", "it is a field of diffpir"),
        ("good.png out.png --task sr2 --steps 0", "steps must be at least 1"),
        ("good.png out.png --task sr2 --samples 0", "samples must be at least 1"),
        ("good.png out.png --task sr2 --seed -1", "seed must be at least 0"),
        ("good.png out.png --task sr2 --tile canvass", "did you mean 'canvas'?"),
        ("good.png out.png --task sr2 --tile canvas --window 7", "divisible by 2"),
        ("good.png out.png --task sr2 --tile canvas --window 16 --overlap 16", "smaller than the window"),
        ("good.png out.png --task sr2 --panorama", "twice as wide as high"),
        ("good.png out.png --task sr2 --panorama --tile msr", "leave --tile"),
        ("good.png out.png --task sr2 --prompt boots", "reads no prompt"),
        ("good.png out.png --task sr2 --model photo-pior", "no model 'photo-pior'"),
        ("good.png out.png --task sr2 --model verses", "writes texts"),
        ("good.png out.png --task sr2 --device cuda:99", "no device 'cuda:99'"),
        ("good.png out.png --task sr2 --dtype int8", "int8"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    fewstep: Fewstep, prior: Path, inputs: dict[str, bytes], words: str, sentence: str
) -> None:
    model = [] if "--model" in words else ["--model", prior]
    device = [] if "--device" in words else ["--device", "cpu"]
    steps = [] if "--steps" in words else ["--steps", 1]
    said = fewstep("restore", *words.split(), *model, *device, *steps)
    assert said.code == 2, said.err
    assert sentence in said.err.replace("\n", " ")
    assert unchanged(inputs)


def test_a_folder_that_cannot_be_written_is_said_first(
    fewstep: Fewstep, prior: Path, inputs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("shut").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # what a folder of another owner says
    said = fewstep("restore", "good.png", "shut/out.png", "--task", "sr2", "--model", prior)
    assert said.code == 2
    assert "no permission to write in" in said.err.replace("\n", " ")


def test_a_full_disk_leaves_no_half_file(
    fewstep: Fewstep, prior: Path, inputs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(image: Any, file: Any, *_: Any, **__: Any) -> None:
        file.write(b"\x89PNG half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    words = ("--task", "sr2", "--model", prior, "--device", "cpu", "--steps", 1, "--sheet")
    said = fewstep("restore", "good.png", "out.png", *words)
    assert said.code == 2
    assert "cannot be written: No space left on device" in said.err.replace("\n", " ")
    assert unchanged(inputs)


def test_an_interrupt_in_the_middle_leaves_everything_as_it_was(
    tmp_path: Path, prior: Path, inputs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "slow.py").write_text(
        "import pathlib, time\n"
        "class Slow:\n"
        "    calls = 0\n"
        "    def A(self, x):\n"
        "        self.calls += 1\n"
        "        if self.calls == 20: pathlib.Path('module/begun').touch()\n"
        "        if self.calls > 20: time.sleep(0.05)\n"
        "        return x / 2\n"
        "    def A_adjoint(self, y): return y / 2\n"
        "def slow(): return Slow()\n"
    )
    words = ["good.png", "out.png", "--task", "custom", "--operator", "slow:slow", "--method", "ddnm"]
    words += ["--model", str(prior), "--device", "cpu", "--steps", "900"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fewstep.apps.cli", "restore", *words],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "module"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells start jobs with it ignored
    )
    while process.poll() is None and not (tmp_path / "module" / "begun").exists():
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().endswith("Interrupted.")
    assert out == ""
    assert unchanged(inputs)
