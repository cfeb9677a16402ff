"""A live server with the shipped models, and a browser, for the tests of its API and of its page."""

from __future__ import annotations

import os
import re
import shutil
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


#: Debian's Chromium, or the one of the environment; screenshots go to a folder that git ignores.
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = Path(__file__).parents[3] / "runs" / "screenshots"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--disable-extensions",
]
#: Milliseconds; a slow machine is no error.
_WAIT = 120_000


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=_FLAGS, timeout=_WAIT)
        yield found
        found.close()


class Visit:
    """One tab of the page, as a visitor has it."""

    def __init__(self, page: Any, tab: str) -> None:
        self.page, self.tab = page, tab
        self.open(tab)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()
        self.panel = self.page.locator("[role=tabpanel]:visible")
        self.button(tab).wait_for()

    def button(self, name: str) -> Any:
        return self.panel.get_by_role("button", name=name, exact=True)

    def fold(self, name: str) -> Any:
        """The button that opens a part; an arrow follows in its name."""
        return self.panel.get_by_role("button", name=re.compile(f"^{name}"))

    def field(self, name: str) -> Any:
        """The input whose label begins with a name; its help follows in the label."""
        return self.panel.get_by_label(re.compile(rf"^\s*{name}(?! with|\w)")).locator("visible=true").first

    def slide(self, name: str, value: int) -> None:
        box = self.panel.get_by_label(f"number input for {name}", exact=True)
        box.fill(str(value))
        box.press("Tab")

    def choose(self, name: str, value: str) -> None:
        self.field(name).click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def upload(self, file: Path) -> None:
        self.panel.locator("input[type=file]").first.set_input_files(file)
        self.panel.locator(".image-frame img").first.wait_for()

    def finished(self) -> str:
        """What the status line says once the run is over."""
        line = self.panel.locator(".fs-done, .fs-failed, .fs-stopped").first
        line.wait_for()
        return line.inner_text()

    def download(self, name: str, folder: Path) -> Path:
        with self.page.expect_download() as coming:
            self.panel.get_by_text(name, exact=True).click()
        target = folder / coming.value.suggested_filename
        coming.value.save_as(target)
        return target

    def code(self) -> str:
        """The command line and the Python that are shown."""
        self.fold("Command line and Python").click()
        self.panel.locator(".cm-content").first.wait_for()
        return "\n".join(self.panel.locator(".cm-content").all_inner_texts())

    def keep(self, name: str) -> None:
        """A screenshot of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.fixture
def visit(chromium, live):
    """Opens a tab; at the end no other server may have been asked, and no script may have failed."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened(tab: str, width: int = 1280, dark: bool = False) -> Visit:
        scheme = "dark" if dark else "light"
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(_WAIT)
        page.set_default_navigation_timeout(_WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(live.url, wait_until="commit")
        return Visit(page, tab)

    yield opened
    for context in contexts:
        context.close()
    hosts = {re.sub(r"^\w+://([^/:]*).*", r"\1", url) for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert errors == []
