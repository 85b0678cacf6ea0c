"""Python processes of a test run later than it is: each starts itself again with libfaketime."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

_LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
_later = os.environ.get("ZKAPEX_TESTS_LATER")


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


def _forget() -> None:
    """Remove what the library has in shared memory under this process's number.

    It does not do so itself if the process is killed, and does not start under a number that is taken.
    """
    for name in ("faketime_shm_", "sem.faketime_sem_"):
        Path(f"/dev/shm/{name}{os.getpid()}").unlink(missing_ok=True)


if _later and _LIBRARY not in os.environ.get("LD_PRELOAD", ""):
    _forget()
    os.environ |= {
        "LD_PRELOAD": _LIBRARY,
        "FAKETIME": _later,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Otherwise whoever waits for the interpreter's lock, by the monotonic clock, is woken at once, again and again:
        # two threads that both have something to do take ten times as long.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "NO_FAKE_STAT": "1",
    }
    os.execv(sys.executable, sys.orig_argv)
if _later:
    # It is mapped by now, and children are to have their own.
    _forget()
    for _name in ("LD_PRELOAD", "FAKETIME_SHARED"):
        os.environ.pop(_name, None)
    # What Python sleeps with, libfaketime answers by EINVAL if it leaves the monotonic clock alone. If it does not,
    # locks with a timeout hang.
    time.sleep = _sleep
