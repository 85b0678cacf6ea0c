"""``zkapex server console`` and ``console-token``: the web console, and who may use it."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from zkapex.errors import InputError

Folder = Annotated[Path, typer.Argument(help="The server's folder, or one that zkapex demo has left.")]


def console(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but this machine wants --https.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8480,
    header: Annotated[
        str, typer.Option(help="Header in which a reverse proxy names who is signed in, instead of tokens.")
    ] = "",
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a reverse proxy that is believed; may be repeated.")
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="It is reached by HTTPS, through a reverse proxy: cookies insist on it.")
    ] = False,
) -> None:
    """Serve the web console until it is stopped (Ctrl-C).

    Operators sign in with a token that console-token made. Needs the extra `web`.
    """
    try:
        import uvicorn

        from zkapex.server.console.access import load_access
        from zkapex.server.console.app import create_app
        from zkapex.server.console.folder import FederationFolder
        from zkapex.server.console.source import FolderSource
    except ImportError as error:
        raise InputError("the console needs the extra `web`", why=str(error), fix="pip install 'zkapex[web]'") from None
    local = host in ("127.0.0.1", "::1", "localhost")
    if not local and not https:
        raise InputError(
            f"the console would be reached at {host} without HTTPS",
            why="whoever listens on the way would read tokens",
            fix="put it behind a reverse proxy with a certificate, and add --https",
        )
    if bool(header) != bool(proxy):
        raise InputError("--header and --proxy belong together", fix="give both, or let operators sign in with tokens")
    found = FederationFolder.of(folder)
    access = load_access(found.tokens, header, proxy or ())
    app = create_app(FolderSource(found, estimated), access, secure=https)
    config = uvicorn.Config(
        app, host, port, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
        lifespan="off", ws="none",
    )  # fmt: skip
    listening = _listening(host, port)
    at = listening.getsockname()
    print(f"http://{f'[{at[0]}]' if ':' in at[0] else at[0]}:{at[1]}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # it has closed everything, and says so to whoever called it
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"the console cannot listen on {host}, port {port}",
            why=str(error),
            fix="stop what listens there, another console perhaps, or choose another --port (0 for a free one)",
        ) from None


def console_token(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whose it is; it stands in the audit trail.")],
    role: Annotated[str, typer.Option(help="operator, auditor or data-protection-officer.")] = "operator",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Let somebody use the console: prints a token, which is kept nowhere; one of the same name is replaced.

    A console that runs reads the list when it starts.
    """
    try:
        from zkapex.server.console.access import Role, add_operator
        from zkapex.server.console.folder import FederationFolder
    except ImportError as error:
        raise InputError("the console needs the extra `web`", why=str(error), fix="pip install 'zkapex[web]'") from None
    if role not in tuple(Role):
        raise InputError(f"there is no role {role!r}", fix=f"choose one of {', '.join(Role)}")
    token = add_operator(FederationFolder.of(folder).tokens, name, Role(role))
    print(json.dumps({"name": name, "role": role, "token": token}) if as_json else token)
    if not as_json:
        print(f"{name} signs in with this, as {role}; it is shown this once.", file=sys.stderr)


def estimated(manifest: Path, density: float) -> Mapping[str, str | int | float]:
    """See `zkapex.server.console.source.Estimator`."""
    from zkapex.costs import bench
    from zkapex.costs.estimate import Question, estimate
    from zkapex.costs.shapes import model_shapes

    shapes = model_shapes(str(manifest))
    if shapes.statement is None:
        raise InputError(f"{manifest} names no circuit")
    return estimate(shapes, shapes.statement, bench.rates(shapes.statement, False, lambda: None), Question(density))
