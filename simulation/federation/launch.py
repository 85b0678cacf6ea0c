"""Runs the Flower app on this machine with Flower's own runtime: ``flwr run`` against a private SuperLink.

Everything lives in ``work_dir/flower``: Flower's home (the user's own ``~/.flwr`` is never touched), logs, and the
neutral directory from which the processes start, so that no module of the caller's directory is picked up. The
SuperLink listens on a free port of the loopback interface, keeps its state in memory, and is stopped when the run ends,
however it ends, by SIGTERM too; so are all processes it started, Ray's included. Should this process get SIGKILL, the
kernel ends the SuperLink; what survives that, the next run in the same folder stops.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import tomli_w

import zkapex.errors
from zkapex.errors import Error, InputError, RuntimeFailure, StorageError
from zkapex.server.events import COMPLETED, FAILED, EventReader
from zkapex.simulation.federation.ending import ends_in_order
from zkapex.transport.app import run_config_of

_CONNECTION: Final = "zkapex"
_MARKER: Final = "ZKAPEX_RUN_TOKEN"
_START_TIMEOUT_S: Final = 60.0
_START_ATTEMPTS: Final = 3
_POLL_S: Final = 0.1
_WATCH_S: Final = 1.0
_END_GRACE_S: Final = 3.0
_STOP_GRACE_S: Final = 1.0
_LOG_TAIL_LINES: Final = 30
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_LONGEST_TMPDIR: Final = 18
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The SuperLink is on this machine, whatever proxy the caller has for others."""
_CAUSE: Final = re.compile(r"\s*(?:[\w.]+\.)?\w*(?:Error|Exception|Failure)\b: ")
_CRASHED: Final = b"Stopping Simulation Runtime."
"""What Flower logs, as a warning, when Ray has not started or the threads that serve the clients have ended."""
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_NOT_INHERITED: Final = frozenset({"PYTHONOPTIMIZE", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONHOME"})
FLOWER_ENVIRONMENT: Final[Mapping[str, str]] = {
    # Nothing is reported to anybody, and nothing is downloaded.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise the SuperLink builds an environment of the app's dependencies with uv, beside the one that is installed.
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Seconds after which a submitted run is noticed; the default of 1 s is made for servers that idle.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",
    # Messages are models and proofs of some MB; without a limit Ray plans for a third of the machine's memory.
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(512 * 2**20),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Clients run side by side, one core each; threads of their own would only take turns.
    "OMP_NUM_THREADS": "1",
}
"""Settings of every Flower process. The caller's environment may set these otherwise, see `inherited`."""


def inherited(caller: Mapping[str, str]) -> dict[str, str]:
    """What a run takes over of its caller's environment: the one place that decides it.

    Everything but what would make it another run: Ray's and Flower's own variables, of which only those named in
    `FLOWER_ENVIRONMENT` may be set from outside, and what changes how Python runs programs that are not ours.
    Proxies stay, for data that are fetched by name, and are not used on this machine. Text is UTF-8
    whatever the locale.
    """
    kept = {
        name: value
        for name, value in caller.items()
        if name in FLOWER_ENVIRONMENT or not (name.startswith(("RAY_", "FLWR_")) or name in _NOT_INHERITED)
    }
    for name in ("no_proxy", "NO_PROXY"):
        given = [part for part in caller.get(name, "").split(",") if part.strip()]
        kept[name] = ",".join(dict.fromkeys((*given, *_LOOPBACK)))
    return {**FLOWER_ENVIRONMENT, **kept, "PYTHONUTF8": "1"}


def run_flower(
    app_dir: Path,
    run_config: Mapping[str, str | int | float | bool],
    num_supernodes: int,
    work_dir: Path,
    on_event: Callable[[dict[str, Any]], None],
    *,
    clients_at_once: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a Flower app to its end on simulated SuperNodes.

    Parameters
    ----------
    app_dir : Path
        Folder with the app's ``pyproject.toml``: :func:`installed_app`, or the root of the repository.
    run_config : Mapping[str, str | int | float | bool]
        Overrides of ``[tool.flwr.app.config]``, see :func:`settings_of`. ``work-dir`` is set here.
    num_supernodes : int
        Number of clients.
    work_dir : Path
        Where the ServerApp writes its events and results. Created if missing; an earlier run's events are kept.
    on_event : Callable[[dict[str, Any]], None]
        Called in this thread with each event (see :mod:`zkapex.server.events`) as it arrives.
    clients_at_once : int | None
        How many clients run side by side, one Ray worker each. By default one per core.
    environment : Mapping[str, str] | None
        Variables for the ServerApp and the clients, beyond those of this process.

    Raises
    ------
    Error
        The ServerApp stopped by an error of zkapex: the same error.
    RuntimeFailure
        Flower could not be started or the run failed otherwise; ``why`` has the end of the log.
    InputError
        There is no Flower app in ``app_dir``, it has no such setting, a number is out of range, or a run is going on in
        ``work_dir``.
    """
    run_config_of(app_dir, run_config)  # refuses those the app does not have
    workers = min(clients_at_once or os.cpu_count() or 1, num_supernodes)
    if num_supernodes < 1 or workers < 1:
        raise InputError("a run needs at least one client, and at least one at a time")
    work_dir = work_dir.resolve()
    home = work_dir / "flower"
    try:
        home.mkdir(parents=True, exist_ok=True)
        config_file = home / "run-config.toml"
        config_file.write_text(tomli_w.dumps({**run_config, "work-dir": str(work_dir)}), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot prepare a run of Flower in {home}", why=str(error)) from None
    # One core per client, whatever the machine has: Ray starts exactly as many workers as run side by side.
    simulation = f"num-supernodes={num_supernodes} client-resources-num-cpus=1 init-args-num-cpus={workers}"
    command = ["run", str(app_dir.resolve()), _CONNECTION, "--stream", "--run-config", str(config_file)]
    for attempts_left in reversed(range(_START_ATTEMPTS)):
        try:
            _run_once([*command, "--federation-config", simulation], home, environment or {}, on_event)
            return
        except _RayError:
            # Two Rays that start at once on a busy machine can take each other's ports. No client has done anything
            # yet, and the ServerApp goes on from what is on disk, as after a kill.
            if not attempts_left:
                raise
            shutil.copy(home / "run.log", home / "run-crashed.log")


class _RayError(RuntimeFailure):
    """Ray has not started."""


def _run_once(
    command: list[str], home: Path, environment: Mapping[str, str], on_event: Callable[[dict[str, Any]], None]
) -> None:
    events = EventReader(home.parent, skip_existing=True)
    with _processes(home, environment) as env:
        superlink = _start_superlink(home, env)
        log = home / "run.log"
        run = _spawn("flwr", command, home, env, log)
        alive = _Watch(superlink, run, log)
        while True:
            # Looked at before the events: a process that has ended will not add any.
            death = alive.look()
            for event in events.new():
                on_event(event)
                if event["event"] == COMPLETED:
                    return
                if event["event"] == FAILED:
                    raise _error_of(event, log)
            if death == "run":
                raise _failure(home, env, log)
            if death:
                raise _death(death, home)
            time.sleep(_POLL_S)


class _Watch:
    """Notices when a process without which the run cannot go on has ended.

    The SuperLink itself would notice the death of the process that runs the apps only a minute later. And where Ray
    cannot start, Flower leaves the ServerApp to wait for clients that there will never be: only the log says so.
    """

    def __init__(self, superlink: subprocess.Popen[bytes], run: subprocess.Popen[bytes], log: Path) -> None:
        self._superlink = superlink
        self._run = run
        self._log = log
        self._read = 0
        self._apps: psutil.Process | None = None
        self._died_at: float | None = None
        self._next_look = 0.0

    def look(self) -> str:
        """Name what has ended: ``run`` (then Flower knows the outcome), ``superlink``, ``apps`` or ``ray``; or not."""
        if self._run.poll() is not None:
            return "run"
        if self._superlink.poll() is not None:
            return "superlink"
        if time.monotonic() < self._next_look:
            return ""
        self._next_look = time.monotonic() + _WATCH_S
        if self._crashed():
            return "ray"
        if self._apps is None:
            self._apps = self._find_apps()
        elif not self._apps.is_running() or self._apps.status() == psutil.STATUS_ZOMBIE:
            self._died_at = self._died_at or time.monotonic()
        # A run that ends in order takes a moment to end everywhere.
        return "apps" if self._died_at and time.monotonic() > self._died_at + _END_GRACE_S else ""

    def _crashed(self) -> bool:
        """Whether the log, as far as it is new, says that what runs the clients has ended by an error."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._read - len(_CRASHED)))
            new = log.read()
            self._read = log.tell()
        return _CRASHED in new

    def _find_apps(self) -> psutil.Process | None:
        try:
            for process in psutil.Process(self._superlink.pid).children(recursive=True):
                if process.name().startswith("flwr-simulation"):
                    return process
        except psutil.Error:
            return None
        return None


@contextmanager
def _processes(home: Path, extra: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the environment for all processes of a run; stop them all at the end.

    The token by which they are found is kept in a locked file, so that what a killed run has left is stopped before the
    next one starts in the same folder, and two runs cannot share one.
    """
    with (home / "lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another run is going on in {home.parent}", fix="wait for it to end, or choose another folder"
            ) from None
        lock.seek(0)
        if re.fullmatch("[0-9a-f]{32}", earlier := lock.read(32)):
            _clean_up(earlier)
        token = uuid.uuid4().hex
        lock.truncate(0)
        lock.write(token)
        lock.flush()
        ray_dir = _ray_dir(token)
        ray_dir.mkdir(mode=0o700)
        env = {**inherited(os.environ), **extra}
        env |= {"FLWR_HOME": str(home), "RAY_TMPDIR": str(ray_dir), _MARKER: token, "PYTHONUNBUFFERED": "1"}
        # Flower starts its own programs by name.
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        with ends_in_order():
            try:
                yield env
            finally:
                _clean_up(token)


def _ray_dir(token: str) -> Path:
    """Ray's folder. It holds sockets, whose paths may have 107 bytes, and Ray takes 64: work_dir could be too long.

    Raises
    ------
    InputError
        No folder for temporary files has a path that is short enough.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
        if len(os.fsencode(parent)) <= _LONGEST_TMPDIR and os.access(parent, os.W_OK):
            return Path(parent) / f"zkapex-{token[:16]}"
    raise InputError(
        f"the folder for temporary files, {tempfile.gettempdir()}, has a path that is too long for Ray's sockets",
        why=f"{_LONGEST_TMPDIR} bytes are left for it, and neither /tmp nor /var/tmp can be written",
        fix="set TMPDIR to a shorter path",
    )


def _clean_up(token: str) -> None:
    _stop_all(token)
    shutil.rmtree(_ray_dir(token), ignore_errors=True)


def _stop_all(token: str) -> None:
    """Stop every process that carries this run's token, and their descendants.

    Flower and Ray put their processes in sessions of their own, so neither a process group nor the tree of children of
    this process reaches all; the inherited environment does. Ray's workers overwrite theirs, but are children of
    others.
    """
    stop = psutil.Process.terminate
    for _ in range(5):
        ours: set[psutil.Process] = set()
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARKER) == token:
                    ours |= {process, *process.children(recursive=True)}
            except psutil.Error:
                continue
        ours.discard(psutil.Process())
        if not ours:
            return
        for process in ours:
            try:
                stop(process)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(ours, timeout=_STOP_GRACE_S)
        stop = psutil.Process.kill


def _spawn(program: str, arguments: list[str], cwd: Path, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    path = shutil.which(program, path=env["PATH"])
    if path is None:
        raise RuntimeFailure(f"cannot find Flower's program {program}", fix="install zkapex with its dependencies")
    with log.open("wb") as output:
        # In a session of its own a process does not get the terminal's Ctrl-C: stopping is up to us, in order.
        return subprocess.Popen(
            [path, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start_superlink(home: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    log = home / "superlink.log"
    for _ in range(_START_ATTEMPTS):
        port = _free_port()
        arguments = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        process = _spawn("flower-superlink", arguments, home, env, log)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if _healthy(port):
                connection = {"address": f"127.0.0.1:{port}", "insecure": True}
                config = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
                (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
                return process
            time.sleep(_POLL_S)
        if process.poll() is None:
            process.terminate()
            process.wait()
        # Another program may have taken the port between our look and the SuperLink's start: try the next.
    raise RuntimeFailure("Flower's SuperLink did not start", why=_tail(log), fix=f"see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/health", timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _error_of(event: dict[str, Any], log: Path) -> Error:
    """The error that ended the ServerApp, as it was raised there."""
    kind = getattr(zkapex.errors, event["error"], None)
    if isinstance(kind, type) and issubclass(kind, Error):
        return kind(event["what"], why=event["why"], fix=event["fix"])
    return RuntimeFailure(
        f"the ServerApp failed: {event['error']}: {event['what']}", why=_tail(log), fix=f"the whole log is in {log}"
    )


def _failure(home: Path, env: dict[str, str], log: Path) -> RuntimeFailure:
    """Explain a run that ended without its last event. ``flwr run`` exits 0 even then, so Flower is asked."""
    answer = home / "runs.json"
    status = "not started"
    if _spawn("flwr", ["ls", _CONNECTION, "--format", "json"], home, env, answer).wait() == 0:
        try:
            for run in json.loads(answer.read_text(encoding="utf-8"))["runs"]:
                status = f"{run['status']}: {run['status-details']}"
        except (ValueError, KeyError, TypeError):
            status = "unknown"
    return RuntimeFailure(f"the Flower run failed ({status})", why=_tail(log), fix=f"the whole log is in {log}")


def _death(of: str, home: Path) -> RuntimeFailure:
    what = {
        "superlink": "Flower's SuperLink",
        "apps": "the process that runs the ServerApp",
        "ray": "Ray, which runs the clients,",
    }[of]
    log = home / ("superlink.log" if of == "superlink" else "run.log")
    kind = _RayError if of == "ray" else RuntimeFailure
    return kind(
        f"{what} died during the run",
        why=_tail(log),
        fix=f"the whole log is in {log}; if the system ran out of memory, run fewer clients at once",
    )


def _tail(log: Path) -> str:
    """The last line of a log that names an error, rather its cause than what was shut down last; then the log's end."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    end = lines[-_LOG_TAIL_LINES:]
    cause = next((line for line in reversed(lines) if _CAUSE.match(line)), None)
    return "\n".join(end if cause is None or cause in end[-1:] else [cause.strip(), "the end of the log:", *end])
