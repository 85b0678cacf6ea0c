"""Archives that are encrypted: what is written comes back, and nothing that was altered, moved or cut off does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from zkapex.errors import FormatVersionError, InputError, VerificationError
from zkapex.server.deployment.sealing import SealedReader, SealedWriter, read_passphrase, sealed

SECRET = b"a passphrase of the tests"
SEGMENT = 2**20 + 16
HEADER = 23 + 16 + 16 + 7


def written(data: bytes, piece: int = 300_000) -> bytes:
    file = io.BytesIO()
    with SealedWriter(file, SECRET) as output:
        for at in range(0, len(data), piece):
            output.write(data[at : at + piece])
    return file.getvalue()


def read(archive: bytes, piece: int = 100_000, secret: bytes = SECRET) -> bytes:
    reader, found = SealedReader(io.BytesIO(archive), secret), bytearray()
    while got := reader.read(piece):
        found += got
    return bytes(found)


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_what_is_written_comes_back(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    archive = written(data)
    assert read(archive) == data
    assert sealed(io.BytesIO(archive))
    assert not sealed(io.BytesIO(data))
    assert len(archive) == HEADER + size + 16 * max(1, -(-size // 2**20))


def test_two_archives_of_the_same_have_nothing_in_common() -> None:
    one, other = written(b"the same" * 100), written(b"the same" * 100)
    assert one[23:39] != other[23:39]
    assert one[HEADER:] != other[HEADER:]
    assert b"the same" not in one


def test_nothing_altered_moved_or_cut_off_opens() -> None:
    archive = written(bytes(2**20) + bytes(2**20) + b"the end")
    first, second, last = (
        archive[HEADER:][:SEGMENT],
        archive[HEADER + SEGMENT :][:SEGMENT],
        archive[HEADER + 2 * SEGMENT :],
    )
    head = archive[:HEADER]
    for at in (HEADER - 1, HEADER, HEADER + SEGMENT + 5, len(archive) - 1):
        altered = bytearray(archive)
        altered[at] ^= 1
        with pytest.raises(VerificationError, match="damaged"):
            read(bytes(altered))
    for parts in ((second, first, last), (first, last), (first, second), (first, second, last, last), ()):
        with pytest.raises(VerificationError, match="damaged"):
            read(head + b"".join(parts))


def test_another_passphrase_and_another_format_are_told_apart(tmp_path: Path) -> None:
    archive = written(b"something")
    with pytest.raises(InputError, match="not the one"):
        read(archive, secret=b"another passphrase of the tests")
    newer = archive.replace(b"backup-1", b"backup-2", 1)
    assert sealed(io.BytesIO(newer))
    with pytest.raises(FormatVersionError):
        read(newer)
    (tmp_path / "short").write_text("too short\n")
    for path in (tmp_path / "short", tmp_path / "missing"):
        with pytest.raises(InputError):
            read_passphrase(path)
