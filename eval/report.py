"""The tables of the README: made from the registry and from the figures in assets/results, never by hand.

``python -m fewstep.eval.report`` rewrites what stands between the markers in README.md; ``--check`` only compares.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fewstep.assets
from fewstep.samplers import methods

RESULTS = Path(fewstep.assets.__file__).parent / "results"


def methods_table() -> str:
    """One row a registered method, with its default fields."""
    lines = [
        "| method | when | order | calls a step | latents kept | paper |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, cls in sorted(methods().items()):
        spec, paper = cls().spec, cls.references[0]
        author = paper.authors.split(" and ")[0].split()[-1] + (" et al." if " and " in paper.authors else "")
        lines.append(
            f"| `{name}` | {cls.summary} | {spec.order} | {spec.calls} | {spec.history} "
            f"| {author} {paper.year}, [{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}) |"
        )
    return "\n".join(lines)


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def overhead_table(report: dict[str, Any]) -> str:
    """Microseconds of one step, one row a scheduler, one column a shape."""
    shapes = list(dict.fromkeys("x".join(map(str, row["shape"])) for row in report["rows"]))
    lines = [
        "| scheduler | " + " | ".join(f"{shape}, µs (of DPM++ 2M)" for shape in shapes) + " |",
        "| --- |" + " --- |" * len(shapes),
    ]
    for name in dict.fromkeys(row["scheduler"] for row in report["rows"]):
        cells = [f"{r['microseconds']:.0f} ({r['ratio']:.2f})" for r in report["rows"] if r["scheduler"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def momentum_table(report: dict[str, Any]) -> str:
    """Solver errors, one row a method, one column a pair of guidance and steps."""
    pairs = list(dict.fromkeys((row["guidance"], row["nfe"]) for row in report["rows"]))
    lines = [
        "| method | " + " | ".join(f"g {g:g}, {n} steps" for g, n in pairs) + " |",
        "| --- |" + " --- |" * len(pairs),
    ]
    for name in dict.fromkeys(row["method"] for row in report["rows"]):
        cells = [f"{row['rmse']:.2g}" for row in report["rows"] if row["method"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


#: result file, heading, how its table is made, what it says
SECTIONS = (
    (
        "momentum-garments",
        "Solver error on `garments`: root mean square distance of the final latents to a converged run from the same "
        "noise.",
        momentum_table,
    ),
    (
        "momentum-gaussian",
        "Solver error on the guided Gaussian (closed form; the exact answer's own root mean square is 0.25, an error "
        "well above it is a divergence).",
        momentum_table,
    ),
    ("overhead", "Time of one `step()` beside the network, one thread, median of interleaved runs.", overhead_table),
)


def measured() -> str:
    """The section of measured results: each table with the command that makes it."""
    parts = []
    for name, heading, table in SECTIONS:
        report = _load(name)
        if report is not None:
            note = f"\n\n{report['note']}" if report.get("note") else ""
            parts.append(f"{heading}\n\n{table(report)}{note}\n\n```bash\n{report['command']}\n```")
    return "\n\n".join(parts)


def rewritten(readme: str) -> str:
    """README text with every marked part made anew."""
    for marker, make in (("methods", methods_table), ("measured", measured)):
        begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(readme):
            raise ValueError(f"README.md has no part marked {begin} ... {end}")
        before, after = pattern.split(readme, maxsplit=1)
        readme = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return readme


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite README.md in the current folder, or compare; 1 if it was or is out of date with --check."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.report", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of date")
    parser.add_argument("--readme", default="README.md", help="the file to rewrite (default README.md)")
    options = parser.parse_args(arguments)
    path = Path(options.readme)
    if not path.exists():
        parser.error(f"there is no {path}")
    before = path.read_text()
    after = rewritten(before)
    if options.check:
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
