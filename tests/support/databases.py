"""Places for a registry: an SQLite file, and a database of a PostgreSQL server that the tests start themselves."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

WHY_NOT = "PostgreSQL is not installed (on Debian: apt-get install postgresql)"
_USER = "postgres"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, of the newest release that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).resolve().parent


@dataclass
class Server:
    """A PostgreSQL server on a Unix socket in a temporary folder."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{_USER}@/postgres?host={self.folder}"

    def wait(self, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
        """Until it takes connections."""
        engine = create_engine(self.url)
        end = time.monotonic() + seconds
        while True:
            try:
                engine.connect().close()
            except OperationalError:
                assert process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                engine.dispose()
                return

    def database(self) -> str:
        """The URL of a new, empty place: a schema of its own, which costs less than a database."""
        name = f"registry_{next(self.numbers)}"
        tamper(self.url, f"CREATE SCHEMA {name}")
        return f"{self.url}&options=-csearch_path%3D{name}"


@contextmanager
def postgresql(*settings: str) -> Iterator[Server]:
    """A server that runs as long as this; never as root, which it refuses."""
    where = programs()
    assert where is not None, WHY_NOT
    folder = Path(tempfile.mkdtemp(prefix="zkapex-pg-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam(_USER)
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]

    data = folder / "data"
    initdb = [where / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    options = [f"-c{setting}" for setting in (f"unix_socket_directories={folder}", "listen_addresses=", *settings)]
    try:
        done = subprocess.run([*as_user, *initdb], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        with (folder / "log").open("w") as log:
            command = [*as_user, where / "postgres", "-D", data, *options]
            process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            running = Server(folder)
            running.wait(process)
            yield running
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def engine_of(location: Path | str) -> Engine:
    """A connection past the registry, for those who tamper."""
    return create_engine(f"sqlite:///{location}" if isinstance(location, Path) else location)


def tamper(location: Path | str, *statements: str) -> None:
    """Run statements as whoever may write to the database."""
    engine = engine_of(location)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
