"""What processes of a deployment write about themselves: JSON lines with client and request, for their owner only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from federation import SmallTask
from parties import Party, Provider
from starlette.testclient import TestClient

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.deployment.journal import Journalled, request_of
from zkapex.errors import ProtocolError
from zkapex.host.journal import Journal, line
from zkapex.proofs.messages import Delivery, ProveRequest
from zkapex.server.deployment.gate import gate_app
from zkapex.server.deployment.settings import Gate
from zkapex.server.events import EventLog
from zkapex.transport.wire import pack


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_a_line_is_one_object_whatever_is_in_it() -> None:
    said = line("x", text='a\n"b"\u2028', none=None, number=1.5, long="z" * 5000, path=Path("/a"))
    assert "\n" not in said
    found = json.loads(said)
    assert (found["event"], found["number"], found["path"], len(found["long"])) == ("x", 1.5, "/a", 1000)
    assert "none" not in found
    assert found["time"].endswith("+00:00")


def test_a_journal_is_its_owner_s_and_is_kept_to_a_size(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl", largest=2000)
    before = os.umask(0)
    try:
        for number in range(100):
            journal.write("tick", number=number)
    finally:
        os.umask(before)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["j.jsonl", "j.jsonl.1"]
    assert all(path.stat().st_size <= 2000 and path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert lines(tmp_path / "j.jsonl")[-1]["number"] == 99


def test_a_journal_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    Journal(tmp_path / "missing" / "j.jsonl").write("tick")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    Journal(tmp_path / "link").write("tick")
    assert not (tmp_path / "elsewhere").exists(), "no link is followed"


def test_a_device_writes_down_every_message(tmp_path: Path) -> None:
    agent = DeviceAgent(tmp_path / "state", SmallTask(0, 1), workers=1)
    logged = Journalled(agent, Journal(tmp_path / "device.jsonl"), agent.client_id)
    ask = ProveRequest(request_id="request-7", client_id=agent.client_id, chunks=(0,))
    with pytest.raises(ProtocolError):
        logged.answer("prove", pack(ask))
    logged.answer("identify", pack(Delivery(), {"challenge": bytes(32)}))
    found = lines(tmp_path / "device.jsonl")
    assert [(one["event"], one["step"], one.get("request")) for one in found] == [
        ("step.started", "prove", "request-7"),
        ("step.failed", "prove", "request-7"),
        ("step.started", "identify", None),
        ("step.done", "identify", None),
    ]
    assert all(one["client"] == agent.client_id for one in found)
    assert found[1]["error"] == "ProtocolError"
    assert "has not answered request request-7" in found[1]["what"]


def test_the_request_of_an_envelope_is_found_and_of_garbage_is_not() -> None:
    provider, party = Provider(), Party("a")
    party.enrol()
    content = pack(Delivery(), {"envelope": provider.ask(party, "r-9").envelope})
    assert request_of(content) == "r-9"
    assert request_of(pack(Delivery(), {"envelope": b"junk"})) is None
    assert request_of(pack(Delivery())) is None


def test_events_of_a_run_are_the_server_s_own(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with EventLog(tmp_path) as events:
            events.emit("x")
    finally:
        os.umask(before)
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o077 == 0


def test_the_gate_says_what_it_refused_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(gate_app(Gate(), "https://127.0.0.1:1", None)) as client:
        for _ in range(50):
            client.post("/v1/control/start-run%0a{}")
    (said,) = [json.loads(one) for one in capsys.readouterr().out.splitlines()]
    assert (said["event"], said["status"], said["address"]) == ("gate.refused", 403, "testclient")
    assert said["path"].startswith("/v1/control/start-run")
