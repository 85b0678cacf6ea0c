"""A backup of a server: one archive of everything but logs and what is made anew, as it was at one moment.

It is taken between campaigns, with databases as their own programs copy them, and holds the SHA-256 of every file. It
also holds every private key of the server: it is readable by its owner only, and encrypted if a passphrase is given
(`zkapex.server.deployment.sealing`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

from sqlalchemy.engine import make_url

from zkapex import __version__
from zkapex.errors import FormatVersionError, InputError, RuntimeFailure, StorageError, VerificationError
from zkapex.server.deployment.acts import record
from zkapex.server.deployment.reading import registry_of
from zkapex.server.deployment.sealing import SealedReader, SealedWriter, sealed
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.federation.lock import one_writer

FORMAT: Final = 1
CONTENTS: Final = "backup.json"
DUMP: Final = "provider/federation/provider/registry.dump"
_LARGEST_CONTENTS: Final = 64 * 2**20
_LEFT_OUT: Final = ("logs", "link/home", "provider/home", "provider/guard")
_DATABASES: Final = (".sqlite", ".db")
_PASSING: Final = (".lock", ".partial", ".sqlite-wal", ".sqlite-shm", ".db-wal", ".db-shm", ".db-journal")


def back_up(
    place: Place, settings: ServerSettings, target: Path, wait_s: float = 600.0, passphrase: bytes | None = None
) -> dict[str, Any]:
    """Write a backup; what it says of itself.

    Parameters
    ----------
    target : Path
        The archive, which must not exist.
    wait_s : float
        How long to wait for a campaign that is under way.
    passphrase : bytes, optional
        What it is encrypted with; None: it is not.

    Raises
    ------
    InputError
        There is such a file already.
    ProtocolError
        A campaign was under way all the time.
    StorageError
        It cannot be written, or something of the server is damaged.
    RuntimeFailure
        PostgreSQL's ``pg_dump`` is missing, or failed.
    """
    if target.exists():
        raise InputError(f"{target} exists already", fix="choose another name")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with one_writer(place.federation / "provider", wait_s), tempfile.TemporaryDirectory() as scratch:
            facts = _facts(place, settings)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                with (
                    nullcontext(file) if passphrase is None else SealedWriter(file, passphrase) as output,
                    tarfile.open(fileobj=cast("BinaryIO", output), mode="w|", format=tarfile.PAX_FORMAT) as archive,
                ):
                    facts["files"] = {name: _add(archive, name, path) for name, path in _files(place, Path(scratch))}
                    if settings.database:
                        facts["files"][DUMP] = _add(archive, DUMP, _dumped(settings.database, Path(scratch)))
                    text = json.dumps(facts, indent=1).encode()
                    _add_bytes(archive, CONTENTS, text)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
    except OSError as error:
        raise StorageError(f"cannot write {target}", why=error.strerror or str(error), fix="free disk space") from None
    finally:
        partial.unlink(missing_ok=True)
    record(place, "server.backed-up", target.name, f"{len(facts['files'])} files")
    return facts


def read_backup(archive: Path, folder: Path, passphrase: bytes | None = None) -> dict[str, Any]:
    """Unpack a backup into an empty folder, checking every file; what it says of itself.

    Raises
    ------
    InputError
        It is no backup, or is encrypted with another passphrase, or with none.
    FormatVersionError
        A newer release made it.
    VerificationError
        A file is missing, was altered, or has a name that it cannot have.
    """
    try:
        with archive.open("rb") as file:
            source = _opened(archive, file, passphrase)
            facts, found = _read(archive, source, folder)
            if isinstance(source, SealedReader):
                source.finish()
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{archive} is no backup of a server", why=str(error)[:300]) from None
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
        raise InputError(f"{archive} is no backup of a server", why=f"it has no {CONTENTS}")
    if facts.get("format") != FORMAT:
        raise FormatVersionError(
            f"{archive} has format {facts.get('format')}", why=f"this release knows {FORMAT}", fix="use a newer release"
        )
    wrong = sorted(name for name in facts["files"].keys() | found.keys() if facts["files"].get(name) != found.get(name))
    if wrong:
        raise VerificationError(f"{archive} is damaged", why=f"{wrong[0]} is missing, or not what it was")
    return facts


def _opened(archive: Path, file: BinaryIO, passphrase: bytes | None) -> BinaryIO | SealedReader:
    """What to read the archive from; whoever gives a passphrase is given nothing that was not encrypted with it."""
    if sealed(file):
        if passphrase is None:
            raise InputError(f"{archive} is encrypted", fix="give --passphrase-file")
        return SealedReader(file, passphrase)
    if passphrase is not None:
        raise InputError(
            f"{archive} is not encrypted", why="a passphrase was given", fix="leave it out, if you trust the archive"
        )
    return file


def _read(archive: Path, source: BinaryIO | SealedReader, folder: Path) -> tuple[Any, dict[str, str]]:
    """Unpack every file; what the archive says of itself, and the digests of what was found."""
    facts, found = None, {}
    with tarfile.open(fileobj=cast("BinaryIO", source), mode="r|") as tar:
        for member in tar:
            if not member.isfile() or not _plain(member.name):
                raise VerificationError(f"{archive} holds {member.name!r}, which is no file of a server")
            stream = tar.extractfile(member)
            if stream is None:
                raise VerificationError(f"{archive} is damaged", why=f"{member.name} cannot be read")
            if member.name == CONTENTS:
                facts = json.loads(stream.read(_LARGEST_CONTENTS))
                continue
            found[member.name] = _unpack(stream, folder / member.name, member.mode)
    return facts, found


def load_dump(database: str, dump: Path) -> None:
    """Put a dump back into its PostgreSQL database, in place of what is there, in one transaction.

    Raises
    ------
    RuntimeFailure
        ``pg_restore`` is missing, or failed.
    """
    _postgresql("pg_restore", database, "--clean", "--if-exists", "--single-transaction", "--no-owner", str(dump))


def _facts(place: Place, settings: ServerSettings) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": __version__,
        "host": settings.host,
        "trail": None,
    }
    try:
        with registry_of(place, settings) as registry:
            head = registry.verify_trail()
            facts["trail"] = {"serial": head.serial, "digest": head.digest}
    except InputError:
        pass  # nobody has enrolled yet
    return facts


def _files(place: Place, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Every file to keep, by its name below the server's folder; of databases, a copy that is whole."""
    for path in sorted(place.root.rglob("*")):
        name = path.relative_to(place.root).as_posix()
        if not path.is_file() or path.is_symlink() or path.name.endswith(_PASSING):
            continue
        if any(name == part or name.startswith(f"{part}/") for part in _LEFT_OUT):
            continue
        if path.name.endswith(_DATABASES):
            copy = scratch / hashlib.sha256(name.encode()).hexdigest()
            _copy_database(path, copy)
            yield name, copy
        else:
            yield name, path


def _copy_database(source: Path, target: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise StorageError(f"{source} cannot be copied", why=str(error)) from None


def _dumped(database: str, scratch: Path) -> Path:
    target = scratch / "dump"
    _postgresql("pg_dump", database, "--format=custom", f"--file={target}")
    return target


def _postgresql(program: str, database: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs on a database; its password, if it has one, is in ``~/.pgpass``."""
    url = make_url(database)
    found = shutil.which(program) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)), None
    )
    if found is None:
        raise RuntimeFailure(f"{program} is not installed", fix="install PostgreSQL's client programs")
    where = url.set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(  # noqa: S603 - a program of PostgreSQL's, on the database of our own configuration
        [found, f"--dbname={where}", "--no-password", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeFailure(f"{program} failed", why=done.stderr.strip()[-500:])


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    data = path.read_bytes()
    _add_bytes(archive, name, data, path.stat().st_mode & 0o700)
    return hashlib.sha256(data).hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o600) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


def _unpack(stream: Any, target: Path, mode: int) -> str:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o700 | 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while piece := stream.read(2**20):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _plain(name: str) -> bool:
    """Whether a name stays below the folder it is unpacked into."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
