"""What a run takes over of its caller's environment; everything else is decided in `launch`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from limits import case, refuses

from zkapex.simulation.federation import launch


@case("proxy")
def test_proxies_are_for_other_machines() -> None:
    env = launch.inherited({"http_proxy": "http://proxy:3128", "no_proxy": "example.org", "PATH": "/bin"})
    assert env["http_proxy"] == "http://proxy:3128"
    for name in ("no_proxy", "NO_PROXY"):
        assert {"localhost", "127.0.0.1"} <= set(env[name].split(","))
    assert env["no_proxy"].startswith("example.org,")
    assert env["PATH"] == "/bin"


@case("proxy")
def test_the_superlink_is_looked_for_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert not [h for h in launch._DIRECT.handlers if getattr(h, "proxies", None)]


@case("ray-variables")
def test_another_cluster_is_not_joined() -> None:
    given = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_NAMESPACE": "x", "FLWR_HOME": "/x", "OMP_NUM_THREADS": "2"}
    env = launch.inherited({**given, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "99999999"})
    assert not {"RAY_ADDRESS", "RAY_NAMESPACE", "FLWR_HOME"} & set(env)
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"] == "99999999"


@case("python-variables")
@case("locale")
def test_python_runs_as_it_is_meant_to() -> None:
    env = launch.inherited({"PYTHONOPTIMIZE": "2", "PYTHONINSPECT": "1", "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert not {"PYTHONOPTIMIZE", "PYTHONINSPECT"} & set(env)
    assert env["PYTHONUTF8"] == "1"


LONG = "/home/somebody/with/a/long/name/tmp"
TOKEN = "ab" * 16


@case("tmpdir")
def test_sockets_do_not_get_paths_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: LONG)
    folder = launch._ray_dir(TOKEN)
    assert folder.parent == Path("/tmp")
    longest = folder / "session_2026-01-01_00-00-00_123456_4194304" / "sockets" / "plasma_store"
    assert len(os.fsencode(longest)) + launch._LONGEST_TMPDIR - len("/tmp") <= 107


def test_where_no_path_is_short_enough_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: LONG)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert LONG in refuses("tmpdir-only", lambda: launch._ray_dir(TOKEN)).what


def test_a_log_is_shown_by_its_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("start\nValueError: the cause\n" + "shutting down\n" * 40)
    assert launch._tail(log).startswith("ValueError: the cause\nthe end of the log:\nshutting down")
    log.write_text("start\nstop\n")
    assert launch._tail(log) == "start\nstop"
