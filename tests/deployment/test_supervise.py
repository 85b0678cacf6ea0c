"""Children are started again, whatever they exit with, and none is left behind."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psutil

from zkapex.host.supervise import Program, Supervisor


def program(tmp_path: Path, code: str, name: str = "child") -> Program:
    return Program(name, [sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log", tmp_path)


def test_a_child_that_ends_well_is_started_again_after_a_growing_wait(tmp_path: Path) -> None:
    events: list[tuple[str, float]] = []
    supervisor = Supervisor(
        [program(tmp_path, "print('up', flush=True)")],
        lambda what, **_: events.append((what, time.monotonic())),
        first_wait_s=0.3,
        longest_wait_s=1.0,
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    deadline = time.monotonic() + 60
    while sum(what == "child.started" for what, _ in events) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    supervisor.stop()
    thread.join(30)
    starts = [at for what, at in events if what == "child.started"]
    ends = [at for what, at in events if what == "child.ended"]
    assert len(starts) >= 3
    assert starts[1] - ends[0] >= 0.3
    assert starts[2] - ends[1] >= 0.6
    assert (tmp_path / "child.log").stat().st_mode & 0o077 == 0
    assert "up" in (tmp_path / "child.log").read_text()


def test_what_a_child_has_started_ends_with_it_even_if_it_does_not_want_to(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if len(sys.argv) < 2:\n"
        "    child = subprocess.Popen([sys.executable, __file__, 'x'])\n"
        "    open('pids', 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "stubborn.py").write_text(stubborn)
    one = Program("s", [sys.executable, str(tmp_path / "stubborn.py")], dict(os.environ), tmp_path / "log", tmp_path)
    supervisor = Supervisor([one])
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pids").exists() and (tmp_path / "pids").read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int((tmp_path / "pids").read_text()), *supervisor.processes().values()]
    supervisor.stop()
    thread.join(60)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)
