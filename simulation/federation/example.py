"""A server, its devices and the console on this machine's loopback interface, to try a deployment before there is one.

Nothing of it is simulated but the distance: the same processes, with TLS, node authentication, the gate and the guard,
on ports that were free when it was made. Only the data are an example's: scikit-learn's digits.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from zkapex.client.deployment import init as device_init
from zkapex.client.deployment import programs as device_programs
from zkapex.client.deployment import settings as device_settings
from zkapex.errors import InputError, RuntimeFailure
from zkapex.host.flower import environment, program
from zkapex.host.supervise import Program, Supervisor
from zkapex.proofs.receipts.bundle import receipts_in
from zkapex.server.deployment import init as server_init
from zkapex.server.deployment import programs as server_programs
from zkapex.server.deployment import settings as server_settings
from zkapex.server.deployment.decisions import admit_device
from zkapex.server.deployment.link import SuperLink
from zkapex.server.deployment.progress import DONE, Progress, progress
from zkapex.server.deployment.reading import snapshot
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.events import EventReader

FACTORIES: Final = "zkapex.simulation.federation.deployed"
PORT: Final = 8480
"""Of the console, as of every server's."""
EVERY_S: Final = 2.0
"""Between campaigns: whoever has ordered something is waiting for it."""
START_S: Final = 180.0
_LOOPBACK: Final = "127.0.0.1"
_WORDS: Final = {
    "train.started": "a model is trained ...",
    "personalise.started": "each device makes it its own ...",
    "enrol.started": "they commit to what they hold ...",
    "search.started": "planning what the models are to lose ...",
    "unlearn.started": "the devices unlearn ...",
    "prove.started": "the devices prove it ...",
    "receipts.started": "receipts are issued ...",
    "tune.started": "nothing more to wait for; the devices train on, and what was deleted stays deleted",
}
"""What a campaign's events are to somebody who waits."""
_BEFORE: Final = frozenset({"train.started", "personalise.started", "enrol.started"})
"""Said while the first model is made; later campaigns look whether there is anything to do."""


@dataclass(frozen=True)
class Example:
    """Where everything is.

    Attributes
    ----------
    root : Path
    devices : int
    """

    root: Path
    devices: int

    @property
    def server(self) -> Place:
        """The server's folder."""
        return Place(self.root / "server")

    def device(self, index: int) -> device_settings.Place:
        """A device's folder."""
        return device_settings.Place(self.root / f"device-{index}")


def make_example(root: Path, devices: int) -> Example:
    """Make the folders of a server and its devices; what is there from an earlier time is kept.

    Raises
    ------
    InputError
        The folder holds an example with another number of devices.
    StorageError
        It cannot be written.
    """
    example = Example(root.resolve(), devices)
    options: dict[str, str | int | float | bool] = {"clients": devices, "dishonest": 0}
    if not example.server.configuration.exists():
        gate, link, health, metrics = _free_ports(4)
        values = {
            "host": "localhost", "provider": f"{FACTORIES}:provider", "options": options,
            # Each message to a device starts a process there, which takes as long as proving a chunk or two.
            "run": {"rounds": 2, "personal-epochs": 5, "batch": 64}, "gate": {"listen": _LOOPBACK, "port": gate},
            "link": {"port": link, "health_port": health}, "observe": {"port": metrics},
            "campaigns": {"devices": devices},
        }  # fmt: skip
        server_init.create_server(example.server.root, server_settings.checked(values, "the example"))
    settings = server_settings.load(example.server.root)
    if settings.campaigns.devices != devices:
        raise InputError(
            f"the example in {root} has {settings.campaigns.devices} devices, not {devices}",
            fix="choose another folder",
        )
    for index in range(devices):
        if not example.device(index).configuration.exists():
            port, health = _free_ports(2)
            own = {
                "server": f"localhost:{settings.gate.port}", "task": f"{FACTORIES}:task", "port": port,
                "options": {**options, "index": index}, "health_port": health, "max_cpu": 1,
            }  # fmt: skip
            device_init.create_device(
                example.device(index).root, device_settings.checked(own, "the example"),
                example.server.link / "ca.pem", example.server.federation / "key.pub",
            )  # fmt: skip
    return example


def programs_of(example: Example, port: int) -> list[Program]:
    """Everything that runs: the server's processes, the devices', the console, and campaigns one after the other.

    Raises
    ------
    RuntimeFailure
        A program is not installed.
    """
    place = example.server
    settings = server_settings.load(place.root)
    server_init.renew_guard(place, settings)
    found = server_programs.programs(place, settings)
    for index in range(example.devices):
        device = example.device(index)
        own = device_settings.load(device.root)
        device_init.renew_guard(device, own)
        found += [replace(one, name=f"device-{index} {one.name}") for one in device_programs.programs(device, own)]
    zkapex = program("zkapex")
    for name, rest in (
        ("console", ("console", str(place.root), "--port", str(port))),
        ("campaigns", ("campaign", str(place.root), "--watch", "--every", str(EVERY_S))),
    ):
        env = environment(place.operator, None)
        found.append(Program(name, (zkapex, "server", *rest), env, place.logs / f"{name}.log", place.root))
    return found


def console_port(wanted: int | None) -> int:
    """The port of the console: the wanted one, or, if none is, `PORT` or a free one in its stead.

    Raises
    ------
    InputError
        The wanted port is taken.
    """
    if not _answers(wanted or PORT):
        return wanted or PORT
    if wanted is not None:
        raise InputError(f"port {wanted} is taken", fix="choose another with --port, or none")
    return _free_ports(1)[0]


