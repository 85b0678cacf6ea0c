"""Which commit a result was made from, and which data."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from zkapex import __version__
from zkapex.errors import StorageError

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


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or of the names and sizes of all files in a folder; None if there is neither.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        if path.is_dir():
            found = sorted(f"{p.relative_to(path)} {p.stat().st_size}" for p in path.rglob("*") if p.is_file())
            return hashlib.sha256("\n".join(found).encode()).hexdigest()
        return None
    except OSError as e:
        raise StorageError(f"cannot read {path}", why=str(e), fix="give another --data or --model") from e


def _answer(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
