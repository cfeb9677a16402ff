"""The jobs of the page as events of gradio: progress, cancel, errors as sentences, one line in the log each."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from . import messages
from .jobs import Cancelled, Desk, Snapshot, followed
from .logs import log
from .models import Models
from .settings import AppSettings
from .shelf import Shelf
from .uploads import Refused

#: Every event that computes shares this queue, and one runs at a time.
QUEUE: dict[str, Any] = {"concurrency_id": "work", "concurrency_limit": 1}

Work = Callable[..., Any]
#: Seconds that a cancel waits for the step at hand.
_PATIENCE = 20


@dataclass(frozen=True)
class Bench:
    """What the tabs share."""

    settings: AppSettings
    models: Models
    desk: Desk = field(default_factory=Desk)
    shelf: Shelf = field(default_factory=Shelf)

    @property
    def hides_paths(self) -> bool:
        """Whether commands name a model by its folder's name alone."""
        return self.settings.listen

    def event(
        self,
        kind: str,
        names: Sequence[str],
        work: Work,
        show: Callable[[Any], Sequence[Any]],
        others: int,
        partly: Callable[[Any], Sequence[Any]] | None = None,
    ) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """A handler that runs a job and yields its status line and other outputs.

        Args:
            kind: of the job, for the log and for Cancel.
            names: of the inputs, as the API knows them.
            work: takes the job and the values of the inputs.
            show: outputs from what `work` returned, the status line first.
            others: number of outputs beside the status line.
            partly: the other outputs from what the job showed on its way.
        """
        skipped = (gr.skip(),) * others

        def handler(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            session = str(request.session_hash or "")
            job, begin, outcome = self.desk.open(session, kind), time.perf_counter(), "cancelled"
            last: Snapshot | None = None
            shown: Any = None
            try:
                taken = _taken(values)
                with contextlib.closing(followed(job, lambda job: work(job, *taken))) as items:
                    for item in items:
                        if isinstance(item, Snapshot):
                            last = item
                            rest = skipped
                            if partly is not None and item.shown is not None and item.shown is not shown:
                                shown = item.shown
                                rest = tuple(partly(shown))
                            yield (messages.running(item), *rest)
                        else:
                            outcome = "done"
                            yield tuple(show(item))
            except Cancelled:
                yield (messages.stopped(last), *skipped)
            except Exception as error:
                sentence = messages.sentence_of(error, job.id)
                unexpected = sentence.startswith("Something went wrong")
                outcome = "failed" if unexpected else "refused"
                if unexpected:
                    log("error", error=error, id=job.id, kind=kind)
                yield (messages.failed(sentence), *skipped)
                raise gr.Error(sentence, duration=8, print_exception=False) from None
            finally:
                self.desk.close(session, job)
                log("job", id=job.id, kind=kind, outcome=outcome, seconds=round(time.perf_counter() - begin, 3))

        return named(handler, names)

    def canceller(self, kind: str) -> Callable[..., str]:
        """A handler of a Cancel button: the job of this session and kind ends at its next step."""

        def cancel(request: gr.Request) -> str:
            found = self.desk.cancel(str(request.session_hash or ""), kind)
            if not found:
                return messages.idle("Nothing of yours is running.")
            found[0].over.wait(_PATIENCE)
            return messages.stopped(found[0].snapshot())

        return cancel

    def leave(self, request: gr.Request) -> None:
        """A visitor closed the page: nobody waits for the jobs of that session."""
        self.desk.cancel(str(request.session_hash or ""))


def named(handler: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Give the inputs after the request names, which the API shows."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("request", kind, annotation=gr.Request)]
    taken: set[str] = set()
    for name in names:  # a method may have a field of the same name as one of the tab's own inputs
        taken.add(name := f"field_{name}" if name in taken else name)
        parameters.append(inspect.Parameter(name, kind))
    handler.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    handler.__annotations__ = {"request": gr.Request}
    return handler


def _taken(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, if every picture among them was taken; `ValueError` says why one was not."""
    for value in values:
        if isinstance(value, Refused):
            raise ValueError(value.sentence)
    return values


def refused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A quick handler whose errors become sentences."""
    import functools

    @functools.wraps(function)
    def guarded(*values: Any) -> Any:
        try:
            return function(*_taken(values))
        except Exception as error:
            sentence = messages.sentence_of(error)
            if sentence.startswith("Something went wrong"):
                log("error", error=error, kind=function.__name__)
            raise gr.Error(sentence, duration=8, print_exception=False) from None

    return guarded
