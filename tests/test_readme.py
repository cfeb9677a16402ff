"""The README holds: its examples and commands run, its tables and figures are those of the code and the results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.eval.report import main, rewritten

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("fewstep ")]
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
    return tmp_path_factory.mktemp("commands")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_one_after_the_other(command, folder):
    done = _run(command.replace("fewstep", f"{sys.executable} -m fewstep.apps.cli", 1), folder)
    out = re.search(r"--out (\S+)", command)
    if out:
        assert (folder / out.group(1)).stat().st_size > 100
    else:
        assert "ghvb" in done.stdout


def test_the_first_command_draws_with_the_options_it_names(tmp_path):
    draw = INSTALLS[0].split("&&")[-1].strip().replace(".venv/bin/fewstep", f"{sys.executable} -m fewstep.apps.cli")
    done = _run(draw, tmp_path)
    assert "8 network calls" in done.stdout + done.stderr
    assert list(tmp_path.rglob("*.png"))


def test_there_are_two_install_commands_and_ci_does_the_second():
    assert len(INSTALLS) == 2
    ci = (ROOT / ".ci" / "run").read_text()
    assert '-c constraints.txt -e ".[eval,dev]"' in INSTALLS[1]
    assert '-c constraints.txt -e ".[eval,dev]"' in ci
    assert INSTALLS[1].endswith("pytest")


def test_pictures_of_the_readme_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
