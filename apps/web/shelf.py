"""Files of results for download: in a folder of this process, forgotten after a while."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .settings import STATE_SECONDS

#: Runs whose files are kept at most.
_MOST = 100


class Shelf:
    """A folder for each run. Use it as a context manager, or `clear` it at the end."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="fewstep-app-"))
        self._lock = threading.Lock()

    def place(self) -> Path:
        """An empty folder; the oldest ones are removed."""
        with self._lock:
            runs = sorted((run for run in self.root.iterdir() if run.is_dir()), key=lambda run: run.stat().st_mtime)
            old = time.time() - STATE_SECONDS
            for number, run in enumerate(runs):
                if number < len(runs) - _MOST + 1 or run.stat().st_mtime < old:
                    shutil.rmtree(run, ignore_errors=True)
            folder = self.root / secrets.token_hex(8)
            folder.mkdir()
            return folder

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def one_file(files: Sequence[Path], name: str) -> Path:
    """The file itself, or a zip of several beside them."""
    if len(files) == 1:
        return files[0]
    target = files[0].with_name(f"{name}.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    return target
