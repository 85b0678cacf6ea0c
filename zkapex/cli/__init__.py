"""The command line: ``zkapex``. One module per command; this one turns errors into sentences and exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
import typer.core
from rich.console import Console

from zkapex import __version__
from zkapex.errors import Error, ResourceError, StorageError

INTERRUPTED = 130
READER_GONE = 141
"""As a shell has it of a program that SIGPIPE ended."""

UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Of click, or of the copy of it that newer releases of typer bring: so click is not named."""

# Help is plain text here (rich_markup_mode), yet with rich installed typer 0.20 escapes the brackets in it.
typer.core.HAS_RICH = False

app = typer.Typer(
    name="zkapex",
    help="Federated unlearning that proves itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zkapex {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Federated unlearning that proves itself: deletion requests, zero-knowledge proofs, signed receipts."""


def command_line() -> typer.Typer:
    """The application with all its commands.

    Each command imports what it needs when it runs: `verify` must start without torch and Flower.
    """
    if app.registered_commands:
        return app
    from zkapex.cli import (
        attack,
        bench,
        demo,
        device,
        estimate,
        evaluate,
        keys,
        ledger,
        new,
        receipts,
        report,
        server,
        srs,
        verify,
    )  # fmt: skip

    app.command("demo")(demo.demo)
    app.command("attack")(attack.attack)
    app.command("evaluate")(evaluate.evaluate)
    app.command("new")(new.new)
    app.command("verify")(verify.verify)
    app.command("report")(report.report)
    app.add_typer(receipts.app, name="receipts")
    app.add_typer(ledger.app, name="ledger")
    app.add_typer(keys.app, name="keys")
    app.add_typer(srs.app, name="srs")
    app.add_typer(server.app, name="server")
    app.add_typer(device.app, name="device")
    app.add_typer(bench.app, name="bench")
    app.command("estimate")(estimate.estimate)
    return app


def main() -> None:
    """Run the command line and exit with a documented code (``docs/exit-codes.md``)."""
    commands = command_line()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name or a line of a table is no reason to fail

    def run() -> object:
        return commands(prog_name="zkapex", standalone_mode=False)

    sys.exit(guarded(run))


def _broken_pipe(console: Console) -> None:
    """In place of rich's own, which ends the process as if something had failed."""
    raise BrokenPipeError


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; explain on standard error whatever stops it, and return the exit code."""
    Console.on_broken_pipe = _broken_pipe  # type: ignore[method-assign, assignment]
    try:
        code = action()
        sys.stdout.flush()  # here, a reader that has gone is noticed in time
    except Error as error:
        return fail(error)
    except BrokenPipeError:
        return _reader_gone()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as end:  # typer's way of ending when a pipe is broken
        if isinstance(end.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except UsageError as error:  # options that do not exist, values that do not parse
        error.show()
        return int(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return fail(
                StorageError("the disk is full", why=str(error), fix="free space, then run again with --resume")
            )
        if isinstance(error, MemoryError):
            return fail(ResourceError("memory ran out", fix="close other programs, or use fewer workers"))
        if os.environ.get("ZKAPEX_DEBUG"):
            traceback.print_exc()
        return fail(
            Error(
                f"something went wrong that zkapex did not expect: {type(error).__name__}",
                why=str(error)[:1000],
                fix="set ZKAPEX_DEBUG=1 to see where, and report it",
            )
        )
    if code == INTERRUPTED:  # typer swallows Ctrl-C and returns its code
        console = Console(stderr=True, soft_wrap=True)
        console.print("Interrupted. What was finished is kept. To go on, run the same again: a demo with --resume.")
    return code if isinstance(code, int) else 0


def _reader_gone() -> int:
    """Whoever read our output has read enough, as head does. What is still buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return READER_GONE


def fail(error: Error) -> int:
    """Print an error for a person on standard error, and for a machine on standard output if ``--json`` was given."""
    explain(error)
    if "--json" in sys.argv:
        print(json.dumps(as_object(error)))
    return error.exit_code


def explain(error: Error) -> None:
    """Print an error on standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"zkapex: {error.explain()}", markup=False)


def as_object(error: Error) -> dict[str, str | int]:
    """An error as a JSON object."""
    what: dict[str, str | int] = {"error": type(error).__name__, "exit_code": error.exit_code}
    return {**what, "what": error.what, "why": error.why, "fix": error.fix}
