"""The processes of a device: Flower's SuperNode, and the superexec that starts tasks behind the guard."""

from __future__ import annotations

import os
from pathlib import Path

from zkapex.client.deployment.settings import FOLDER_VARIABLE, DeviceSettings, Place
from zkapex.host.flower import environment, program
from zkapex.host.supervise import Program


def programs(place: Place, settings: DeviceSettings) -> list[Program]:
    """What to keep running.

    Raises
    ------
    RuntimeFailure
        Flower is not installed.
    """
    node = [
        program("flower-supernode"), "--superlink", settings.server, "--root-certificates", str(place.authority),
        "--auth-supernode-private-key", str(place.node_key), "--isolation", "process", "--host", "127.0.0.1",
        "--port", str(settings.port), "--superexec-auth-secret-file", str(place.secret),
        "--health-server-address", f"127.0.0.1:{settings.health_port}",
    ]  # fmt: skip
    tasks = [
        program("flower-superexec"), "--runtime-api-address", f"127.0.0.1:{settings.port}", "--insecure",
        "--superexec-auth-secret-file", str(place.secret),
    ]  # fmt: skip
    extra = {FOLDER_VARIABLE: str(place.root)}
    if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
        extra["CREDENTIALS_DIRECTORY"] = credentials
    home: Path = place.homes
    return [
        Program("node", node, environment(home / "link", place.guard), place.logs / "node.log", place.root),
        Program("tasks", tasks, environment(home / "apps", place.guard, extra), place.logs / "tasks.log", place.root),
    ]
