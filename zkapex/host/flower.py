"""How Flower's programs are started on a machine of a deployment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from zkapex.errors import RuntimeFailure

QUIET: Final[Mapping[str, str]] = {
    # Nothing is reported to anybody, and nothing is downloaded.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "PYTHONUNBUFFERED": "1",
}
KEPT: Final = ("LANG", "LC_ALL", "TZ", "PYTHONPATH", "TMPDIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "HOME", "USER")
"""What children inherit. The rest of the environment is not theirs: what a bundle could read, it cannot."""


def environment(home: Path, guard: Path | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of one of Flower's programs.

    Parameters
    ----------
    home : Path
        Flower's folder; two programs of one machine need two.
    guard : Path, optional
        Folder of the guard, which goes first on PATH.
    extra : mapping, optional
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # What runs in the tests, too, and what a machine's administrator has set for proving.
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("ZKAPEX_", "EZKL_"))}
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    path = os.pathsep.join([str(guard), *folders] if guard is not None else folders)
    return {**kept, **QUIET, "FLWR_HOME": str(home), "PATH": path, **(extra or {})}


def program(name: str) -> str:
    """Path of one of Flower's programs, of the environment zkapex is installed in.

    Raises
    ------
    RuntimeFailure
        It is not installed.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeFailure(f"cannot find Flower's program {name}", fix="install zkapex with its dependencies")
    return found
