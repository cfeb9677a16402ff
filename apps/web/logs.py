"""Logs as JSON, one line an event, with the number of the request; no prompt, name, address or file of anybody."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

logger = logging.getLogger("fewstep.app")

#: Header in which a request's number comes back.
HEADER = "x-request-id"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what came with it."""

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "about", {})
        time_ = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": time_, "level": record.levelname.lower(), "event": record.getMessage(), **about}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            line["where"] = _where(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False, default=str)


def _where(traceback: Any) -> str:
    """File and line at which an error was raised; its words may hold what a visitor wrote, so they stay out."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno} in {code.co_name}"


def start_logs(stream: Any = None) -> None:
    """Write the app's log to a stream, standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log(event: str, *, error: BaseException | None = None, **about: Any) -> None:
    """Write one line."""
    trace = None if error is None else (type(error), error, error.__traceback__)
    logger.log(logging.ERROR if error else logging.INFO, event, exc_info=trace, extra={"about": about})


def route_of(path: str) -> str:
    """A request's path without names of files, sessions and hashes."""
    path = re.split(r"=|(?<=/file)/|(?<=/assets)/|(?<=/static)/", path, maxsplit=1)[0]
    return re.sub(r"/[0-9a-z]{10,}(?=/|$)", "/*", path)[:80]


class RequestLog:
    """ASGI middleware: gives every HTTP request a number, and logs its route, status and milliseconds."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number, begin, status = secrets.token_hex(4), time.perf_counter(), 0

        async def numbered(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER.encode(), number.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, numbered)
        finally:
            route = route_of(scope["path"])
            if not route.endswith(("/assets", "/static", "/healthz")):
                spent = round(1000 * (time.perf_counter() - begin), 1)
                log("request", id=number, method=scope["method"], route=route, status=status, ms=spent)
