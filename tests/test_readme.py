"""The README holds: its examples and commands run, its tables and figures are those of the code and the results."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.eval.report import PARTS, main, rewritten

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("fewstep ")]
#: Options that make a command of hours one of seconds; the last of two counts.
QUICKER = {
    "tune": "--count 2 --rounds 0",
    "benchmark": "--samplers ddim,*DEIS --nfe 5 --grids default --count 4 --rmse-count 4 --reference-steps 20 "
    "--references references",
    "caches": "--steps 9 --count 2 --samplers ddim --guidance 1",
    "text": "--steps 4",
    "restore": "--steps 2 --samples 2",
    "benchmark text": "--nfe 4 --count 2 --seeds 1 --length 24 --samplers token-adams-bashforth,tweedie",
    "benchmark editing": "--nfe 8 --count 3 --samplers *unguided --data drawn",
    "benchmark restoration": "--nfe 2 --count 1 --seeds 1 --side 32 --samplers default,classical --data drawn",
    "benchmark tokens": "--nfe 4 --count 4 --seeds 1 --guidance 1 --samplers token-adams-bashforth,tweedie",
}
#: What a command says on standard output.
SAID = {
    "text": r"ROMEO:|JULIET:|To be",
    "generate": r"network calls",
    "methods": "ghvb",
    "edit": r"Edit: \d+ network calls",
    "restore": r"Data residual: [\d.]+ of 255|4 restored, 0 kept, 0 failed",
    "tune": r"Wrote garments\.json",
    "benchmark": r"against diffusers DEIS|fewer-steps|token-adams-bashforth \S+ against tweedie|reaches more and keeps"
    r"|evaluations: default",
    "evaluate": r"FID +[\d.]+|PSNR +[\d.]+",
}
INSTALLS = [line for line in SHELL if line.startswith("python3 -m venv")]


def _run(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_readme_tables_are_made_from_the_code_and_the_results():
    assert rewritten(README) == README, "run python -m fewstep.eval.report"
    assert main(["--check", "--readme", str(ROOT / "README.md")]) == 0


@pytest.mark.parametrize("code", PYTHON, ids=lambda c: c.splitlines()[0])
def test_python_examples_run(code, tmp_path):
    (tmp_path / "example.py").write_text(code)
    _run(f"{sys.executable} example.py", tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("commands")
    draw = np.random.default_rng(0)
    for name in ("pictures", "restored", "originals", "scans"):  # what the reader brings
        (made / name).mkdir()
        for i in range(4):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(made / name / f"{i}.png")
    for name in ("old", "scratched"):
        Image.fromarray(draw.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(made / f"{name}.png")
    Image.fromarray(np.eye(16, 24, dtype=np.uint8) * 255).save(made / "scratches.png")
    blanks = "[MASK]" * 8
    (made / "blanks.txt").write_text(f"To be, or not to [MASK][MASK], that is the {blanks}:\n")
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_one_after_the_other(command, folder):
    task = re.search(r"^fewstep benchmark .*--task (\S+)", command)
    kind = f"benchmark {task.group(1)}" if task else "caches" if " --cache none" in command else command.split()[1]
    words = f"{command} {QUICKER.get(kind, '')}"
    done = _run(words.replace("fewstep", f"{sys.executable} -m fewstep.apps.cli", 1), folder)
    out = re.search(r"--out (\S+)", command)
    if out:
        path = folder / out.group(1)
        assert any(path.iterdir()) if path.is_dir() else path.stat().st_size > 100
    assert re.search(SAID[command.split()[1]], done.stdout), done.stdout


def test_modules_that_made_the_figures_have_the_options_that_stand_there():
    lines = [line for line in SHELL if line.startswith("python -m fewstep.")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line)
        source = inspect.getsource(importlib.import_module(words[2]))
        if words[2] == "fewstep.eval.benchmark":
            source = inspect.getsource(importlib.import_module("fewstep.eval.benchmark_options"))
        for word in words[3:]:
            if word.startswith("--"):
                assert f'"{word}"' in source, f"{words[2]} has no {word}"


def test_every_generated_part_stands_in_the_readme():
    for marker in ("methods", "measured", *PARTS):
        assert README.count(f"<!-- {marker}:begin -->") == README.count(f"<!-- {marker}:end -->") == 1
    assert {"generate", "methods", "tune", "benchmark", "evaluate"} <= {command.split()[1] for command in COMMANDS}


def test_the_first_command_draws_with_the_options_it_names(tmp_path):
    draw = INSTALLS[0].split("&&")[-1].strip().replace(".venv/bin/fewstep", f"{sys.executable} -m fewstep.apps.cli")
    done = _run(draw, tmp_path)
    assert "8 network calls" in done.stdout + done.stderr
    assert list(tmp_path.rglob("*.png"))


def test_there_are_two_install_commands_and_ci_does_the_second():
    assert len(INSTALLS) == 2
    ci = (ROOT / ".ci" / "run").read_text()
    assert '-c constraints.txt -e ".[app,eval,dev]"' in INSTALLS[1]
    assert '-c constraints.txt -e ".[app,eval,dev]"' in ci
    run = INSTALLS[1].split("/")[-1]
    assert run.startswith("pytest")
    assert run.replace("pytest", '"$bin/pytest"', 1) in ci.splitlines()


def test_pictures_of_the_readme_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
