"""Checks of files that a command will write, made before it computes anything."""

from __future__ import annotations

import os
from pathlib import Path


def check_target(target: Path, ending: str) -> None:
    """Refuse a file that cannot be written, or whose name does not say what it holds.

    Raises:
        ValueError: another ending.
        IsADirectoryError, PermissionError: nothing can be written there.
    """
    if target.suffix.lower() != ending:
        raise ValueError(f"{str(target)!r} should end in {ending}")
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PermissionError(f"{str(target)!r} cannot be written: no permission in {str(above)!r}")
