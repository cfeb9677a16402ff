"""The README's pictures of the web app: each tab after its first example, seen in Chromium.

    python -m fewstep.assets.recipes.screenshots --out assets/images

It needs playwright and a Chromium (`apt-get install chromium`, or `CHROMIUM=/path/to/it`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

#: Tab -> what is done on it before its start button is pressed: buttons by their names.
TABS: dict[str, tuple[str, ...]] = {
    "Draw": ("Red ankle boot",),
    "Compare": (),
    "Edit": ("Coat: green to red",),
    "Restore": ("Denoise",),
    "Write": ("Romeo speaks",),
}
#: Window in pixels, colours of a picture, and most bytes of one.
WINDOW, COLOURS, MOST = (1200, 860), 200, 120_000
_WAIT = 240_000


def serve() -> tuple[str, Any]:
    """The page on a free port of this machine, in a thread; its address, and the server to end."""
    import uvicorn

    from fewstep.apps.web.server import build, free_port
    from fewstep.apps.web.settings import AppSettings

    settings = AppSettings(port=0)
    port = free_port(settings)
    server = uvicorn.Server(uvicorn.Config(build(settings), "127.0.0.1", port, log_config=None))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return f"http://127.0.0.1:{port}/", server


def shot(page: Any, tab: str, buttons: tuple[str, ...]) -> bytes:
    """One tab with a result, as PNG."""
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    start = panel.get_by_role("button", name=tab, exact=True)
    start.wait_for()
    for name in buttons:
        panel.get_by_role("button", name=name, exact=True).click()
    if tab in ("Edit", "Restore"):
        panel.get_by_text("The picture is here.").wait_for()
    start.click()
    panel.locator(".fs-done").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(2500)  # pictures arrive after the line that says what they cost
    return bytes(page.screenshot(full_page=True))


def small(picture: bytes) -> bytes:
    """The picture as it is, or with a palette where it is too large.

    Raises:
        ValueError: it is above `MOST` bytes all the same.
    """
    from PIL import Image

    image = Image.open(BytesIO(picture)).convert("RGB")
    image.save(buffer := BytesIO(), "PNG", optimize=True)
    if len(buffer.getvalue()) > MOST:
        fewer = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE)
        fewer.save(buffer := BytesIO(), "PNG", optimize=True)
    if len(buffer.getvalue()) > MOST:
        raise ValueError(f"a picture has {len(buffer.getvalue())} bytes, and {MOST} are the most")
    return buffer.getvalue()


def main() -> None:
    """Write `web-TAB.png` for every tab."""
    from fewstep.pipelines.files import write_atomically

    parser = argparse.ArgumentParser(description="The README's pictures of the web app.")
    parser.add_argument("--out", type=Path, default=Path("assets/images"), help="folder of the pictures")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        parser.error("there is no Chromium; apt-get install chromium")
    if not options.out.is_dir():
        parser.error(f"there is no folder {str(options.out)!r}")
    from playwright.sync_api import sync_playwright

    address, server = serve()
    width, height = WINDOW
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if options.dark else "light"
        )
        page.set_default_timeout(_WAIT)
        page.goto(address, wait_until="commit")
        for tab, buttons in TABS.items():
            picture = small(shot(page, tab, buttons))
            write_atomically(options.out / f"web-{tab.lower()}.png", picture)
            print(f"web-{tab.lower()}.png", len(picture), "bytes")
        browser.close()
    server.should_exit = True


if __name__ == "__main__":
    main()
