"""What the owner of the server decided, before anyone opened the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Largest upload in bytes, and the most pixels that a picture may have before it is decoded.
MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 16_000_000
#: Most pictures of one run, and most steps.
MAX_COUNT = 9
MAX_STEPS = 100
#: Most characters of a prompt and of a text.
MAX_PROMPT = 1000
MAX_TEXT = 4000
#: Sessions whose state is kept, and seconds after which what one left behind is forgotten.
MAX_SESSIONS = 64
STATE_SECONDS = 3600


@dataclass(frozen=True)
class AppSettings:
    """Options of `fewstep app`.

    Attributes:
        port: where the page is, 0 for any free one.
        listen: answer on every network interface, not on this machine alone.
        auth: user and password, or None for nobody asked.
        models: models beside the shipped ones: folders, or names on the hub.
        folders: folders whose pictures may be picked on the page.
        max_queue: requests that may wait; one more is told that the line is full.
        root_path: where a reverse proxy puts the page, such as ``/fewstep``.
    """

    port: int = 7860
    listen: bool = False
    auth: tuple[str, str] | None = None
    models: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    max_queue: int = 16
    root_path: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, got {self.port}")
        if not 1 <= self.max_queue <= 1000:
            raise ValueError(f"max_queue must be 1 to 1000, got {self.max_queue}")
        if self.auth is not None and not all(self.auth):
            raise ValueError("auth is USER:PASSWORD, and neither may be empty")
        for folder in self.folders:
            if not folder.is_dir():
                raise ValueError(f"there is no folder {str(folder)!r} to allow")

    @property
    def host(self) -> str:
        """Address that the server listens at."""
        return "0.0.0.0" if self.listen else "127.0.0.1"


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """("user", "password") from "user:password"; the password may hold colons.

    Raises:
        ValueError: no colon, or nothing on one side of it.
    """
    if text is None:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ValueError("--auth is USER:PASSWORD, and neither may be empty")
    return user, password
