"""``zkapex server example``: a whole federation on this machine, to order a deletion in the console."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from zkapex.errors import InputError

_POLL_S = 1.0


def example(
    folder: Annotated[Path, typer.Argument(help="For the server and its devices; kept, and gone on with next time.")],
    devices: Annotated[int, typer.Option(help="How many.", min=1, max=8)] = 2,
    port: Annotated[
        int | None, typer.Option(help="Of the console, on this machine; 8480 or a free one.", min=1, max=65535)
    ] = None,
) -> None:
    """Run a server, devices with scikit-learn's digits, and the console on this machine until it is stopped (Ctrl-C).

    Prints where the console is and a token to sign in with, once the devices have a model; order a deletion there.
    Needs the extras `simulation` and `web`.
    """
    try:
        import uvicorn  # noqa: F401 - the console, a process of its own, will need it

        from zkapex.server.console.access import Role, add_operator
        from zkapex.server.console.folder import FederationFolder
        from zkapex.simulation.federation.example import console_port, make_example, run_example
    except ImportError as error:
        raise InputError(
            "the example needs the extras `simulation` and `web`", why=str(error),
            fix="pip install 'zkapex[simulation,web]'",
        ) from None  # fmt: skip
    at = console_port(port)
    made = make_example(folder, devices)
    token = add_operator(FederationFolder.of(made.server.root).tokens, "you", Role("operator"))
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    running = run_example(made, at, token, lambda line: print(line, flush=True))
    try:
        for _ in running:
            if stopped.wait(_POLL_S):
                break
    finally:
        running.close()
