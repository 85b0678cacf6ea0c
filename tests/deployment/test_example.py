"""`zkapex server example`, as the start page has it: a deletion ordered in the console, and its receipts verified."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from deployed import free_port, zkapex

from zkapex.errors import InputError
from zkapex.simulation.federation.example import Words, make_example, programs_of

READY_S, DONE_S = 300.0, 900.0


class Running:
    """The command, and what it has printed."""

    def __init__(self, folder: Path, port: int, log: Path) -> None:
        command = [sys.executable, "-c", "from zkapex.cli import main; main()"]
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "server", "example", str(folder), "--port", str(port)], stdout=output, stderr=output
            )

    def says(self, pattern: str, timeout_s: float) -> str:
        end = time.monotonic() + timeout_s
        while True:
            found = re.search(pattern, self.log.read_text())
            if found:
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.5)


@contextmanager
def running(folder: Path, port: int, log: Path) -> Iterator[Running]:
    one = Running(folder, port, log)
    try:
        yield one
    finally:
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(timeout=60) == 0, log.read_text()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert not left, "everything that was started has ended"


@contextmanager
def signed_in(port: int, token: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, timeout=120) as browser:
        form = {"csrf": csrf(browser.get("/signin").text), "token": token, "then": "/"}
        assert "What needs a person" in browser.post("/signin", data=form).text
        yield browser


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_deletion_is_ordered_in_the_console_and_its_receipts_verify(tmp_path: Path) -> None:
    folder, port = tmp_path / "example", free_port()
    with running(folder, port, tmp_path / "first.log") as example:
        token = example.says(r"with the token\s+(\S+)", READY_S)
        with signed_in(port, token) as browser:
            draft = {
                "request_id": "no-threes", "about": "forget-class=3", "legal_basis": "gdpr-17-erasure", "days": "30",
                "density": "0.01", "note": "", "csrf": csrf(browser.get("/requests/new").text),
            }  # fmt: skip
            page = browser.post("/requests/new", data={**draft, "step": "estimate"}).text
            assert "What it will cost" in page
            browser.post("/requests/new", data={**draft, "csrf": csrf(page), "estimated": "0.01", "step": "create"})
            assert example.says(r"(no-threes: done: \w{16} proved, \w{16} proved)", DONE_S)
            command = example.says(r"(\S*zkapex verify .*)", 30)
            assert "proved" in browser.get("/requests/no-threes").text
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 0, command
    federation = folder / "server" / "provider" / "federation"
    receipts = [path.parent for path in federation.glob("receipts/no-threes/*/receipt.json")]
    assert len(receipts) == 2
    for receipt in receipts:
        found = zkapex("verify", receipt, "--trust", federation / "key.pub", "--json")
        assert found["verdict"] == "proved"
    with running(folder, port, tmp_path / "second.log") as again:
        newer = again.says(r"with the token\s+(\S+)", READY_S)
        assert newer != token
        assert again.says(r"(no-threes: done)", 30), "it goes on where it was"


def test_the_start_page_begins_with_it() -> None:
    root = Path(__file__).parents[2]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
    made = subprocess.run(["make", "-n", "example"], cwd=root, env=env, capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1].split()[-3:] == ["server", "example", "zkapex-example"]


def test_folders_are_made_once_and_kept(tmp_path: Path) -> None:
    first = make_example(tmp_path / "example", 1)
    key = first.device(0).node_key.read_bytes()
    again = make_example(tmp_path / "example", 1)
    assert again.device(0).node_key.read_bytes() == key
    names = [one.name for one in programs_of(again, 8480)]
    assert names == ["link", "superexec", "gate", "observe", "device-0 node", "device-0 tasks", "console", "campaigns"]
    with pytest.raises(InputError, match="has 1 devices, not 2"):
        make_example(tmp_path / "example", 2)


def test_events_become_lines_for_somebody_who_waits() -> None:
    words = Words()
    events: list[dict[str, Any]] = [
        {"event": "train.started"},
        {"event": "train.round", "round": 1, "total": 2, "forget": 0.9},
        {"event": "search.step", "doing": "..."},
        {"event": "prove.started", "chunks": 10},
        *({"event": "prove.accepted", "client": "c", "chunk": chunk} for chunk in range(10)),
    ]
    said = [line.strip() for line in words.about(events)]
    assert said[0] == "a model is trained ..."
    assert said[1] == "round 1 of 2"
    assert said[3:] == ["3 of 10 proofs hold", "5 of 10 proofs hold", "8 of 10 proofs hold", "10 of 10 proofs hold"]
