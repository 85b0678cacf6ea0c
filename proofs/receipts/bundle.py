"""Receipts on disk: a directory with ``receipt.json`` and the evidence, and nothing else.

::

    receipt.json            the signed receipt; lists size and SHA-256 of every other file
    manifest.json           model, geometry and circuit
    enrolment.json          what the client committed to and signed before it knew the mask
    earlier/<nnnn>.json     its signed responses to earlier requests since then
    request.json            the signed request: mask, guard, nonce
    response.json           its signed response: new commitments
    proofs/<chunk>.bin      raw proofs
    circuit/settings.json, circuit/vk.bin [, circuit/srs.bin]
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import InputError, ProtocolError, ReceiptError, StorageError
from zkapex.proofs.receipts.evidence import Dossier, Evidence
from zkapex.proofs.receipts.receipt import Receipt, check_receipt, open_receipt
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES

MAX_BUNDLE_BYTES = 2**32
RECEIPT_FILE = "receipt.json"


@dataclass(frozen=True)
class Bundle:
    """A receipt and its evidence, checked against each other; the zero-knowledge proofs are not verified yet."""

    receipt: Receipt
    evidence: Evidence
    dossier: Dossier


def write_bundle(directory: Path, receipt: bytes, evidence: Evidence) -> None:
    """Write a receipt's directory: the signed envelope `receipt`, and its evidence.

    The directory appears complete or not at all, and survives a power cut once this returns. Writing the same receipt
    again does nothing, so an interrupted caller may simply repeat itself. One process at a time may write to a
    directory.

    Raises
    ------
    InputError
        There is something else of that name; receipts are never replaced.
    StorageError
        The directory could not be written.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    files = {RECEIPT_FILE: receipt, **evidence.files()}
    try:
        if directory.exists():
            if _read_if_present(directory / RECEIPT_FILE) == receipt:
                return
            raise InputError(f"{directory} exists already", fix="choose another directory: receipts are never replaced")
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # left behind by a writer that was killed
        partial.mkdir()
        for path, data in files.items():
            target = partial / path
            target.parent.mkdir(exist_ok=True)
            with target.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for folder in (*{(partial / path).parent for path in files}, partial):
            _sync_directory(folder)
        partial.rename(directory)
        _sync_directory(directory.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"the receipt {directory} could not be written", why=error.strerror or str(error)) from error


def read_bundle(directory: Path, trusted: Collection[Ed25519PublicKey] | None = None) -> Bundle:
    """Read a receipt's directory and check everything in it but the zero-knowledge proofs.

    Parameters
    ----------
    directory : Path
        The receipt's directory.
    trusted : collection of public keys, or None
        Keys a server may sign with. None accepts the key the receipt itself names; see :class:`Receipt`.

    Raises
    ------
    InputError
        There is no receipt there.
    SignatureError
        A signature is wrong or not by whom it must be.
    ReceiptError
        A file is missing, too many, altered, no regular file, or contradicts another; names it.
    FormatVersionError
        A part has a format this release does not know.
    StorageError
        A file could not be read.
    """
    if not directory.is_dir():
        raise InputError(f"there is no receipt {directory}", fix="name the directory that holds receipt.json")
    envelope = _read(directory, RECEIPT_FILE, MAX_ENVELOPE_BYTES)
    try:
        receipt = open_receipt(envelope, trusted)
    except ProtocolError as error:
        raise ReceiptError(f"{RECEIPT_FILE} is wrong: {error.what}", why=error.why) from error
    entries = {entry.path: entry for entry in receipt.files}
    if len(entries) != len(receipt.files) or sum(entry.size for entry in receipt.files) > MAX_BUNDLE_BYTES:
        raise ReceiptError(f"{RECEIPT_FILE} lists a file twice, or too much data")
    present = _walk(directory)
    _compare_names(present, {RECEIPT_FILE, *entries})
    files: dict[str, bytes] = {}
    for path, entry in entries.items():
        data = _read(directory, path, entry.size)
        if len(data) != entry.size or sha256_hex(data) != entry.sha256:
            raise ReceiptError(f"{path} was altered", why="its SHA-256 is not the one in the signed receipt")
        files[path] = data
    evidence, dossier = check_receipt(receipt, files)
    return Bundle(receipt, evidence, dossier)


def _walk(directory: Path) -> set[str]:
    """List the regular files under a directory; anything else but directories is refused, and so are empty ones."""
    found: set[str] = set()
    try:
        for folder, _, _ in os.walk(directory, onerror=_raise):
            with os.scandir(folder) as scan:
                entries = list(scan)
            for entry in entries:
                path = Path(entry.path).relative_to(directory).as_posix()
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISREG(mode):
                    found.add(path)
                elif not stat.S_ISDIR(mode):
                    raise ReceiptError(f"{path} is not a regular file", why="links and devices are refused")
            if not entries:
                raise ReceiptError(f"{Path(folder).relative_to(directory)} is an empty directory")
    except OSError as error:
        raise StorageError(f"{directory} could not be read", why=error.strerror or str(error)) from error
    return found


def _raise(error: OSError) -> None:
    raise error


def _compare_names(present: set[str], expected: set[str]) -> None:
    if missing := sorted(expected - present):
        raise ReceiptError(f"{missing[0]} is missing")
    if strange := sorted(present - expected):
        raise ReceiptError(f"{strange[0]} does not belong to the receipt", why="the signed receipt does not list it")


def _read(directory: Path, path: str, limit: int) -> bytes:
    """Read at most `limit` + 1 bytes of a regular file, without following a link to it."""
    try:
        descriptor = os.open(directory / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ReceiptError(f"{path} is not a regular file", why="links and devices are refused")
            return file.read(limit + 1)
    except FileNotFoundError:
        if path == RECEIPT_FILE:
            raise InputError(
                f"there is no receipt {directory}", why=f"it has no {RECEIPT_FILE}", fix="name another directory"
            ) from None
        raise ReceiptError(f"{path} is missing") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ReceiptError(f"{path} is not a regular file", why="links and devices are refused") from None
        raise StorageError(f"{directory / path} could not be read", why=error.strerror or str(error)) from error


def _read_if_present(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
