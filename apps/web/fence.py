"""What only a client that is not the page asks for: files of the server as uploads, and addresses elsewhere.

gradio looks whether a file of a request was uploaded only once `launch` has run, which a mounted page never does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio_client.utils import is_file_obj, traverse

#: The answer to a picture that did not come as an upload.
UPLOAD = "Upload the picture as a file; paths and addresses are not taken."


def refuse_addresses(values: Any) -> None:
    """Raise `gr.Error` where a file among the inputs of a request is an address, which gradio would fetch.

    Args:
        values: of the request, as JSON gives them.
    """

    def look(found: dict[str, Any]) -> dict[str, Any]:
        if "://" in str(found.get("path") or "") or str(found.get("url") or "").startswith("data:"):
            raise gr.Error(UPLOAD, duration=8, print_exception=False)
        return found

    traverse(values, look, is_file_obj)


class FencedBlocks(gr.Blocks):
    """Blocks whose inputs are uploads of a visitor or no files at all; what is wrong with them is a sentence."""

    def __exit__(self, *about: Any) -> None:
        super().__exit__(*about)
        self.has_launched = True

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        refuse_addresses(inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except InvalidPathError:
            raise gr.Error(UPLOAD, duration=8, print_exception=False) from None
        except gr.Error as error:
            error.print_exception = False
            raise


class NoRelay:
    """ASGI middleware: the server fetches nothing for a visitor, though gradio's routes of files and proxies would."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not ("/proxy=" in path or ":/" in path):
            await self.app(scope, receive, send)
            return
        body = json.dumps({"detail": "This server fetches nothing from elsewhere."}).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 404, "headers": head})
        await send({"type": "http.response.body", "body": body})
