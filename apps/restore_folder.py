"""All pictures of a folder, one after the other: what is finished is kept, and a bad file does not stop the others."""

from __future__ import annotations

import dataclasses
import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .restore_checks import RestoreRequest
from .restore_files import Targets, check_files, is_finished, listed, mask_of
from .restore_output import calls, summary, write
from .restore_run import load_pipeline, restore
from .terminal import output, progress, say_error, working


@dataclass
class FolderReport:
    """What became of the pictures of a folder.

    Attributes:
        pictures: summaries of those that were restored.
        kept: results that were finished before.
        failed: (picture, sentence).
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """The same for programs."""
        failed = [{"picture": picture, "error": sentence} for picture, sentence in self.failed]
        return {"pictures": self.pictures, "kept": self.kept, "failed": failed}


@dataclass(frozen=True)
class Work:
    """One picture that is not finished yet."""

    source: Path
    targets: Targets
    request: RestoreRequest


def restore_folder(request: RestoreRequest, source: Path, out: Path, overwrite: bool, quiet: bool) -> FolderReport:
    """Restore all pictures of a folder into another.

    A result that was made of the same picture with the same settings is kept, so that an interrupted run goes on where
    it ended.

    Raises:
        ValueError, OSError: nothing can be done at all: no pictures, results of other settings in the way, a full disk.
    """
    report = FolderReport()
    todo = _todo(request, listed(source, out, request), overwrite, report)
    if not quiet and report.kept:
        output.print(f"{len(report.kept)} finished before, kept", markup=False)
    pipe = None
    for number, work in enumerate(todo, 1):
        if pipe is None:  # without a model there is nothing to go on with, so its errors end the run
            with working(f"loading {request.model}"):
                pipe = load_pipeline(request)
        try:
            with progress(f"{number} of {len(todo)}: {work.source.name}") as bar:
                restored = restore(pipe, work.request, work.source, bar)
            write(work.targets, restored)
        except (ValueError, OSError, FloatingPointError, RuntimeError, TypeError) as error:
            if isinstance(error, OSError) and _is_full(error):
                raise
            _failed(report, work.source, error)
            continue
        report.pictures.append(summary(work.source, work.targets, restored))
        if not quiet:
            told = f"residual {restored.residual:.3f} of 255, {calls(restored)}, {restored.seconds:.2f} seconds"
            output.print(f"{work.source.name} -> {work.targets.result}: {told}", markup=False)
    return report


def _todo(
    request: RestoreRequest, pairs: list[tuple[Path, Targets]], overwrite: bool, report: FolderReport
) -> list[Work]:
    """What is left to do, all files checked before the first picture is restored."""
    todo = []
    for picture, targets in pairs:
        try:
            one = request
            if "mask" in request.options:
                mask = mask_of(request.options["mask"], picture)
                one = dataclasses.replace(request, options={**request.options, "mask": mask})
            if is_finished(targets, one.key(picture)):
                report.kept.append(str(targets.result))
                continue
        except OSError as error:
            _failed(report, picture, error)
            continue
        check_files(targets, [("a picture of the folder", other) for other, _ in pairs], overwrite)
        todo.append(Work(picture, targets, one))
    return todo


def _failed(report: FolderReport, picture: Path, error: Exception) -> None:
    first = str(error).strip().split("\n")[0] or type(error).__name__
    report.failed.append((str(picture), first))
    say_error(f"{picture.name}: {first}")


def _is_full(error: OSError) -> bool:
    """Whether the disk is full: then the next picture would be restored in vain."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__
    return False
