"""A deployed federation on this machine's loopback interface: real processes, TLS, node authentication, the gate."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

SMALL = ("operator=mask-only", "rounds=1", "personal-epochs=1", "timeout-s=120")
"""Settings with which `small_deployed` takes little time: most of it is that of starting Flower's processes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def machine() -> dict[str, str]:
    """The environment of a machine whose provider and tasks are in the tests' own modules."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def zkapex(*arguments: object, check: bool = True, environment: dict[str, str] | None = None) -> Any:
    """Run a command; what it printed as JSON, if it was asked for that, else as text."""
    command = [sys.executable, "-c", "from zkapex.cli import main; main()", *map(str, arguments)]
    env = {**machine(), **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    if check and done.returncode != 0:
        raise AssertionError(f"zkapex {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout) if "--json" in arguments and check else done


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.5)


class Deployed:
    """A server and devices in folders of their own; everything that was started is stopped at the end."""

    def __init__(
        self,
        root: Path,
        devices: int = 1,
        run: tuple[str, ...] = SMALL,
        task: str = "small_deployed",
        options: tuple[str, ...] = (),
        init: tuple[str, ...] = (),
    ) -> None:
        self.root = root
        self.server = root / "server"
        self.devices = [root / f"device{index}" for index in range(devices)]
        self.environment: dict[str, str] = {}
        """Of what is started from now on."""
        self._running: dict[Path, subprocess.Popen[bytes]] = {}
        gate, link, health, metrics = (free_port() for _ in range(4))
        self.address = f"localhost:{gate}"
        self.metrics = f"http://127.0.0.1:{metrics}"
        own = [part for option in options for part in ("--option", option)]
        settings = [part for setting in run for part in ("--run", setting)]
        zkapex(
            "server", "init", self.server, "--host", "localhost", "--listen", "127.0.0.1", "--port", gate,
            "--link-port", link, "--health-port", health, "--metrics-port", metrics,
            "--provider", f"{task}:provider", "--devices", devices, *own, *settings, *init,
        )  # fmt: skip
        self.ca = self.server / "link" / "ca.pem"
        for index, device in enumerate(self.devices):
            zkapex(
                "device", "init", device, "--server", self.address, "--ca", self.ca, "--provider-key",
                self.server / "provider" / "federation" / "key.pub", "--task", f"{task}:task", *own,
                "--option", f"index={index}", "--port", free_port(), "--health-port", free_port(),
            )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self.start(self.server)
            wait_for(lambda: zkapex("server", "status", self.server, "--json")["link"] == "serving", 120, "the start")
            for device in self.devices:
                zkapex("server", "clients", "admit", self.server, device / "node.pub", "--name", device.name)
                self.start(device)
            wait_for(lambda: self.online() == len(self.devices), 180, "coming online")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, folder: Path) -> None:
        kind = "server" if folder == self.server else "device"
        command = [sys.executable, "-c", "from zkapex.cli import main; main()", kind, "run", str(folder)]
        with (self.root / f"{folder.name}.out").open("ab") as output:
            self._running[folder] = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env={**machine(), **self.environment}
            )

    def stop(self, folder: Path | None = None) -> None:
        for one in [folder] if folder is not None else list(reversed(self._running)):
            process = self._running.pop(one, None)
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)

    def online(self) -> int:
        return sum(node["status"] == "online" for node in zkapex("server", "nodes", self.server, "--json")["nodes"])

    def command(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a command, and do not wait for it."""
        command = [sys.executable, "-c", "from zkapex.cli import main; main()", *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=machine())

    def processes(self, program: str) -> list[int]:
        """Ids of the processes of this federation that run one of Flower's programs."""
        family = [psutil.Process(one.pid) for one in self._running.values()]
        found = [child for process in family for child in process.children(recursive=True)]
        return [child.pid for child in found if any(part.endswith(f"/{program}") for part in child.cmdline()[:3])]

    def log(self, folder: Path, name: str) -> str:
        return (folder / "logs" / f"{name}.log").read_text(errors="replace")
