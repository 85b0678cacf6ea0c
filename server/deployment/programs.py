"""The processes of a server, and what each may see: SuperLink, superexec, gate, and what watches."""

from __future__ import annotations

import sys
from typing import Final

from zkapex.errors import InputError
from zkapex.host.flower import environment, program
from zkapex.host.supervise import Program
from zkapex.server.deployment.settings import Place, ServerSettings

PARTS: Final = ("link", "superexec", "gate", "observe")
"""In the order they start."""
FOLDER_VARIABLE: Final = "ZKAPEX_SERVER"
"""Environment variable of campaigns: the server's folder. Whoever submits a run cannot set it."""


def programs(place: Place, settings: ServerSettings, parts: tuple[str, ...] = PARTS) -> list[Program]:
    """What to keep running.

    Raises
    ------
    InputError
        A part is none.
    RuntimeFailure
        Flower is not installed.
    """
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"a server has no part {', '.join(sorted(unknown))}", fix=f"choose of {', '.join(PARTS)}")
    flower = {"link": _link, "superexec": _superexec}
    return [flower[part](place, settings) if part in flower else _own(place, part) for part in PARTS if part in parts]


def _link(place: Place, settings: ServerSettings) -> Program:
    folder, link = place.link, settings.link
    command = [
        program("flower-superlink"), "--host", "127.0.0.1", "--port", str(link.port),
        "--ssl-certfile", str(folder / "server.pem"), "--ssl-keyfile", str(folder / "server.key"),
        "--ssl-ca-certfile", str(folder / "ca.pem"), "--isolation", "process", "--enable-supernode-auth",
        "--database", str(folder / "state.db"), "--superexec-auth-secret-file", str(folder / "secret"),
        "--disable-runtime-dependency-installation", "--health-server-address", f"127.0.0.1:{link.health_port}",
    ]  # fmt: skip
    return Program("link", command, environment(folder / "home", None), place.logs / "link.log", folder)


def _superexec(place: Place, settings: ServerSettings) -> Program:
    folder = place.provider
    command = [
        program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{settings.link.port}",
        "--root-certificates", str(folder / "ca.pem"), "--superexec-auth-secret-file", str(folder / "secret"),
    ]  # fmt: skip
    env = environment(folder / "home", place.guard, {FOLDER_VARIABLE: str(place.root)})
    return Program("superexec", command, env, place.logs / "superexec.log", folder)


def _own(place: Place, part: str) -> Program:
    command = [sys.executable, "-m", "zkapex.server.deployment.parts", part, str(place.root)]
    return Program(part, command, environment(place.operator, None), place.logs / f"{part}.log", place.root)
