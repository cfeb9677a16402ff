"""Pictures in a table with heads of rows and columns, as HTML; every word escaped."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from .compare import REFERENCE_STEPS, Compared

if TYPE_CHECKING:
    from PIL.Image import Image

#: Longest side of a picture in a table; larger ones are reduced.
_LONGEST = 320
_SMALL = 128


def data_url(image: Image) -> str:
    """A picture inside of the page; one above `_LONGEST` pixels is reduced."""
    shown = image.convert("RGB")
    if max(shown.size) > _LONGEST:
        shown.thumbnail((_LONGEST, _LONGEST))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture(image: Image, alt: str) -> str:
    """An <img>, pixel by pixel where the picture is small."""
    kind = ' class="fs-pixels"' if max(image.size) < _SMALL else ""
    return f'<img{kind} src="{data_url(image)}" alt="{html.escape(alt, quote=True)}">'


def comparison(found: Compared, view: str) -> str:
    """The table of a comparison.

    Args:
        found: the comparison.
        view: ``"pictures"`` or ``"differences"``.
    """
    counts, best = found.request.steps, found.best
    heads = "".join(f'<th scope="col">{n} steps</th>' for n in counts)
    caption = f"Seed {found.request.seed}, guidance {found.request.guidance:g}; error: distance to the solution"
    rows = []
    for name in found.request.samplers:
        shown = html.escape(name.removeprefix("diffusers:").removesuffix("Scheduler"))
        small = "<br><small>of diffusers</small>" if name.startswith("diffusers:") else ""
        cells = [f'<th scope="row">{shown}{small}</th>']
        for n in counts:
            cell = found.cells[name, n]
            if cell.image is None or cell.difference is None:
                cells.append(f"<td><small>{html.escape(cell.reason)}</small></td>")
                continue
            image = cell.image if view == "pictures" else cell.difference
            what = "picture" if view == "pictures" else "difference from the solution"
            least = len(found.request.samplers) > 1 and f"{cell.error:.3f}" == f"{best[n]:.3f}"
            kind = ' class="fs-best"' if least else ""
            words = f"error {cell.error:.3f}" + (" · least" if kind else "")
            alt = f"{what} of {name} in {n} steps"
            calls = f"{cell.calls} calls · {cell.seconds:.2f} s"
            cells.append(f"<td>{picture(image, alt)}<small{kind}>{words}</small><small>{calls}</small></td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    solution = picture(found.reference, "picture of the solution")
    last = f'<tr><th scope="row">solution</th><td>{solution}<small>{REFERENCE_STEPS} steps</small></td></tr>'
    return (
        '<div class="fs-scroll" tabindex="0" role="region" aria-label="Comparison of samplers">'
        f'<table class="fs-table"><caption class="fs-method">{html.escape(caption)}</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}{last}</tbody></table></div>"
    )
