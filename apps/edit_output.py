"""What `fewstep edit` says of a run, and its sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewstep.pipelines import Edited, Inversion


def cost(calls: int, seconds: float) -> str:
    return f"{calls} network call{'s' if calls != 1 else ''}, {seconds:.2f} seconds"


def ceiling_of(pipe: Any, inversion: Inversion) -> float:
    """PSNR of the picture through the autoencoder alone."""
    from fewstep.pipelines.editing.models import edit_model
    from fewstep.pipelines.editing.pictures import psnr

    model = edit_model(pipe)
    decoded = model.decode(inversion.latents.source, inversion.size)[0].numpy().transpose(1, 2, 0)
    model.free()
    return psnr(inversion.frames[0].inside(inversion.pictures[0].opaque), decoded)


def sheet_of(rows: list[tuple[str, Image]], source: str, target: str, edited: Edited) -> Image:
    settings = edited.settings
    images = [_over_white(image) for _, image in rows]
    name = f"{settings['solver']}, {settings['steps']} steps"
    note = f"from: {source}" if source else "from: (nothing said)"
    return pictures.contact_sheet(
        [(name, settings.get("strategy", ""), images)], [what for what, _ in rows], target, note
    )


def _over_white(image: Image) -> Image:
    from PIL import Image as Images

    if image.mode != "RGBA":
        return image
    ground = Images.new("RGBA", image.size, "white")
    return Images.alpha_composite(ground, image).convert("RGB")
