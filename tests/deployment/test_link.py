"""A SuperLink that does not answer at once, over real connections: what changes nothing is asked again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from zkapex.errors import RuntimeFailure
from zkapex.server.deployment import tick
from zkapex.server.deployment.link import RunState, _asked, _read
from zkapex.server.deployment.settings import ServerSettings

ANSWER = b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


@contextmanager
def server(drops: int, status: int = 200) -> Iterator[str]:
    """Closes so many connections without an answer, and answers from then on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for number in range(1000):
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if number >= drops:
                        connection.sendall(ANSWER % status)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False).raise_for_status()


def test_reading_survives_connections_that_are_dropped_and_writing_is_never_repeated() -> None:
    with server(2) as url:
        assert _read(lambda: get(url)).text == "ok"
    with server(1) as url, pytest.raises(RuntimeFailure, match="does not answer"):
        _asked(lambda: get(url))
    with server(3) as url, pytest.raises(RuntimeFailure, match="does not answer"):
        _read(lambda: get(url))
    with server(0, 403) as url, pytest.raises(RuntimeFailure, match="refused: 403"):
        _read(lambda: get(url))


class Restarting:
    """A SuperLink that is started again while a run is waited for, on the way that all answers of one come."""

    def __init__(self, url: str) -> None:
        self._url, self.failures = url, 0

    def state(self, run: int) -> RunState:
        try:
            _asked(lambda: get(self._url))
        except RuntimeFailure:
            self.failures += 1
            raise
        return RunState("finished", "completed", "")


def test_a_run_is_waited_for_while_the_superlink_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick, "POLL_S", 0.01)
    settings = ServerSettings(host="localhost", provider="a:b")
    with server(5) as url:
        link = Restarting(url)
        assert tick._wait(link, 1, settings).over  # type: ignore[arg-type]
        assert link.failures == 5
    monkeypatch.setattr(tick, "PATIENCE_S", 0.0)
    with server(5) as url, pytest.raises(RuntimeFailure, match="does not answer"):
        tick._wait(Restarting(url), 1, settings)  # type: ignore[arg-type]
