"""The tables and plots of the README: made from the registry and from the figures in assets/results, never by hand.

``fewstep report`` or ``python -m fewstep.eval.report`` draws the plots and rewrites what stands between the markers in
README.md; ``--check`` only compares the text.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fewstep.assets
from fewstep.pipelines.files import write_atomically
from fewstep.samplers import methods

from .cache_output import caches_table
from .comparison import Winner, winners
from .editing_output import editing_plots, editing_table
from .restoration_output import restoration_plots, restoration_table
from .stsl_ablation import stsl_table
from .text_output import text_plots, text_table
from .token_output import token_plots, token_table

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


def _load(name: str, results: Path | None = None) -> dict[str, Any] | None:
    path = (results or RESULTS) / f"{name}.json"
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


def bound_table(report: dict[str, Any]) -> str:
    """Bits a token of held-out text, one row an order of places, one column a number of calls."""
    calls = sorted({row["nfe"] for row in report["rows"]})
    lines = [
        "| places drawn together | " + " | ".join(f"{n} calls" for n in calls) + " |",
        "| --- |" + " --- |" * len(calls),
    ]
    for order in dict.fromkeys(row["order"] for row in report["rows"]):
        found = {row["nfe"]: row for row in report["rows"] if row["order"] == order}
        lines.append(
            f"| {order} | " + " | ".join(f"{found[n]['bits']:.3f} ± {found[n]['error']:.3f}" for n in calls) + " |"
        )
    return "\n".join(lines)


def _side(row: Mapping[str, Any] | None, column: str) -> str:
    return "–" if row is None else f"{row[column]:.3g}, {row['sampler'].removeprefix('diffusers ')} ({row['grid']})"


def _where(lost: Sequence[Winner]) -> str:
    return "; ".join(f"guidance {w.guidance:g}, {w.nfe} calls ({_name(w.column)} {w.ratio:.2f} times)" for w in lost)


def _name(column: str) -> str:
    return {"rmse": "error", "median_error": "median error", "fid": "FID", "kid": "KID"}.get(column, column)


def winners_table(report: dict[str, Any]) -> str:
    """Our best sampler against the best of diffusers' at every guidance and number of calls, and where we lose.

    Samplers that were tuned for the model have a table of their own: diffusers has nothing of the kind.
    """
    tuned = [row for row in report["rows"] if row["grid"] == "tuned"]
    rows = [row for row in report["rows"] if row["grid"] != "tuned"]
    parts = [
        _compared(rows, None, "Each side's best sampler at its best grid"),
        _compared(rows, "default", "The same at the default grids"),
    ]
    return "\n\n".join(parts + ([tuned_table(report)] if tuned else []))


def tuned_table(report: dict[str, Any]) -> str:
    """The samplers that were tuned for the model against the best of diffusers'."""
    tuned = [row for row in report["rows"] if row["grid"] == "tuned"]
    scales = {row["guidance"] for row in tuned}
    rivals = [row for row in report["rows"] if row["family"] == "diffusers" and row["guidance"] in scales]
    title = "The samplers tuned for this model at guidance 3 (`assets/tuned`) against the best of diffusers'"
    return _compared([*tuned, *rivals], None, f"{title} at its best grid", ("rmse", "median_error", "fid"))


