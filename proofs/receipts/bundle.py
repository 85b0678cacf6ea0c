"""Receipts on disk: a directory with ``receipt.json`` and the evidence, and nothing else.

::

    receipt.json            the signed receipt; lists size and SHA-256 of every other file
    manifest.json           model, geometry and circuit
    enrolment.json          what the client committed to and signed before it knew the mask
    earlier/<nnnn>.json     its signed responses to earlier requests since then
    request.json            the signed request: mask, guard, nonce
    response.json           its signed response: new commitments
    proofs/<chunk>.bin      raw proofs
    rejected/<chunk>.bin    raw proofs that were refused
    circuit/settings.json, circuit/vk.bin [, circuit/srs.bin]    of the halo2 backend
    asked/<nnnn>.json, before/<nnnn>x<chunk>.bin    of the transparent one: the requests that earlier/ answers, and
                            their proofs, which those of this request rest on

Beside them may be what authenticates itself, and may come later: ``receipt.tsr`` (a timestamp), ``receipt.tlog-proof``
and ``opened.tlog-proof`` (that receipt and request were logged), ``status.json`` (a signed word of the issuer's about
the receipt). A receipt may also be one ``.zip`` of such a directory.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from zkapex.errors import InputError, ProtocolError, ReceiptError, StorageError
from zkapex.proofs.ledger.files import put
from zkapex.proofs.receipts.archive import read_archive
from zkapex.proofs.receipts.evidence import Dossier, Evidence
from zkapex.proofs.receipts.receipt import Receipt, check_receipt, open_receipt
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import MAX_ENVELOPE_BYTES

MAX_BUNDLE_BYTES = 2**32
MAX_COMPANION_BYTES = 2**20
RECEIPT_FILE = "receipt.json"
COMPANIONS = frozenset({"receipt.tsr", "receipt.tlog-proof", "opened.tlog-proof", "status.json"})
"""Files that authenticate themselves, and that no receipt lists."""


@dataclass(frozen=True)
class Bundle:
    """A receipt and its evidence, checked against each other; the zero-knowledge proofs are not verified yet."""

    receipt: Receipt
    evidence: Evidence
    dossier: Dossier
    companions: Mapping[str, bytes] = field(default_factory=dict)


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


def put_companion(directory: Path, name: str, data: bytes) -> None:
    """Put one of `COMPANIONS` into a receipt's directory, or replace it.

    A receipt with a file that does not belong to it is refused, and so nothing half-written is ever in its directory:
    whoever is killed leaves it beside that.

    Raises
    ------
    StorageError
        It could not be written.
    """
    directory = directory.absolute()
    put(directory / name, data, by=directory.with_name(f".{directory.name}.{name}.partial"))


def receipts_in(directory: Path, where: str = "*") -> list[Path]:
    """The folders of receipts, in order: right below a folder, or where a pattern says; not those half-written."""
    found = sorted(path.parent for path in directory.glob(f"{where}/{RECEIPT_FILE}"))
    return [path for path in found if not path.name.startswith(".")]


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
    files = read_files(directory)
    return check_files(open_signed(files, trusted), files)


def read_files(path: Path) -> dict[str, bytes]:
    """Read all files of a receipt, a directory or a ``.zip``; nothing is verified yet.

    Raises
    ------
    InputError
        There is no receipt there.
    ReceiptError
        Something in it is no regular file, or it is too much.
    StorageError
        A file could not be read.
    """
    if path.is_file():
        return read_archive(path)
    if not path.is_dir():
        raise InputError(f"there is no receipt {path}", fix="name the directory that holds receipt.json, or its .zip")
    with _reading(path):
        files, total = {RECEIPT_FILE: _read(path, RECEIPT_FILE, MAX_ENVELOPE_BYTES)}, 0
        for name in sorted(_walk(path) - {RECEIPT_FILE}):
            files[name] = _read(path, name, MAX_BUNDLE_BYTES - total)
            total += len(files[name])
            if total > MAX_BUNDLE_BYTES:
                raise ReceiptError("the receipt is too large", why=f"more than {MAX_BUNDLE_BYTES} bytes")
    return files


def open_signed(files: Mapping[str, bytes], trusted: Collection[Ed25519PublicKey] | None) -> Receipt:
    """Verify the signature of the receipt among these files; raises as `read_bundle`."""
    try:
        return open_receipt(files[RECEIPT_FILE], trusted)
    except ProtocolError as error:
        raise ReceiptError(f"{RECEIPT_FILE} is wrong: {error.what}", why=error.why) from error


def check_files(receipt: Receipt, files: Mapping[str, bytes]) -> Bundle:
    """Check files against the signed receipt that lists them, and against each other; raises as `read_bundle`."""
    listed = receipt.files
    companions = {name: data for name, data in files.items() if name in COMPANIONS and name not in listed}
    _compare_names(set(files) - set(companions), {RECEIPT_FILE, *listed})
    for name, data in companions.items():
        if len(data) > MAX_COMPANION_BYTES:
            raise ReceiptError(f"{name} is too large")
    evidence_files = {}
    for name, digest in listed.items():
        if sha256_hex(files[name]) != digest:
            raise ReceiptError(f"{name} was altered", why="its SHA-256 is not the one in the signed receipt")
        evidence_files[name] = files[name]
    evidence, dossier = check_receipt(receipt, evidence_files)
    return Bundle(receipt, evidence, dossier, companions)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} could not be read", why=error.strerror or str(error)) from error


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
            below = next((found for where in ("*", "*/*", "*/*/*") for found in receipts_in(directory, where)), None)
            fix = "name another directory" if below is None else f"name one receipt's, such as {below}, or add --chain"
            raise InputError(f"there is no receipt {directory}", why=f"it has no {RECEIPT_FILE}", fix=fix) from None
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
