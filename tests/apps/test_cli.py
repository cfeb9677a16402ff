"""The command line as a whole: lazy, exit codes, one sentence an error, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.apps.cli import run

Fewstep = Callable[..., Any]


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from fewstep.apps.cli import run\n"
        "words = ['--help'], ['generate', '--help'], ['text', '--help'], ['--version']\n"
        "assert [run(word) for word in words] == [0, 0, 0, 0]\n"
        "loaded = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fewstep methods NAME" in " ".join(done.stdout.split())
    assert "fewstep 0." in done.stdout


def test_a_real_process_says_one_sentence_and_exits_2(tiny_folder: Path, tmp_path: Path) -> None:
    words = ["generate", "a boot", "--model", str(tiny_folder), "--sampler", "ghvb", "--momentum", "7.2"]
    done = subprocess.run(
        [sys.executable, "-m", "fewstep.apps.cli", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "Error: momentum must be in (0, 5] or 'auto', got 7.2\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_interrupting_a_real_process_exits_130(tiny_folder: Path, tmp_path: Path) -> None:
    words = ["generate", "a boot", "--model", str(tiny_folder), "--steps", "1000", "--count", "64", "--json"]
    code = (  # says when the run has begun; a shell starts what runs in its background with interrupts ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import fewstep.pipelines.generation as g; from fewstep.apps.cli import run; import sys\n"
        "own = g.own_run\n"
        "def begun(*words):\n"
        "    print('begun', flush=True)\n"
        "    return own(*words)\n"
        "g.own_run = begun\n"
        f"sys.exit(run({words!r}))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)  # into the loop
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_unexpected_errors_are_one_sentence_and_a_traceback_on_demand(
    fewstep: Fewstep, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the unexpected\nwith details")

    monkeypatch.setattr("fewstep.pipelines.generation.own_run", broken)
    said = fewstep("generate", "a boot", "--model", tiny_folder)
    assert said.code == 1
    assert said.err == (
        "Error: unexpected RuntimeError: the unexpected. `fewstep --debug ...` shows where it comes from.\n"
    )
    with pytest.raises(RuntimeError, match="the unexpected"):
        run(["--debug", "generate", "a boot", "--model", str(tiny_folder)])


def test_full_memory_has_advice(fewstep: Fewstep, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")

    monkeypatch.setattr("fewstep.pipelines.generation.own_run", full)
    said = fewstep("generate", "a boot", "--model", tiny_folder)
    assert said.code == 1
    assert "--batch 1" in said.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["metods"], "No such command 'metods'"),
        (["generate", "x", "--steps", "many"], "Invalid value for '--steps'"),
        (["generate", "x", "--steps"], "--steps"),
        (["methods", "ghvv"], "unknown sampler 'ghvv', did you mean 'ghvb'"),
        (["methods", "--bibtx"], "--bibtx"),
    ],
)
def test_misspelt_commands_exit_2(fewstep: Fewstep, words: list[str], sentence: str) -> None:
    said = fewstep(*words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_without_a_command_the_help_is_shown(fewstep: Fewstep) -> None:
    said = fewstep()
    assert said.code in (0, 2)
    assert "generate" in said.out
    assert "Error" not in said.err
