"""A receipt as one ``.zip``: its files in one order, without times: the same receipt makes the same bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from zkapex.errors import InputError, ReceiptError

MAX_FILES = 2**20
MAX_BYTES = 2**32


def pack_archive(files: Mapping[str, bytes]) -> bytes:
    """Pack the files of a receipt."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()


def read_archive(path: Path) -> dict[str, bytes]:
    """Read the files of a receipt from an archive; nothing is verified yet.

    Files that another program has compressed are read too, up to a limit.

    Raises
    ------
    InputError
        It is no archive, or holds no receipt.
    ReceiptError
        A file is in it twice, is none, or they are too many or too large.
    """
    files: dict[str, bytes] = {}
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_FILES:
                raise ReceiptError(f"{path} has too many files")
            for entry in entries:
                if entry.is_dir():
                    continue
                mode = entry.external_attr >> 28
                if entry.filename in files or mode not in (0, 0o10) or entry.flag_bits & 1:
                    raise ReceiptError(f"{path} holds {entry.filename[:100]!r} twice, or not as a regular file")
                with archive.open(entry) as file:
                    files[entry.filename] = file.read(MAX_BYTES - total + 1)
                total += len(files[entry.filename])
                if total > MAX_BYTES:
                    raise ReceiptError(f"{path} is too large", why=f"more than {MAX_BYTES} bytes")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if path.suffix == ".json":
            raise InputError(
                f"{path} is the receipt alone",
                fix="name the folder it is in, or the .zip that holds it and its evidence",
            ) from error
        raise InputError(f"{path} is no archive of a receipt", why=str(error)) from error
    except Exception as error:  # zlib.error, LZMAError and what other compressors raise
        if isinstance(error, ReceiptError):
            raise
        raise InputError(f"{path} is no archive of a receipt", why=str(error)) from error
    if "receipt.json" not in files:
        raise InputError(f"{path} holds no receipt", why="it has no receipt.json")
    return files
