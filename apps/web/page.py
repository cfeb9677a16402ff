"""The page: its head and its tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .bench import Bench
from .compare_tab import compare_tab
from .draw_tab import draw_tab
from .edit_tab import edit_tab
from .fence import FencedBlocks
from .restore_tab import restore_tab
from .settings import MAX_SESSIONS, STATE_SECONDS
from .write_tab import write_tab

_HEAD = """<header class="fs-head"><h1>fewstep</h1><p>Better pictures in fewer network calls</p></header>"""


def page(bench: Bench) -> gr.Blocks:
    """All tabs, not yet served."""
    with FencedBlocks(title="fewstep", analytics_enabled=False, delete_cache=(STATE_SECONDS, STATE_SECONDS)) as made:
        gr.HTML(_HEAD)
        with gr.Tabs(selected="draw") as tabs:
            with gr.Tab("Draw", id="draw"):
                drawing = draw_tab(bench)
            with gr.Tab("Compare", id="compare"):
                compare_tab(bench)
            with gr.Tab("Edit", id="edit"):
                editing = edit_tab(bench)
            with gr.Tab("Restore", id="restore"):
                restore_tab(bench)
            with gr.Tab("Write", id="write"):
                write_tab(bench)
        drawing["onward"].click(
            _onward,
            [drawing["drawn"], drawing["place"], drawing["prompt"]],
            [tabs, editing["picture"], editing["source"]],
            queue=False,
            api_visibility="private",
        )
        made.unload(bench.leave)
    made.queue(max_size=bench.settings.max_queue, default_concurrency_limit=1, api_open=False)
    made.state_session_capacity = MAX_SESSIONS
    return made


def _onward(files: list[str] | None, place: int, prompt: str) -> tuple[Any, ...]:
    """The tab Edit with a picture that was drawn, and what it shows."""
    if not files:
        return gr.skip(), gr.skip(), gr.skip()
    return gr.Tabs(selected="edit"), files[min(place, len(files) - 1)], prompt
