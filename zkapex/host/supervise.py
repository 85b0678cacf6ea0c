"""Child processes that are kept running: started again when they end, stopped together, and in order.

Flower's programs exit 0 when the other side refuses them, and say that they ended gracefully; so every end of a child
is one to start it again after. The wait before grows with ends in a row and is forgotten when a child has lasted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG: Final = 1
_LASTED_S: Final = 60.0
_STOP_GRACE_S: Final = 5.0
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class Program:
    """A child to keep running.

    Attributes
    ----------
    name : str
        For people and logs.
    command : sequence of str
        Never a secret: arguments are visible to everybody on the machine.
    environment : mapping
        All of the child's environment.
    log : Path
        Where its output goes; created for the owner only.
    folder : Path
        Where it starts.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    folder: Path


@dataclass
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    next_start: float = 0.0
    ends: int = 0
    codes: list[int] = field(default_factory=list)


class Supervisor:
    """Keeps programs running until it is stopped.

    Parameters
    ----------
    programs : sequence of Program
        Started in this order and stopped in the reverse one.
    on_event : callable
        Told of every start and end: what happened, the program's name, and the details.
    first_wait_s, longest_wait_s : float
        The wait before a child is started again: doubled with every end in a row.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        on_event: Callable[..., None] = lambda what, **details: None,
        first_wait_s: float = 1.0,
        longest_wait_s: float = 15.0,
    ) -> None:
        self._children = [_Child(program) for program in programs]
        self._on_event = on_event
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Make `run` stop all children and return; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the programs running until `stop` is called; whatever happens, no child is left behind."""
        try:
            while not self._stopping.is_set():
                for child in self._children:
                    self._look(child)
                self._stopping.wait(_POLL_S)
        finally:
            for child in reversed(self._children):
                self._end(child)

    def processes(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        return {
            child.program.name: child.process.pid
            for child in self._children
            if child.process is not None and child.process.poll() is None
        }

    def _look(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            lasted = now - child.started_at
            child.ends = 1 if lasted > _LASTED_S else child.ends + 1
            wait = min(self._first_wait_s * 2 ** (child.ends - 1), self._longest_wait_s)
            self._on_event("child.ended", program=child.program.name, code=code, lasted_s=round(lasted, 1))
            child.process, child.next_start = None, now + wait
        if now >= child.next_start:
            child.process, child.started_at = _start(child.program), now
            self._on_event("child.started", program=child.program.name, pid=child.process.pid)

    def _end(self, child: _Child) -> None:
        if child.process is None:
            return
        # What a child has started may outlive it: Flower's device app does.
        family = [child.process.pid]
        with contextlib.suppress(psutil.Error):
            family += [process.pid for process in psutil.Process(child.process.pid).children(recursive=True)]
        for stop in (signal.SIGTERM, signal.SIGKILL):
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, stop)
            gone = _wait(family, _STOP_GRACE_S)
            if gone:
                break
        child.process.wait()
        self._on_event("child.stopped", program=child.program.name)


def _start(program: Program) -> subprocess.Popen[bytes]:
    descriptor = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as output:
        # In a session of its own a child does not get the terminal's Ctrl-C, and what it creates is its owner's only.
        return subprocess.Popen(
            list(program.command),
            cwd=program.folder,
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(pids: Sequence[int], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
