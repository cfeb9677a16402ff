"""A live server with the shipped models, for the tests of its API and of its page."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the web app needs gradio")

from PIL import Image

from fewstep.apps.web.models import Models
from fewstep.apps.web.settings import AppSettings


@dataclass(frozen=True)
class Live:
    """A server that runs."""

    url: str
    app: Any

    @property
    def bench(self) -> Any:
        return self.app.state.bench


def start(settings: AppSettings) -> tuple[Live, Any, threading.Thread]:
    import uvicorn

    from fewstep.apps.web.server import build, free_port

    port = free_port(settings)
    app = build(settings)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    return Live(f"http://127.0.0.1:{port}/", app), server, thread


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allowed")
    Image.new("RGB", (16, 16), "green").save(folder / "allowed.png")
    (folder / "secret.txt").write_text("not a picture")
    found, server, thread = start(AppSettings(port=0, max_queue=64, folders=(folder,)))
    yield found
    server.should_exit = True
    thread.join(10)
    found.bench.shelf.clear()


@pytest.fixture(scope="session")
def models():
    return Models()


@pytest.fixture
def sneaker() -> Image.Image:
    import fewstep.apps.web

    image = Image.open(Path(fewstep.apps.web.__file__).with_name("examples") / "red-sneaker.png").convert("RGB")
    image.filename = "red-sneaker.png"
    return image


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
