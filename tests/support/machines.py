"""Machines that a document's commands are run on: a shell each, in a network namespace of its own where possible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deployed import free_port, machine

from zkapex.errors import RuntimeFailure

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
DIGITS = "zkapex.simulation.federation.deployed"
SMALL: Mapping[str, str] = {
    f"{DIGITS}:provider --option clients=2 --option dishonest=0": "small_deployed:provider",
    f"{DIGITS}:task --option clients=2 --option dishonest=0": "small_deployed:task",
    "--run rounds=2 --run personal-epochs=5": "--run operator=mask-only --run rounds=1 --run personal-epochs=1",
    "--about forget-class=3": "--about mask=request-1",
    "--about forget-class=5": "--about mask=request-2",
    "--about forget-class=7": "--about mask=request-3",
}
"""What a reader with a small model of their own would write instead of the pages' example."""
_DONE = "zkapex-command-is-done"
_CAMPAIGNS = 3
"""On a machine with no time to spare, Flower takes a ServerApp that says nothing for long for a dead one."""


class Stopped(AssertionError):
    """A campaign was stopped, or the SuperLink did not answer; the next one goes on."""


@dataclass(frozen=True)
class Command:
    """A line of a document, on the machines that it is for."""

    where: str
    text: str


def commands_of(document: Path) -> list[Command]:
    """What a document says to do, in its order: commands, and the comments that stand for what people do."""
    found, where, lines = [], "", ""
    for line in document.read_text(encoding="utf-8").splitlines():
        comment = re.fullmatch(r"<!-- (copy|later): (.*) -->", line)
        if comment:
            found.append(Command(comment.group(1), comment.group(2)))
        elif re.fullmatch(r"```sh \w+", line):
            where = line.split()[1]
        elif line == "```":
            where = ""
        elif where:
            lines += line
            if line.endswith("\\"):
                lines = lines[:-1]
                continue
            found.append(Command(where, re.sub(r"\s+", " ", lines).strip()))
            lines = ""
    return found


def namespaces() -> bool:
    """Whether network namespaces may be made here."""
    probe = f"zkprobe{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return made.returncode == 0


