"""`fewstep app`: the web app."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .terminal import notes, output, say_warning


def app(
    port: Annotated[int, typer.Option(help="Port of the page; 0 is any free one.")] = 7860,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    listen: Annotated[
        bool, typer.Option("--listen", help="Answer on every network interface; give --auth with it.")
    ] = False,
    auth: Annotated[str | None, typer.Option(help="USER:PASSWORD that the page asks for.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model beside the shipped ones: a folder, or owner/name on the hub. May be repeated."),
    ] = None,
    allow: Annotated[
        list[Path] | None, typer.Option(help="A folder whose pictures may be picked on the page. May be repeated.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait; one more is told that the line is full.")
    ] = 16,
    root_path: Annotated[str, typer.Option(help="Where a reverse proxy puts the page, such as /fewstep.")] = "",
) -> None:
    """A page in the browser to draw, compare, write, edit and restore. It works offline on the shipped models.

    The log is JSON on standard error, one line an event. Ctrl+C ends it.
    """
    from .web.settings import AppSettings, parse_auth

    settings = AppSettings(
        port, listen, parse_auth(auth), tuple(model or ()), tuple(allow or ()), max_queue, root_path.rstrip("/")
    )
    if find_spec("gradio") is None:
        raise ImportError("the web app needs gradio; install it with pip install 'fewstep[app]'")
    from .web.server import serve

    if listen and settings.auth is None:
        say_warning(
            "--listen without --auth: ANYONE who reaches this machine may use the page. Give --auth USER:PASSWORD."
        )
    notes.print("starting ...")
    serve(settings, browser=browser, ready=lambda address: output.print(f"fewstep is at {address}", markup=False))
    notes.print("Closed.")
