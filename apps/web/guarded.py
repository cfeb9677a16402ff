"""Components that take pictures of strangers: what arrives is checked before anything decodes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio import component_meta

from .fence import UPLOAD
from .messages import sentence_of
from .settings import MAX_BYTES, MAX_PIXELS
from .uploads import Refused, painted, read_upload


def _read(source: Any) -> Any:
    try:
        return read_upload(source)
    except ValueError as error:
        return Refused(sentence_of(error))


@contextmanager
def _no_stubs() -> Iterator[None]:
    """gradio writes a .pyi file beside every module that defines a component, here into the installed package."""
    write = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write


with _no_stubs():

    class PictureUpload(gr.Image):
        """A picture of a visitor; handlers get it as PIL, decoded by `read_upload`."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            if payload is None:
                return None
            if payload.path is None:
                raise gr.Error(UPLOAD, duration=8, print_exception=False)
            image = _read(payload.path)
            if isinstance(image, Refused):
                return image
            image.filename = (payload.orig_name or "picture.png").replace("\\", "/").rsplit("/", 1)[-1][:80]
            return image

    class MaskBrush(gr.ImageEditor):
        """A picture to paint on; handlers get what was painted, as a mask, and no picture."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            if payload is None:
                return None
            found = payload
            if payload.id is not None:
                found = self.blob_storage.pop(payload.id, None)
                if found is None:
                    return None
            layers = [layer for layer in found.layers or [] if layer is not None]
            images = [_read(layer if isinstance(layer, bytes | bytearray) else layer.path) for layer in layers[:8]]
            bad = next((image for image in images if isinstance(image, Refused)), None)
            return bad or (painted(images, images[0].size) if images else None)

        def accept_blobs(self, data: Any) -> Any:
            """What the brush sends piece by piece is bounded like an upload, and few unfinished ones are kept."""
            content = data.files[0][1] if data.files else b""
            if len(content) > MAX_BYTES:
                raise gr.Error(f"At most {MAX_BYTES // 2**20} MB are taken.", print_exception=False)
            index = str(data.data.get("index") or "null")
            if index != "null" and not (index.isdigit() and int(index) <= 8):
                raise gr.Error("At most 8 layers are taken.", print_exception=False)
            while len(self.blob_storage) > 16:
                self.blob_storage.pop(next(iter(self.blob_storage)))
            return super().accept_blobs(data)

        accept_blobs._is_server_fn = True  # type: ignore[attr-defined]  # what gradio's own decorator sets


#: For texts of the page.
LIMITS = f"At most {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} megapixels."
