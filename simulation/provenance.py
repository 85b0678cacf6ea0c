"""Which commit a result was made from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from zkapex import __version__

SOURCE = Path(__file__).resolve().parent


def source_commit() -> str:
    """The commit this code is from, with ``-dirty`` if files differ from it; the release if it is no git checkout."""
    git = shutil.which("git")
    if git is None:
        return __version__
    commit = _answer([git, "-C", str(SOURCE), "rev-parse", "HEAD"])
    if not commit:
        return __version__
    changed = _answer([git, "-C", str(SOURCE.parent), "status", "--porcelain", "--untracked-files=no", "--", "*.py"])
    return f"{commit}-dirty" if changed else commit


def _answer(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
