"""These runs go through Flower's own runtime, SuperLink, ``flwr run`` and Ray, and take some ten seconds each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from zkapex.errors import InputError, RuntimeFailure
from zkapex.simulation.federation.launch import run_flower
from zkapex.transport.app import installed_app

SUPPORT = Path(__file__).parents[1] / "support"
ENVIRONMENT = {"PYTHONPATH": str(SUPPORT), "ZKAPEX_TEST_RUN": str(os.getpid())}

HOSTILE = {
    "http_proxy": "http://127.0.0.1:9",
    "RAY_ADDRESS": "127.0.0.1:9",
    "PYTHONOPTIMIZE": "2",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
}
"""What a caller may have set, any of which once ended a run."""


def left_over() -> list[str]:
    """Processes that some run of this test module has left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("ZKAPEX_TEST_RUN") == str(os.getpid()):
                found.append(process.name())
        except psutil.Error:
            continue
    return found


def run(work_dir: Path, events: list[dict[str, Any]], nodes: int = 2, **config: str | int) -> None:
    run_flower(SUPPORT / "lineapp", config, nodes, work_dir, events.append, environment=ENVIRONMENT)


def test_a_run_reports_its_events_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    long = tmp_path / "a-folder-for-temporary-files-with-a-long-name"
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "users-own"))
    events: list[dict[str, Any]] = []
    run(tmp_path / "out", events, nodes=3, rounds=2, fail="a 'quoted' \"word\"")
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["run.started", "trained"]
    log = (tmp_path / "out" / "flower" / "run.log").read_text()
    assert sorted(kinds[2:-1]) == ["evaluated"] * 3 + ["refused"] * 3, log
    assert kinds[-1] == "run.completed"
    settings = {"work-dir": str(tmp_path / "out"), "rounds": 2, "dimension": 4, "fail": "a 'quoted' \"word\""}
    assert events[0]["settings"] == settings
    assert all("a line cannot enrol" in event["reason"] for event in events if event["event"] == "refused")
    assert left_over() == []
    assert not (tmp_path / "users-own").exists()


def test_an_error_of_the_server_arrives_as_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not straight") as caught:
        run(tmp_path, [], fail="by-exception")
    assert (caught.value.why, caught.value.fix) == ("it bends", "straighten it")
    assert left_over() == []


@pytest.mark.slow
def test_a_run_that_dies_is_noticed_soon(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(RuntimeFailure, match="runs the ServerApp died") as caught:
        run(tmp_path, events, fail="by-dying")
    assert [event["event"] for event in events] == ["run.started"]
    assert str(tmp_path / "flower" / "run.log") in caught.value.fix
    assert left_over() == []


@pytest.mark.slow
def test_ray_that_cannot_start_is_noticed_and_started_again(tmp_path: Path) -> None:
    crashed = tmp_path / "flower" / "run-crashed.log"
    events: list[dict[str, Any]] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        def free() -> None:
            while not crashed.exists():
                time.sleep(0.1)
            taken.close()

        threading.Thread(target=free, daemon=True).start()
        environment = {**ENVIRONMENT, "RAY_GCS_SERVER_PORT": str(taken.getsockname()[1])}
        run_flower(SUPPORT / "lineapp", {}, 2, tmp_path, events.append, environment=environment)
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["run.started", "run.started", "trained"]
    assert sorted(kinds[3:]) == ["evaluated"] * 2 + ["refused"] * 2 + ["run.completed"]
    assert "Failed to start GCS" in crashed.read_text()
    assert left_over() == []


@pytest.mark.slow
def test_a_killed_run_is_stopped_before_the_next_starts(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from zkapex.simulation.federation.launch import run_flower
run_flower(Path({str(SUPPORT / "lineapp")!r}), {{}}, 1, Path({str(tmp_path)!r}),
           lambda event: os.kill(os.getpid(), signal.SIGKILL), environment={ENVIRONMENT!r})
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    events: list[dict[str, Any]] = []
    run(tmp_path, events, nodes=1)
    assert [event["event"] for event in events][-1] == "run.completed"
    assert left_over() == []


@pytest.mark.slow
def test_a_run_that_is_told_to_end_takes_everything_with_it(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from zkapex.simulation.federation.launch import run_flower

run_flower(Path({str(SUPPORT / "lineapp")!r}), {{}}, 1, Path({str(tmp_path)!r}), lambda event: time.sleep(300),
           environment={ENVIRONMENT!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 120
    while "run.started" not in _said(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert [name for name in left_over() if name.startswith("flwr-simulation")], "in a session of its own"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert left_over() == []


def _said(work_dir: Path) -> str:
    path = work_dir / "events.jsonl"
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def again(event: dict[str, Any]) -> None:
        run(tmp_path, [])

    with pytest.raises(InputError, match="another run is going on"):
        run_flower(SUPPORT / "lineapp", {}, 1, tmp_path, again, environment=ENVIRONMENT)


def test_an_interrupted_run_is_stopped_whole(tmp_path: Path) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_flower(SUPPORT / "lineapp", {}, 2, tmp_path, interrupt, environment=ENVIRONMENT)
    assert left_over() == []


def test_a_run_that_fails_is_a_failure_although_flower_exits_with_0(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="finished:failed") as caught:
        run(tmp_path, [], dimension="four")
    assert "invalid literal" in caught.value.why
    assert left_over() == []


def test_settings_the_app_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(tmp_path, [], sillyness=1)
    assert "sillyness" in caught.value.why


@pytest.mark.parametrize("nodes", [0, -1])
def test_a_run_needs_clients(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(InputError, match="at least one client"):
        run(tmp_path, [], nodes=nodes)


def test_a_run_needs_an_app(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Flower app"):
        run_flower(tmp_path, {}, 1, tmp_path, print)
    assert (installed_app() / "pyproject.toml").is_file()
