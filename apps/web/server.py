"""The server: the page, its health, and its log."""

from __future__ import annotations

import gc
import os
import socket
import threading
import webbrowser
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .settings import MAX_BYTES, AppSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Seconds between two looks at an empty line; gradio's own thousandth costs 6 % of a core while nobody is there.
_LOOK = 0.05


def offline(settings: AppSettings) -> None:
    """Keep the page's own parts off the network; only a model of the hub, if the owner named one, is fetched.

    To be called before gradio is imported.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if all(os.path.isdir(os.path.expanduser(model)) for model in settings.models):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def build(settings: AppSettings) -> FastAPI:
    """The application; in its state are `bench`, which the tabs share, and `blocks`, the page.

    Raises:
        FileNotFoundError, ValueError: a model or a folder that is not there.
    """
    offline(settings)
    import gradio as gr
    from fastapi import FastAPI

    from .bench import Bench
    from .fence import NoRelay
    from .logs import RequestLog
    from .models import Models
    from .page import page
    from .theme import HEAD, css, theme

    bench = Bench(settings, Models(settings.models))
    blocks = page(bench)
    app = FastAPI(title="fewstep", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(NoRelay)
    app.add_middleware(RequestLog)

    @app.get("/healthz")
    def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "version": version("fewstep"),
            "models": bench.models.loaded,
            "jobs": bench.desk.open_jobs,
            "waiting": len(blocks._queue),
        }

    app = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        auth=settings.auth,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        root_path=settings.root_path or None,
        footer_links=["api"],
        theme=theme(),
        css=css(),
        head=HEAD,
    )
    blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = _LOOK
    app.state.bench, app.state.blocks = bench, blocks
    return app


def free_port(settings: AppSettings) -> int:
    """The port asked for, or a free one where 0 was.

    Raises:
        OSError: something else is there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError:
            raise ValueError(f"port {settings.port} is taken; choose another with --port, or 0 for any") from None
        return int(probe.getsockname()[1])


def serve(settings: AppSettings, *, browser: bool, ready: Any = None) -> None:
    """Serve until interrupted.

    Args:
        settings: of the owner.
        browser: open the page in the browser.
        ready: told the address once the page is there.
    """
    port = free_port(settings)
    gc.disable()  # a quarter of the start would be the search for garbage among modules that stay
    try:
        import uvicorn

        from .logs import start_logs

        app = build(settings)
    finally:
        gc.freeze()
        gc.enable()
    start_logs()
    server = uvicorn.Server(
        uvicorn.Config(app, settings.host, port, log_config=None, access_log=False, timeout_graceful_shutdown=3)
    )
    address = f"http://127.0.0.1:{port}/"

    def when_up() -> None:
        while not server.started and not server.should_exit:
            threading.Event().wait(0.05)
        if server.started:
            if ready is not None:
                ready(address)
            if browser:
                webbrowser.open(address)

    threading.Thread(target=when_up, daemon=True).start()
    try:
        server.run()
    finally:
        app.state.bench.shelf.clear()
