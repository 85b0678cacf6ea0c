"""What operators did: one line each, and every line commits to the one before.

The registry's own trail has what happened to clients and requests. This one has who decided what: who was let in, put
into quarantine or retired, which requests were made and cancelled, what was backed up and restored. Like that of the
registry it guards against mistakes and later changes, not against who can write the whole of it anew: keep its head
(`zkapex server audit-trail --head`) elsewhere.
"""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock

from zkapex.errors import StorageError, VerificationError
from zkapex.proofs.records.record import encode_parts, sha256_hex
from zkapex.server.deployment.settings import Place

LONGEST_REASON: Final = 1000
_DOMAIN: Final = "zkapex:acts:v1"
_START: Final = sha256_hex(encode_parts(_DOMAIN))


@dataclass(frozen=True)
class Act:
    """Something that an operator did.

    Attributes
    ----------
    at : str
        ISO 8601, UTC.
    who : str
        The user of this machine.
    what : str
        Such as ``client.quarantined``.
    subject : str
        What it was done to: a client, a node, a request, a file.
    reason : str
    before, digest : str
        SHA-256 (hex) of the line before, and of this one with it.
    """

    at: str
    who: str
    what: str
    subject: str
    reason: str
    before: str
    digest: str


def record(place: Place, what: str, subject: str, reason: str = "", now: datetime | None = None) -> Act:
    """Add an act, durably.

    Raises
    ------
    StorageError
        It cannot be written, or what is there is damaged.
    """
    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    path = _path(place)
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        known = acts(place)
        before = known[-1].digest if known else _START
        fields = (at, _user(), what, subject, " ".join(reason.split())[:LONGEST_REASON])
        act = Act(*fields, before, _digest(before, *fields))
        line = json.dumps(asdict(act), separators=(",", ":")).encode() + b"\n"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                whole = file.read()
                file.truncate(whole.rfind(b"\n") + 1)  # what a crash has left of a line goes
                file.seek(0, os.SEEK_END)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {path}", why=error.strerror or str(error), fix="free disk space"
            ) from None
    return act


def said(by: str, reason: str) -> str:
    """A reason with who gives it, where that is not the user of this machine."""
    return f"{by}: {reason}" if by and reason else by or reason


def acts(place: Place) -> list[Act]:
    """Everything that operators did, oldest first.

    Raises
    ------
    VerificationError
        A line was changed or removed.
    StorageError
        The file cannot be read.
    """
    path = _path(place)
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as error:
        raise StorageError(f"cannot read {path}", why=error.strerror or str(error)) from None
    found: list[Act] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") and number == len(lines):
            break  # a crash cut it: nobody was told that it is there
        try:
            act = Act(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise VerificationError(f"line {number} of {path.name} is damaged", why=str(error)[:200]) from None
        before = found[-1].digest if found else _START
        if act.before != before or act.digest != _digest(before, act.at, act.who, act.what, act.subject, act.reason):
            raise VerificationError(
                f"line {number} of {path.name} was changed, or one before it removed",
                why="its digest is not that of its fields and of the line before",
            )
        found.append(act)
    return found


def _digest(before: str, *fields: str) -> str:
    return sha256_hex(encode_parts(_DOMAIN, before, *fields))


def _user() -> str:
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _path(place: Place) -> Path:
    return place.provider / "acts.jsonl"