def _compared(
    rows: Sequence[Mapping[str, Any]], only: str | None, title: str, of: Sequence[str] = ("rmse", "fid")
) -> str:
    """One table of winners: a row a guidance and number of calls, three cells a column that was measured."""
    columns = [column for column in of if any(row.get(column) is not None for row in rows)]
    head = ["guidance", "calls"]
    for column in columns:
        head += [f"{_name(column)}, fewstep", f"{_name(column)}, diffusers", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    found = {column: {(w.guidance, w.nfe): w for w in winners(rows, column, only)} for column in columns}
    for pair in sorted({pair for some in found.values() for pair in some}):
        cells = [f"{pair[0]:g}", f"{pair[1]}"]
        for column in columns:
            w = found[column].get(pair)
            ratio = "–" if w is None or w.ratio != w.ratio else f"{w.ratio:.2f}"
            bold = w is not None and w.ratio < 0.995
            ours, theirs = (None, None) if w is None else (w.ours, w.theirs)
            cells += [_side(ours, column), _side(theirs, column), f"**{ratio}**" if bold else ratio]
        lines.append("| " + " | ".join(cells) + " |")
    lost = [w for column in columns for w in found[column].values() if w.lost]
    said = f"We lose at {_where(lost)}." if lost else "At none of these does a sampler of diffusers do better."
    return f"{title} (ratio: ours over theirs, bold where we win):\n\n" + "\n".join(lines) + f"\n\n{said}"


def guidance_table(report: dict[str, Any]) -> str:
    """Pictures that the judge finds right, one row a way of guidance, one column a pair of scale and steps."""
    rows = report["rows"]
    pairs = list(dict.fromkeys((row["guidance"], row["steps"]) for row in rows))
    steps = list(dict.fromkeys(row["steps"] for row in rows))
    lines = [
        f"| way | {' | '.join(f'g {g:g}, {n} steps' for g, n in pairs)} | evaluations |",
        "| --- |" + " --- |" * (len(pairs) + 1),
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        here = {(row["guidance"], row["steps"]): row for row in rows if row["way"] == way}
        cells = [f"{100 * here[pair]['all']:.0f} %" if pair in here else "–" for pair in pairs]
        made = [sorted({row["evaluations"] for (_, n), row in here.items() if n == wanted}) for wanted in steps]
        cells.append(", ".join(" to ".join(f"{value:g}" for value in values) for values in made if values))
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def roots_table(report: dict[str, Any]) -> str:
    """Seconds and error of every way to the square root, one row a variant."""
    lines = ["| square root | sweeps | seconds | FID off by |", "| --- | --- | --- | --- |"]
    for row in report["rows"]:
        off = "–" if row.get("fid_error") is None else f"{row['fid_error']:.0e}"
        name = row["variant"] if "scipy" in row["variant"] else f"`{row['variant']}`"
        lines.append(f"| {name} | {row['sweeps'] or '–'} | {row['seconds']:.1f} | {off} |")
    return "\n".join(lines)


#: Result files that have plots: name -> what the README says under the picture.
PLOTTED = {"samplers-garments": "Solver error against network calls, one line a sampler"}

#: Result files of tasks: name -> what the picture shows, and how it is drawn into a folder under a stem.
DRAWN: dict[str, tuple[str, Callable[[dict[str, Any], Path, str], list[Path]]]] = {
    "text-verses": (
        "Perplexity, entropy and 3-grams of texts against network calls, one line a sampler",
        lambda report, folder, stem: text_plots(report["rows"], report["settings"], folder, stem),
    ),
    "tokens-garments": (
        "FID and accuracy of token pictures against network calls, one line a sampler",
        lambda report, folder, stem: token_plots(report["rows"], folder, stem),
    ),
    "editing-garments": (
        "Edits that reach the target and keep the rest, and what stays of the picture, against network calls",
        lambda report, folder, stem: editing_plots(report["rows"], folder, stem),
    ),
    "restoration-photo": (
        "PSNR of restored photographs against network evaluations, one panel a degradation",
        lambda report, folder, stem: restoration_plots(report["rows"], folder, stem),
    ),
}

#: result file, what it says, how its table is made
Section = tuple[str, str, Callable[[dict[str, Any]], str]]

SECTIONS: tuple[Section, ...] = (
    (
        "samplers-garments",
        "Every sampler of ours and of diffusers on `garments` at equal numbers of network calls, same noise. The error "
        "is the root mean square distance of the final latents to the solution of the same ODE; FID is that of the "
        "judge's features.",
        winners_table,
    ),
    (
        "samplers-garments-closest",
        "The closest once more on 256 pictures: a few pictures that end in another place make most of the error, so "
        "the ratios on 48 pictures above are partly chance.",
        tuned_table,
    ),
    (
        "samplers-garments-guidance",
        "Without guidance and with strong guidance, solver error alone:",
        winners_table,
    ),
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

#: Marked parts with a table of their own, beside what the README says about it.
PARTS: dict[str, Section] = {
    "guidance": (
        "guidance-garments",
        "Share of {samples} pictures in which the judge finds the garment, the colour and the background asked for, on "
        "`garments`, an epsilon model; evaluations of the network for one picture at each number of steps:",
        guidance_table,
    ),
    "caches": (
        "cache-garments",
        "PSNR to the run of 30 steps without a cache on `garments`, the median over {samples} pictures, and how many "
        "times faster the run is:",
        caches_table,
    ),
    "text": (
        "text-verses",
        "Perplexity of `verses-judge` for texts of `verses`, mean over {seeds} seeds of {samples} texts each; in "
        "brackets the unigram entropy in bits (dull text has little) and the squared distance of the law of 3-grams to "
        "that of held-out text in 1e-4, without bias. Less is better but for the entropy, which should be that of "
        "real text:",
        text_table,
    ),
    "bound": (
        "text-bound",
        "The same without a judge: the bound in bits a character of held-out text ({texts} windows of {length}) under "
        "the law of `verses` drawn in so many calls, tokens of a call independently (drawn one at a time at random "
        "places, the usual evidence bound, it is on the model's card):",
        bound_table,
    ),
    "chain": (
        "text-chain",
        "Uniform noise, where `DiscreteDDIMScheduler` has its place, on a Markov chain of letters whose denoiser is "
        "exact, so that every error is the sampler's. Perplexity, in brackets unigram entropy and the distance of the "
        "law of 3-grams, as above, mean over {seeds} seeds of {samples} texts:",
        text_table,
    ),
    "tokens": (
        "tokens-garments",
        "FID of the judge's features for {seeds} times {samples} pictures of `garments-tokens`; in brackets the share "
        "in which the judge finds the garment and the colour asked for:",
        token_table,
    ),
    "editing": (
        "editing-garments",
        "Edits of {samples} test pictures of Fashion-MNIST, painted, by `garments-flow` (`ddim`: by `garments`). The "
        "share in which the target is reached and the rest kept; in brackets the share of either. Last column: "
        "structure distance in 1e-3; PSNR and SSIM outside of the edited region; PSNR of the reconstruction by the "
        "same inversion:",
        editing_table,
    ),
    "restoration": (
        "restoration-photo",
        "Luma PSNR in dB of {samples} Kodak photographs that `photo-prior` was not trained on (squares from their "
        "centres; colorize: PSNR of the colours, its luma is what was measured), and SSIM in brackets; bold is the "
        "best of a column. Evaluations of the network for one picture, forward and backward ones alike; rows without "
        "a network call none, and `ddnm 100` takes 100 of them, out of competition. One seed of noise and of missing "
        "pixels:",
        restoration_table,
    ),
    "stsl": (
        "stsl-garments",
        "STSL with its second-order term (η = 0.02) and without (η = 0) on `garments`: {samples} pictures that the "
        "model drew, measured without noise and restored without a prompt, same starts and noise. PSNR of the decoded "
        "picture, root mean square residual in the scale of [-1, 1], paired differences with their standard errors, "
        "and evaluations of the network for one picture (the published runs have 50 noise levels):",
        stsl_table,
    ),
    "roots": (
        "sqrtm",
        "The square root in the FID at 2048 features, one thread, covariances that are nearly singular, as real ones:",
        roots_table,
    ),
}


def _picture(name: str, images: Path) -> str:
    if name in DRAWN:
        path = images / f"{name}.png"
        return f"![{DRAWN[name][0]}](assets/images/{path.name})\n\n" if path.exists() else ""
    path = images / f"{name}-rmse.png"
    return f"![{PLOTTED[name]}](assets/images/{path.name})\n\n" if name in PLOTTED and path.exists() else ""


def measured(results: Path | None = None, images: Path | None = None) -> str:
    """The section of measured results: each table with the command that makes it, and its plot where there is one."""
    images = images or RESULTS.parent / "images"
    return "\n\n".join(part for section in SECTIONS if (part := _section(section, results, images)))


def _section(section: Section, results: Path | None = None, images: Path | None = None) -> str:
    """Heading, plot, table and command of a result file; nothing while there is no such file."""
    name, heading, table = section
    report = _load(name, results)
    if report is None:
        return ""
    note = f"\n\n{report['note']}" if report.get("note") else ""
    picture = "" if images is None else _picture(name, images)
    for key in ("samples", "seeds", "texts", "length"):
        heading = heading.replace(f"{{{key}}}", str(report.get("settings", {}).get(key)))
    return f"{heading}\n\n{picture}{table(report)}{note}\n\n```bash\n{report['command']}\n```"


def rewritten(readme: str, results: Path | None = None, images: Path | None = None) -> str:
    """README text with every marked part made anew.

    Raises:
        ValueError: a marker is missing. Those of `PARTS` may be left out together.
    """
    makes: dict[str, Callable[[], str]] = {"methods": methods_table, "measured": lambda: measured(results, images)}
    drawn = images or RESULTS.parent / "images"
    makes |= {marker: partial(_section, section, results, drawn) for marker, section in PARTS.items()}
    for marker, make in makes.items():
        begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(readme):
            if marker in PARTS and begin not in readme and end not in readme:
                continue
            raise ValueError(f"README.md has no part marked {begin} ... {end}")
        before, after = pattern.split(readme, maxsplit=1)
        text = make()
        readme = f"{before}{begin}\n\n{text}\n\n{end}{after}" if text else f"{before}{begin}\n{end}{after}"
    return readme


def make_report(
    readme: Path, results: Path | None = None, images: Path | None = None, check: bool = False
) -> tuple[bool, list[Path]]:
    """Draw the plots and rewrite the README, or with `check` only compare its text.

    Args:
        readme: the file.
        results: folder of result files; by default the package's.
        images: folder of the plots; by default assets/images beside the README.
        check: change nothing.

    Returns:
        Whether the text was up to date, and the files that were written.
    """
    images = images or readme.parent / "assets" / "images"
    files: list[Path] = []
    if not check:
        from .plots import quality_plots

        for name in PLOTTED:
            report = _load(name, results)
            if report is not None:
                files += quality_plots(report["rows"], images, name)
        for name, (_, draw) in DRAWN.items():
            report = _load(name, results)
            if report is not None:
                files += draw(report, images, name)
    before = readme.read_text(encoding="utf-8")
    after = rewritten(before, results, images)
    if not check and before != after:
        write_atomically(readme, after.encode())
        files.append(readme)
    return before == after, files


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite README.md in the current folder, or compare; 1 if it was or is out of date with --check."""
    parser = argparse.ArgumentParser(prog="python -m fewstep.eval.report", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of date")
    parser.add_argument("--readme", default="README.md", help="the file to rewrite (default README.md)")
    options = parser.parse_args(arguments)
    path = Path(options.readme)
    if not path.exists():
        parser.error(f"there is no {path}")
    current, files = make_report(path, check=options.check)
    for file in files:
        print(file)
    return int(options.check and not current)


if __name__ == "__main__":
    raise SystemExit(main())
