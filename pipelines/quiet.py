"""Keep libraries from talking while a model is loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class _Quiet:
    """How loud diffusers and transformers were before the first of the threads that want silence came."""

    lock = threading.Lock()
    depth = 0
    before: ClassVar[list[tuple[Any, int, bool]]] = []


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors from diffusers and transformers, and none of their loading bars, while this lasts in any thread."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    with _Quiet.lock:
        if _Quiet.depth == 0:
            _Quiet.before = [(lib, lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
            for library in libraries:
                library.set_verbosity_error()
                library.disable_progress_bar()
        _Quiet.depth += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                for library, level, bars in _Quiet.before:
                    library.set_verbosity(level)
                    if bars:
                        library.enable_progress_bar()