class Shell:
    """A machine: a shell that keeps its variables and background jobs from command to command."""

    def __init__(self, name: str, folder: Path, prefix: list[str], environment: dict[str, str]) -> None:
        self.name, self.folder, self._prefix, self._environment = name, folder, prefix, environment
        self.variables: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._process = self._start()

    def run(self, text: str) -> str:
        """Run a command to its end; what it printed. A campaign that was stopped is gone on with, as a timer would."""
        for _ in range(_CAMPAIGNS - 1):
            try:
                return self._run(text)
            except Stopped:
                continue
        return self._run(text)

    def _run(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text}\nzkcode=$?; echo; echo {_DONE} $zkcode\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.startswith(_DONE):
                code = int(line.split()[1])
                output = "".join(lines)
                if code == RuntimeFailure.exit_code and text.startswith("zkapex server tick"):
                    raise Stopped(f"{self.name}: {text}: exit code {code}\n{output}")
                assert code == 0, f"{self.name}: {text}: exit code {code}\n{output}"
                if name := re.fullmatch(r"export (\w+)=.*", text):
                    self.variables[name.group(1)] = self.run(f'echo "${name.group(1)}"').strip()
                return output
            lines.append(line)
        raise AssertionError(f"{self.name}: {text}: the shell ended\n{''.join(lines)}")

    def restart(self, environment: dict[str, str]) -> None:
        """As when the machine is switched off and on again: what ran is gone, what is on its disk stays."""
        self.stop()
        self._environment |= environment
        self._process = self._start()
        for name, value in self.variables.items():
            self.run(f"export {name}='{value}'")

    def stop(self) -> None:
        """End everything that runs on it."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
            self._process.stdin.close()
            self._process.wait(timeout=120)

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._prefix, "bash", "--norc"], cwd=self.folder, env=self._environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


class Machines:
    """A server and two devices, each in a network namespace, or all on loopback where none can be made.

    Parameters
    ----------
    root : Path
    instead : mapping
        What stands in commands in the place of parts of them.
    apart : bool, optional
        Whether each is in a namespace of its own; by default where they may be made.
    """

    def __init__(self, root: Path, instead: Mapping[str, str] | None = None, apart: bool | None = None) -> None:
        self.root = root
        self._instead = instead or {}
        self._unused = set(self._instead)
        self.apart = namespaces() if apart is None else apart
        self._stack = ExitStack()
        self._names = [f"zk{os.getpid()}{part}" for part in ("s", "a", "b")]
        self.outputs: list[tuple[str, str, str]] = []

    def __enter__(self) -> Self:
        try:
            if self.apart:
                self._connect()
            bin_ = Path(sys.executable).parent
            base = {**machine(), "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
            base["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "clock"), base["PYTHONPATH"]])
            self.shells = [
                Shell(name, self.root / name, ["ip", "netns", "exec", ns] if self.apart else [], dict(base))
                for name, ns in zip(("server", "first", "second"), self._names, strict=True)
            ]
            for shell in self.shells:
                self._stack.callback(shell.stop)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def follow(self, document: Path) -> None:
        """Do everything that a document says."""
        for command in commands_of(document):
            if command.where == "copy":
                self._copy(command.text)
            elif command.where == "later":
                for shell in self.shells:
                    shell.restart({"ZKAPEX_TESTS_LATER": command.text} if FAKETIME.exists() else {})
            else:
                for shell in self._meant(command.where):
                    text = self._here(shell, command.text)
                    self.outputs.append((shell.name, text, shell.run(text)))

    @property
    def unused(self) -> set[str]:
        """What was to be put in the place of something that no command has held."""
        return self._unused

    def output(self, part: str) -> list[str]:
        """What commands that hold some text have printed."""
        return [output for _, text, output in self.outputs if part in text]

    def _meant(self, where: str) -> list[Shell]:
        if where == "devices":
            return self.shells[1:]
        return [shell for shell in self.shells if shell.name == where]

    def _here(self, shell: Shell, text: str) -> str:
        """The command, with what a reader would put in the place of the examples."""
        mine = {
            "export SERVER": "10.77.0.1" if self.apart else "localhost",
            "export DIR": str(self.root / "server" / "zkapex"),
            "export DEVICE": str(shell.folder / "device"),
            "export INDEX": str(self.shells.index(shell) - 1),
        }
        for part, other in self._instead.items():
            if part in text:
                text = text.replace(part, other)
                self._unused.discard(part)
        name = text.partition("=")[0]
        if name in mine:
            return f"{name}={mine[name]}"
        if not self.apart and text.startswith("zkapex device init"):  # two devices on one machine need their own ports
            return f"{text} --port {free_port()} --health-port {free_port()}"
        return text

    def _copy(self, text: str) -> None:
        sources, targets = (
            (self._meant(machine_), path)
            for machine_, path in (part.split(":", 1) for part in text.split(" "))
        )  # fmt: skip
        for source in sources[0]:
            for target in targets[0]:
                path = Path(source.run(f"echo {sources[1]}").strip())
                name = source.run(f"echo {targets[1]}").strip() if len(sources[0]) > 1 else targets[1]
                (target.folder / name).write_bytes((source.folder / path).read_bytes())

    def _connect(self) -> None:
        """A switch in the server's namespace, and a cable to each device."""
        server = self._names[0]
        for name in self._names:
            _ip("netns", "add", name)
            self._stack.callback(_ip, "netns", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", server, "link", "add", "br0", "type", "bridge")
        _ip("-n", server, "addr", "add", "10.77.0.1/24", "dev", "br0")
        _ip("-n", server, "link", "set", "br0", "up")
        for number, name in enumerate(self._names[1:]):
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", server)
            _ip("-n", name, "addr", "add", f"10.77.0.{number + 2}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", server, "link", "set", f"port{number}", "master", "br0", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
