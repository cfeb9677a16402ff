"""Jobs: one at a time in the whole server, with progress, and a cancel that takes effect at the next step."""

from __future__ import annotations

import ctypes
import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: Held by the one job that computes.
_WORK = threading.Lock()
#: Seconds between two looks at a job that runs.
_LOOK = 0.1


class Cancelled(Exception):
    """The one who asked does not want it any more."""


@dataclass(frozen=True)
class Snapshot:
    """A job as it is at one moment.

    Attributes:
        done, total: steps; a total of 0 says that it is not known yet.
        what: the part at hand, such as "sampling".
        seconds: since the job began to compute.
        left: seconds that the rest will take, if the steps of this part go on as they went; None is not known.
        shown: what the job last showed of its result.
    """

    done: int
    total: int
    what: str
    seconds: float
    left: float | None
    shown: Any = None


class Job:
    """One run of a session. `step` is the callback of every pipeline here."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.id = secrets.token_hex(4)
        self.what = "starting"
        self.shown: Any = None
        self.done = self.total = 0
        self._first: tuple[float, int] | None = None  # when this part's first step was over, and which it was
        self._begin: float | None = None
        self._cancel = threading.Event()
        self.over = threading.Event()

    def cancel(self) -> None:
        """End the job at its next step."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if the job shall end."""
        if self._cancel.is_set():
            raise Cancelled

    def part(self, what: str, done: int = 0, total: int = 0) -> None:
        """A part of the job begins."""
        self.check()
        self.what, self.done, self.total, self._first = what, done, total, None

    def step(self, done: int, total: int, *_: Any) -> None:
        """A step of the part is over."""
        self.check()
        self.done, self.total = done, total
        if self._first is None:
            self._first = (time.monotonic(), done)

    def show(self, value: Any) -> None:
        """Something of the result that may be seen already."""
        self.check()
        self.shown = value

    def snapshot(self) -> Snapshot:
        """The job as it is."""
        now, first = time.monotonic(), self._first
        left = None
        if first is not None and self.done > first[1] and self.total:
            left = (now - first[0]) / (self.done - first[1]) * max(self.total - self.done, 0)
        seconds = 0.0 if self._begin is None else now - self._begin
        return Snapshot(self.done, self.total, self.what, seconds, left, self.shown)

    def run(self, work: Callable[[Job], T]) -> T:
        """Compute, when no other job does."""
        while not _WORK.acquire(timeout=_LOOK):
            self.check()
        try:
            self.check()
            self._begin = time.monotonic()
            return work(self)
        finally:
            give_back()
            _WORK.release()


def give_back() -> None:
    """Hand free memory back to the system: glibc keeps it, in a heap for every thread, and every job is a thread."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another C library looks after itself
        return


def followed(job: Job, work: Callable[[Job], T]) -> Generator[Snapshot | T, None, None]:
    """Snapshots of a job while it runs in a thread of its own, and its result at the end.

    A caller that closes this iterator ends the job: it is told, and waited for, so that its step is over when the next
    job begins.

    Raises:
        Cancelled: it was cancelled.
        Exception: whatever the work raised.
    """
    outcome: list[Any] = []
    error: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(job.run(work))
        except BaseException as raised:
            error.append(raised)

    thread = threading.Thread(target=target, name=f"job-{job.id}", daemon=True)
    thread.start()
    try:
        last: Snapshot | None = None
        while thread.is_alive():
            thread.join(_LOOK)
            now = job.snapshot()
            if last is None or (now.done, now.what) != (last.done, last.what) or now.seconds - last.seconds > 1:
                last = now
                yield now
    finally:
        if thread.is_alive():
            job.cancel()
            thread.join()
    if error:
        raise error[0]
    yield outcome[0]


class Desk:
    """Which job each session has, so that its Cancel button finds it."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[Job]] = {}
        self._lock = threading.Lock()

    def open(self, session: str, kind: str) -> Job:
        """A job for a session."""
        job = Job(kind)
        with self._lock:
            self._jobs.setdefault(session, []).append(job)
        return job

    def close(self, session: str, job: Job) -> None:
        """The job is over."""
        job.over.set()
        with self._lock:
            left = [other for other in self._jobs.get(session, ()) if other is not job]
            if left:
                self._jobs[session] = left
            else:
                self._jobs.pop(session, None)

    def cancel(self, session: str, kind: str | None = None) -> list[Job]:
        """Cancel the jobs of a session, all or those of a kind; those that there were."""
        with self._lock:
            found = [job for job in self._jobs.get(session, ()) if kind is None or job.kind == kind]
        for job in found:
            job.cancel()
        return found

    @property
    def open_jobs(self) -> int:
        """Jobs that are not over."""
        with self._lock:
            return sum(map(len, self._jobs.values()))