def run_example(example: Example, port: int, token: str, say: Callable[[str], None]) -> Generator[None, None, None]:
    """Run it until the iterator is closed; says how far it is, once a look.

    Everything that was started has ended when the iterator is closed, whatever happened.

    Raises
    ------
    RuntimeFailure
        It did not start within `START_S`.
    """
    programs = programs_of(example, port)
    logs = {one.name: one.log for one in programs}
    ready = threading.Event()

    def ended(what: str, **details: object) -> None:
        # Before that, a device may come too early for its server, and is simply started again.
        if what == "child.ended" and ready.is_set():
            name = str(details["program"])
            say(f"{name} ended ({details['code']}) and is started again; see {logs[name]}")

    supervisor = Supervisor(programs, ended)
    thread = threading.Thread(target=supervisor.run, name="supervisor")
    thread.start()
    try:
        yield from _until(lambda: _admitted(example), "the server did not serve")
        say("The server runs. Waiting for its devices ...")
        yield from _until(lambda: _online(example) == example.devices, "not every device came online")
        yield from _until(lambda: _answers(port), "the console did not start")
        ready.set()
        say(f"{example.devices} devices are online. Before a deletion there has to be a model: two or three minutes.")
        words = Words()
        events = EventReader(example.server.federation, skip_existing=True)
        while not _enrolled(example):
            for line in words.about(events.new()):
                say(line)
            yield
        say(f"\nOpen http://{_LOOPBACK}:{port} and sign in with the token\n\n    {token}\n")
        say(
            "Requests, Order a deletion: an id of your choice, and forget-class=3 to forget the digit 3. "
            "Ctrl-C ends all this; the folder is kept."
        )
        told: dict[str, str] = {}
        while True:
            for line in words.about(event for event in events.new() if event["event"] not in _BEFORE):
                say(line)
            for one in progress(example.server, datetime.now(UTC)):
                line, request_id = described(one), one.order.request_id
                written = receipts_in(example.server.federation / "receipts" / request_id)
                if one.state == DONE and len(written) < len(one.parts):
                    continue  # the registry knows of a receipt before it is written
                if told.get(request_id) != line:
                    told[request_id] = line
                    say(line)
                    if one.state == DONE:
                        say(_how_to_verify(example, written))
            yield
    finally:
        say("Stopping; this takes up to 20 seconds ...")
        supervisor.stop()
        thread.join()
        say(f"Stopped. To go on where it was: {_zkapex()} server example {_short(example.root)}")


class Words:
    """What a federation's events are to somebody who waits; proofs are counted by quarters."""

    def __init__(self) -> None:
        self._asked = self._proved = 0

    def about(self, events: Iterable[dict[str, Any]]) -> Iterator[str]:
        """Lines to say; for most events there are none."""
        for event in events:
            kind = event["event"]
            if kind in _WORDS:
                yield f"  {_WORDS[kind]}"
            if kind == "train.round":
                yield f"  round {event['round']} of {event['total']}"
            elif kind == "prove.started":
                self._asked, self._proved = int(event["chunks"]), 0
            elif kind == "prove.accepted":
                before, self._proved = self._proved, self._proved + 1
                if self._asked and 4 * before // self._asked < 4 * self._proved // self._asked:
                    yield f"  {self._proved} of {self._asked} proofs hold"


def described(one: Progress) -> str:
    """How far a request is, in a line."""
    parts = ", ".join(f"{part.client_id[:16]} {part.verdict or part.status}" for part in one.parts)
    problem = f" ({one.problem})" if one.problem else ""
    return f"{one.order.request_id}: {one.state}{': ' if parts else ''}{parts}{problem}"


def _how_to_verify(example: Example, receipts: Sequence[Path]) -> str:
    """A command that can be pasted; of the first receipt there is."""
    if not receipts:
        return "No client has a receipt."
    key = example.server.federation / "key.pub"
    command = f"{_zkapex()} verify {_short(receipts[0])} --trust {_short(key)}"
    return f"Verify a receipt (there are {len(receipts)}), in another terminal or after Ctrl-C:\n\n    {command}\n"


def _zkapex() -> str:
    """How the command is called from here, where its environment may not be activated."""
    found = shutil.which("zkapex")
    own = Path(sys.executable).with_name("zkapex")
    return "zkapex" if found is not None and Path(found) == own else _short(own)


def _short(path: Path) -> str:
    """A path as somebody would type it here."""
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith(os.pardir) else relative)


def _until(condition: Callable[[], bool], what: str) -> Iterator[None]:
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeFailure(f"{what} within {START_S:.0f} s", fix="see the files in server/logs and device-*/logs")
        yield


def _link(example: Example, settings: ServerSettings) -> SuperLink:
    return SuperLink(settings.link.port, example.server.provider / "ca.pem")


def _admitted(example: Example) -> bool:
    """Whether all devices have been let in; lets in who has not."""
    settings = server_settings.load(example.server.root)
    try:
        with _link(example, settings) as link:
            there = {node.name for node in link.nodes()}
            for index in range(example.devices):
                if f"device-{index}" not in there:
                    key = example.device(index).node_key.with_suffix(".pub")
                    admit_device(example.server, link, key, f"device-{index}")
    except RuntimeFailure:
        return False
    return True


def _online(example: Example) -> int:
    with contextlib.suppress(RuntimeFailure), _link(example, server_settings.load(example.server.root)) as link:
        return sum(node.status == "online" for node in link.nodes())
    return 0


def _enrolled(example: Example) -> bool:
    return len(snapshot(example.server).clients) == example.devices


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_LOOPBACK, port)) == 0


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
