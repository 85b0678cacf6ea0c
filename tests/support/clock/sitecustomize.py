"""Python processes of a test run later than it is: each starts itself again with libfaketime."""

from __future__ import annotations

import os
import select
import sys
import time

_LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
_later = os.environ.get("ZKAPEX_TESTS_LATER")


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


if _later and _LIBRARY not in os.environ.get("LD_PRELOAD", ""):
    os.environ |= {
        "LD_PRELOAD": _LIBRARY,
        "FAKETIME": _later,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    os.execv(sys.executable, sys.orig_argv)
if _later:
    # What Python sleeps with, libfaketime answers by EINVAL if it leaves the monotonic clock alone. If it does not,
    # locks with a timeout hang.
    time.sleep = _sleep
