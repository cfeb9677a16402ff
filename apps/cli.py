"""The command line: `fewstep generate`, `fewstep methods`. One file a command; torch is imported inside of them.

Exit codes: 0 done, 2 what was asked cannot be done (one sentence says why), 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .app_command import app as web_app
from .benchmark_command import benchmark
from .edit_command import edit
from .evaluate_command import evaluate
from .generate_command import generate
from .methods_command import methods
from .report_command import report
from .restore_command import restore
from .terminal import notes, output, say_error, say_warning
from .text_command import text
from .tune_command import tune

app = typer.Typer(
    name="fewstep",
    help="Better pictures in fewer network calls, for any diffusers pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        output.print(f"fewstep {version('fewstep')} (diffusers {version('diffusers')}, torch {version('torch')})")
        raise typer.Exit()


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Better pictures in fewer network calls, for any diffusers pipeline."""


app.command(
    "generate",
    # the fields of the methods are options too; which they are is known once torch is imported
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Every field of the chosen method is an option as well: --sampler ghvb --momentum 2.5. "
    "[bold]fewstep methods[/] lists the methods, [bold]fewstep methods NAME[/] the fields of one.",
)(generate)
app.command(
    "text",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Every field of the chosen solver is an option as well: --solver trapezoidal --theta 0.4. "
    "[bold]fewstep methods NAME[/] lists the fields of one.",
)(text)
app.command("edit")(edit)
app.command(
    "restore",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Every field of the chosen method is an option as well: --method diffpir --zeta 0.3.",
)(restore)
app.command("methods")(methods)
app.command("evaluate")(evaluate)
app.command("benchmark")(benchmark)
app.command("report")(report)
app.command("tune")(tune)
app.command("app")(web_app)


_said: set[str] = set()


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # what this package and its samplers have to say, once; deprecations are for developers
    if category is UserWarning and str(message) not in _said:
        _said.add(str(message))
        say_warning(str(message))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. An error is one sentence on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words[: next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))]
    with warnings.catch_warnings():
        _said.clear()
        if not debug:
            warnings.showwarning = _show_warning
        try:
            code = app(words, prog_name="fewstep", standalone_mode=False)
            if code == 130:  # typer's word for Ctrl-C
                notes.print("Interrupted.")
            return code if isinstance(code, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            notes.print("Interrupted.")
            return 130
        except typer.Exit as stop:
            return stop.exit_code
        except BrokenPipeError:  # the reader of our output has gone: `fewstep methods | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if debug:
                raise
            return _explain(error)


def _explain(error: Exception) -> int:
    sentence = str(error).strip()
    if hasattr(error, "format_message"):  # how options were written
        name = type(error).__name__
        if name == "NoArgsIsHelpError":
            output.print(sentence)
            return 2
        command = getattr(getattr(error, "ctx", None), "command_path", "fewstep")
        say_error(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        return 2
    if "out of memory" in sentence.lower() or isinstance(error, MemoryError):
        say_error("the memory of the device is full; try --batch 1, a smaller --size or --dtype float16")
        return 1
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError):
        if isinstance(error, OSError) and error.strerror:
            sentence = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        say_error(sentence)
        return 2
    first = sentence.split("\n")[0] or "no message"
    say_error(f"unexpected {type(error).__name__}: {first}. `fewstep --debug ...` shows where it comes from.")
    return 1


def main() -> None:
    """Entry point of the `fewstep` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
