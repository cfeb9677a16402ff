"""What a comparison of samplers of text says: table, plots, the README's part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .benchmark_output import shown
from .task_plots import Panel, panels_figure, write_figure
from .task_verdict import Verdict, compare, summary
from .token_contenders import BIASED

Row = Mapping[str, Any]

_SHOWN = (
    "perplexity", "perplexity_spread", "entropy", "trigram_distance", "trigram_distance_spread", "trigram_tv", "calls",
    "calls_a_text", "skipped", "seconds", "solver_microseconds",
)  # fmt: skip


def markdown_table(rows: Sequence[Row]) -> str:
    """All rows with all figures."""
    head = ["calls asked for", "sampler", *_SHOWN]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for row in rows:
        lines.append(f"| {row['nfe']} | {row['sampler']} | " + " | ".join(shown(row.get(n)) for n in _SHOWN) + " |")
    return "\n".join(lines) + "\n"


def exact_row(rows: Sequence[Row], settings: Mapping[str, Any]) -> Row | None:
    """The row of the model's own law: first hitting with a call a token; None where it was not measured."""
    length = settings["length"]
    return next((r for r in rows if r["sampler"] == "first-hitting" and r["nfe"] >= length and r["perplexity"]), None)


def verdicts(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Verdict]:
    """By perplexity, biased rivals left out; then by the law of 3-grams, all of them."""
    seeds = settings["seeds"]
    found = compare(rows, "perplexity", seeds, lambda row: row["sampler"] not in BIASED)
    return [*found, *compare(rows, "trigram_distance", seeds, floor=0.0)]


def text_table(report: Mapping[str, Any]) -> str:
    """Perplexity, entropy and the law of 3-grams, one row a sampler, one column a number of calls; then in words."""
    rows, settings = report["rows"], report["settings"]
    calls = sorted({row["nfe"] for row in rows})
    lines = ["| sampler | " + " | ".join(f"{n} calls" for n in calls) + " |", "| --- |" + " --- |" * len(calls)]
    at = {(row["sampler"], row["nfe"]): row for row in rows}
    for name in dict.fromkeys(row["sampler"] for row in rows):
        cells = []
        for n in calls:
            row = at.get((name, n))
            if row is None or row.get("perplexity") is None:
                cells.append("–")
                continue
            distance = "" if row["trigram_distance"] is None else f"; {row['trigram_distance']:.2f}"
            mark = "*" if name in BIASED else ""
            cells.append(f"{mark}{row['perplexity']:.2f}{mark} ({row['entropy']:.2f}{distance})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    said = [_real(settings), _exact(rows, settings)]
    found = verdicts(rows, settings)
    for column, what in (("perplexity", "perplexity"), ("trigram_distance", "the law of 3-grams")):
        said.append(summary([v for v in found if v.column == column], what))
    return "\n".join(lines) + "\n\n" + " ".join(sentence for sentence in said if sentence)


def _real(settings: Mapping[str, Any]) -> str:
    if settings.get("reference_perplexity") is None:
        return ""
    distance = settings.get("reference_trigram_distance")
    tail = "" if distance is None else f"; {distance:.2f}"
    what = "Exact texts" if str(settings.get("model")).startswith("oracle:") else "Real text"
    return f"{what}: {settings['reference_perplexity']:.2f} ({settings['reference_entropy']:.2f}{tail})."


def _exact(rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
    exact = exact_row(rows, settings)
    biased = any(row["sampler"] in BIASED for row in rows)
    said = ""
    if exact is not None:
        value = f"{exact['perplexity']:.2f}"
        said = f"The model's own law, which first hitting draws exactly at {exact['nfe']} calls: {value}."
    if biased:
        said += (
            " In italics: samplers that draw where they are surest, whose law never is the model's; "
            "they are rivals by the law of 3-grams, not by perplexity, which dull text lowers."
        )
    return said.strip()


def text_figure(rows: Sequence[Row], settings: Mapping[str, Any]) -> Any:
    """Perplexity, entropy and the distance of the law of 3-grams against calls; or None."""
    panels = [
        Panel("perplexity", "perplexity of the judge", True, settings.get("reference_perplexity")),
        Panel("entropy", "unigram entropy, bits", False, settings.get("reference_entropy")),
        Panel("trigram_distance", "distance of the law of 3-grams, 1e-4", False, 0.0),
    ]
    caption = "solid: fewstep's own, dotted: published methods, dashed: diffusers; grey: real text"
    return panels_figure(rows, panels, caption)


def text_plots(
    rows: Sequence[Row], settings: Mapping[str, Any], folder: str | Path, stem: str = "quality"
) -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``; raises ImportError without matplotlib."""
    return write_figure(text_figure(rows, settings), folder, stem)
