"""Several processes make the same figures as one, and lose nothing when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fewstep.eval.benchmark import main
from fewstep.eval.benchmark_cells import Cell, Share, Store, measure

COST = ("seconds", "scheduler_microseconds", "peak_memory_mib")
MEASURED = {
    "model": "oracle:gaussian",
    "samplers": "ghvb 2.5,*DEIS",
    "nfe": "5",
    "guidance": "1,3",
    "grids": "karras,trailing",
    "rmse-count": "20",
    "grid-count": "6",
    "batch": "4",
    "reference-steps": "30",
}
WORDS = [word for name, value in MEASURED.items() for word in (f"--{name}", value)]
ENVIRONMENT = {**{k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def benchmark(folder: Path, *launcher: str, words: tuple[str, ...] = ()) -> list[dict]:
    given = [*WORDS, *words, "--out", str(folder), "--references", str(folder / "references")]
    if launcher:
        command = [*launcher, "fewstep.eval.benchmark", *given]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    else:
        assert main(given) == 0
    report = json.loads((folder / "results.json").read_text())
    assert report["settings"]["complete"]
    return [{key: value for key, value in row.items() if key not in COST} for row in report["rows"]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return benchmark(tmp_path_factory.mktemp("alone"))


def same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        for key, value in row.items():
            assert other[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key


def test_two_processes_of_accelerate_give_the_figures_of_one(alone, tmp_path):
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    machine = (
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(free_port()),
    )
    same(benchmark(tmp_path, *launcher, *machine, "-m"), alone)
    assert json.loads((tmp_path / "results.json").read_text())["settings"]["processes"] == 2


def test_processes_of_our_own_give_the_figures_of_one(alone, tmp_path):
    same(benchmark(tmp_path, words=("--processes", "2")), alone)


DYING = """
import os, signal, sys
from fewstep.eval.benchmark import main
from fewstep.eval.benchmark_cells import Cell, Store, Share, measure
import numpy as np
done = []
def compute(cell, items):
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(items)
    return {"value": np.array([i * cell.settings["a"] for i in items])}
cells = [Cell({"a": a}, 20, 3) for a in range(4)]
measure(Store(sys.argv[1]), cells, compute, lambda cell, arrays: {}, Share(1, 2))
"""


def test_a_killed_process_loses_the_part_it_had_at_hand_and_the_other_does_the_rest(tmp_path):
    died = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], env=ENVIRONMENT, timeout=120)
    assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.npz"))) == 3
    done = []

    def compute(cell, items):
        done.append((cell.settings["a"], items))
        return {"value": np.array([i * cell.settings["a"] for i in items])}

    def merge(cell, arrays):
        return {"sum": int(arrays["value"].sum())}

    cells = [Cell({"a": a}, 20, 3) for a in range(4)]
    rows = measure(Store(tmp_path), cells, compute, merge, Share(0, 2))
    assert rows == [{"sum": 190 * a} for a in range(4)]
    assert len(done) == 4 * 7 - 3
    own = [(cell, part) for cell in range(4) for part in range(7) if (cell + part) % 2 == 0]
    assert [(a, items.start // 3) for a, items in done[: len(own)]] == own  # its own share first
    assert measure(Store(tmp_path), cells, compute, merge, Share(1, 2)) == rows  # the other one, started again
    assert len(done) == 4 * 7 - 3
