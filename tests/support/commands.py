"""Running the command line as a user does, in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from zkapex import cli

# A test run that was started in the background ignores Ctrl-C, and so would its children.
_MAIN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from zkapex.cli import main; main()"


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start ``zkapex`` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *map(str, arguments)],
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def zkapex(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a run to the end; never with a traceback."""
    process = start(*arguments)
    out, err = process.communicate()
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


def here(*arguments: str | Path) -> int:
    """Exit code of a run in this process, for commands that end soon; output is the caller's to capture."""
    before = sys.argv
    sys.argv = ["zkapex", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def output_of(*arguments: str | Path) -> tuple[int, str, str]:
    """As `zkapex`, but in this process: exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = here(*arguments)
    assert "Traceback" not in out.getvalue() + err.getvalue(), err.getvalue()
    return code, out.getvalue(), err.getvalue()
