"""Rewrite an sdist so that it depends on nothing but its content: sorted, one time, no owner."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def normalise(path: Path, epoch: int) -> None:
    """Rewrite a ``.tar.gz`` in place; members' times become `epoch`, in seconds."""
    plain = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            clean = tarfile.TarInfo(member.name)
            clean.size, clean.type, clean.linkname = member.size, member.type, member.linkname
            clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            clean.mtime = epoch
            new.addfile(clean, old.extractfile(member) if member.isfile() else None)
    with path.open("wb") as f, gzip.GzipFile("", "wb", 9, f, epoch) as packed:
        packed.write(plain.getvalue())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        normalise(Path(name), int(os.environ["SOURCE_DATE_EPOCH"]))
