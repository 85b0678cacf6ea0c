"""A process that is told to end unwinds a run first, so that everything the run has started ends, too.

SIGTERM, and SIGHUP of a terminal that is closed, would otherwise end this process at once; and Flower puts its own
processes into sessions of their own, where neither signal reaches them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ends_in_order() -> Iterator[None]:
    """While it lasts, these signals raise SystemExit with a shell's exit code for them: 143, or 129.

    Whoever has a handler of its own keeps it, and nothing changes in other threads than the main one, which is the only
    one that signals reach.
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    for one in _SIGNALS:  # what is being stopped now is not to be interrupted
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)
