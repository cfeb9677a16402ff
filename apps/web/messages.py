"""What a visitor is told: sentences, without a path of the server and without a traceback."""

from __future__ import annotations

import html
import re

from .jobs import Snapshot

#: Absolute paths: all but the last part is nobody's business.
_POSIX = re.compile(r"(?<![\w./:<])~?/(?:[^\s/'\"<>|:;,]+/)+")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\s\\'\"<>|:;,]+\\)*")


def without_paths(text: str) -> str:
    """The text with every absolute path cut down to its last part."""
    return _WINDOWS.sub("", _POSIX.sub("", text))


def sentence_of(error: BaseException, identity: str = "") -> str:
    """What is said of an error. What is not meant for the visitor is named by the number of the request alone.

    Args:
        error: what was raised.
        identity: of the request, as it is in the log.
    """
    text = str(error).strip().split("\n")[0]
    if "out of memory" in text.lower() or isinstance(error, MemoryError):
        return "The memory of the device is full. Ask for fewer or smaller pictures."
    expected = isinstance(error, ValueError | FileNotFoundError | FloatingPointError)
    if isinstance(error, OSError) and error.strerror:
        expected = False
    if not expected or not text:
        return f"Something went wrong here, and it is not your fault. The log has it as request {identity or '?'}."
    text = without_paths(text)
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def counted(number: int, what: str) -> str:
    """ "1 network call", "8 network calls"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def seconds_text(seconds: float) -> str:
    """ "0.51 s", "12 s", "3 min 20 s"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _status(kind: str, body: str, role: str = "status") -> str:
    return f'<div class="fs-status fs-{kind}" role="{role}">{body}</div>'


def idle(text: str = "") -> str:
    """A status line that says what may be done."""
    return _status("idle", html.escape(text))


def finished(*parts: str) -> str:
    """A status line of a run that is over: what it cost."""
    return _status("done", " <span aria-hidden='true'>·</span> ".join(html.escape(part) for part in parts if part))


def stopped(snapshot: Snapshot | None) -> str:
    """A status line of a run that was cancelled."""
    where = f" after {snapshot.done} of {snapshot.total} steps" if snapshot and snapshot.total else ""
    return _status("stopped", html.escape(f"Cancelled{where}."))


def failed(sentence: str) -> str:
    """A status line of a run that failed."""
    return _status("failed", html.escape(sentence), "alert")


def running(snapshot: Snapshot) -> str:
    """A bar with steps, seconds and time left."""
    said = [snapshot.what.capitalize()]
    if snapshot.total:
        said.append(f"step {snapshot.done} of {snapshot.total}")
    said.append(seconds_text(snapshot.seconds))
    if snapshot.left is not None:
        said.append(f"about {max(1, round(snapshot.left))} s left")
    value = f' value="{snapshot.done}" max="{snapshot.total}"' if snapshot.total else ""
    words = " <span aria-hidden='true'>·</span> ".join(html.escape(part) for part in said)
    return _status("running", f'<progress aria-label="Progress of this run"{value}></progress><span>{words}</span>')
