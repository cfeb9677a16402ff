"""`fewstep report`: the tables and plots of the README, made again from assets/results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import output


def report(
    readme: Annotated[str, typer.Option(help="The file whose marked parts are rewritten.")] = "README.md",
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if it is out of date.")] = False,
    results: Annotated[str | None, typer.Option(help="Folder of result files; by default the package's.")] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder for the plots; by default assets/images beside the README.")
    ] = None,
) -> None:
    """Make every table and plot of the README from the result files."""
    from fewstep.eval.report import make_report

    path = Path(readme)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; say where the README is with --readme")
    current, files = make_report(
        path, None if results is None else Path(results), None if images is None else Path(images), check
    )
    if check:
        output.print(f"{path} is {'up to date' if current else 'out of date'}")
        if not current:
            raise typer.Exit(1)
        return
    for file in files:
        output.print(str(file))
