"""SIGKILL of a PostgreSQL server under a registry that is in use: what was said to be stored is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from datetime import UTC, datetime

import pytest
from databases import WHY_NOT, Server, programs
from databases import postgresql as temporary
from parties import FEDERATION, Party, Provider, make_manifest

from zkapex.errors import StorageError
from zkapex.server.protocol.states import Distributed, Enrolled, Event, Opened
from zkapex.server.store.registry import Registry

FOREVER = datetime(2100, 1, 1, tzinfo=UTC)
LATER = datetime(2099, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(programs() is None, reason=WHY_NOT)


def kill(server: Server) -> None:
    """Its first process and all the others, at once."""
    first = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first)], capture_output=True, text=True, check=False)
    for pid in (first, *map(int, children.stdout.split())):
        os.kill(pid, signal.SIGKILL)


def start(server: Server) -> subprocess.Popen[bytes]:
    where = programs()
    assert where is not None
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    options = [f"-cunix_socket_directories={server.folder}", "-clisten_addresses="]
    end = time.monotonic() + 60
    while True:
        # The process is dead, but ours to bury: its locks say that it lives.
        for lock in (server.folder / "data" / "postmaster.pid", *server.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)
        with (server.folder / "log2").open("w") as log:
            process = subprocess.Popen(
                [*as_user, where / "postgres", "-D", server.folder / "data", *options], cwd=server.folder, stdout=log,
                stderr=log,
            )  # fmt: skip
        try:
            server.wait(process)
        except AssertionError:
            # As long as one of those that were killed is still on its way out, its memory is in use.
            assert process.poll() is not None, "it does not answer"
            assert time.monotonic() < end, (server.folder / "log2").read_text()
            time.sleep(0.2)
        else:
            return process


class Busy:
    """A server that enrols and asks one client after the other."""

    def __init__(self) -> None:
        self.provider, self.number = Provider(), 0
        self.said: list[tuple[str, str]] = []
        """What the registry said was stored, in order."""
        self.last: Event | None = None
        """What it was given last, if it has said nothing to that."""

    def work(self, place: str, seconds: float = 60) -> None:
        """Until the registry fails."""
        with Registry(place, FEDERATION) as registry:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                self.number += 1
                party = Party(f"p{self.number}")
                self.apply(registry, Enrolled(party.enrol(nonce=registry.invite())))
                self.apply(registry, Opened(self.provider.ask(party, issued_at=LATER, expires_at=FOREVER)))
                self.apply(registry, Distributed(party.client_id, "r1"))

    def apply(self, registry: Registry, event: Event) -> None:
        self.last = event
        registry.apply(event)
        self.said.append((event.client_id, type(event).__name__))
        self.last = None


def test_nothing_that_was_acknowledged_is_lost_and_what_was_not_can_be_said_again() -> None:
    chance, busy = random.Random(3), Busy()
    with temporary() as server:
        place = server.database()
        with Registry(place, FEDERATION) as registry:
            registry.add_manifest(make_manifest())
        process: subprocess.Popen[bytes] | None = None
        try:
            for _ in range(3):
                timer = threading.Timer(chance.uniform(0.5, 1.5), kill, [server])
                timer.start()
                with pytest.raises(StorageError) as caught:
                    busy.work(place)
                timer.join()
                assert caught.value.retryable, caught.value.explain()
                process = start(server)
                with Registry(place, FEDERATION) as registry:
                    registry.verify_trail()
                    stored = [(entry.client_id, entry.event) for entry in registry.transitions()]
                    assert stored[: len(busy.said)] == busy.said
                    assert len(stored) <= len(busy.said) + 1
                    if busy.last is not None:  # whether or not it was stored: said again, it is, once
                        busy.apply(registry, busy.last)
                    assert [(one.client_id, one.event) for one in registry.transitions()] == busy.said
                    registry.verify_trail()
            assert len(busy.said) > 3
        finally:
            if process is not None:
                process.send_signal(signal.SIGQUIT)
                process.wait(30)
