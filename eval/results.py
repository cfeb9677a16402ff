"""One schema for every figure of this project: command, versions, machine, settings, and rows of flat objects."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fewstep.pipelines.files import write_atomically


def write_results(
    path: str | Path, command: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write a result file whole or not at all.

    Args:
        path: the JSON file.
        command: the command line that made the rows.
        settings: what the rows have in common.
        rows: flat objects, one a measured cell.
    """
    report = {
        "command": command,
        "versions": {name: version(name) for name in ("fewstep", "torch", "diffusers", "transformers")},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": dict(settings),
        "rows": [dict(row) for row in rows],
    }
    write_atomically(path, (json.dumps(report, indent=1) + "\n").encode())
