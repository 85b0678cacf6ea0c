"""What travels inside Flower messages: one record and its raw blobs, or named arrays. Nothing else is read, no pickle.

A message's ``RecordDict`` holds exactly these entries:

* ``zkapex.record``, a ``ConfigRecord``: ``wire`` (version of this framing, int), ``kind`` (str) and ``body`` (bytes,
  the record's one encoding, :meth:`zkapex.proofs.records.record.Record.to_bytes`),
* ``zkapex.blobs``, a ``ConfigRecord`` of raw bytes by name, when the record comes with any (proofs are sent this way,
  because JSON would need a third more),
* ``zkapex.arrays``, an ``ArrayRecord`` of ``.npy`` arrays by name, when the message carries weights.

Whatever a peer sends is measured before it is parsed, and anything unexpected is a
:class:`~zkapex.errors.ProtocolError`, or a :class:`~zkapex.errors.FormatVersionError` if only the version is unknown.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from zkapex.errors import FormatVersionError, ProtocolError
from zkapex.proofs.records.record import Record

WIRE_VERSION: Final = 1
"""Version of the framing. The records inside have versions of their own."""

MAX_BLOBS: Final = 4096
MAX_ARRAYS: Final = 4096
MAX_ARRAY_BYTES: Final = 2**30

_RECORD_KEY: Final = "zkapex.record"
_BLOBS_KEY: Final = "zkapex.blobs"
_ARRAYS_KEY: Final = "zkapex.arrays"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}")
ARRAY_DTYPES: Final = frozenset({"<f2", "<f4", "<f8", "<i4", "<i8", "|b1"})
_NUMPY_STYPE: Final = "numpy.ndarray"

R = TypeVar("R", bound=Record)


def pack(record: Record, blobs: Mapping[str, bytes] | None = None) -> RecordDict:
    """Put a record and its blobs into the content of a Flower message.

    Raises
    ------
    ProtocolError
        A blob's name is not one, or there are too many blobs: the receiver would refuse the message.
    """
    content = RecordDict()
    head = {"wire": WIRE_VERSION, "kind": record.kind, "body": record.to_bytes()}
    content[_RECORD_KEY] = ConfigRecord(head)  # type: ignore[arg-type]
    if blobs:
        _check_names(blobs, MAX_BLOBS, "blob")
        content[_BLOBS_KEY] = ConfigRecord({name: bytes(blob) for name, blob in blobs.items()})
    return content


def kind_of(content: RecordDict) -> str:
    """The kind of the record that a message claims to carry, for a receiver that accepts several.

    Raises
    ------
    FormatVersionError
        The framing is of a version this release does not know.
    ProtocolError
        There is no record in the message, or its framing is malformed.
    """
    return _head(content)[0]


def unpack(content: RecordDict, record_type: type[R], max_bytes: int) -> tuple[R, dict[str, bytes]]:
    """Take a record and its blobs out of the content of a Flower message.

    Parameters
    ----------
    content : RecordDict
        What a peer sent. Arrays beside the record are left for :func:`unpack_arrays`.
    record_type : type[R]
        The record that is expected.
    max_bytes : int
        Largest accepted size of the record's encoding and all blobs together.

    Raises
    ------
    FormatVersionError
        The framing or the record is of a version this release does not know.
    ProtocolError
        The message is too large, malformed, or carries another record.
    """
    kind, body = _head(content)
    _refuse_unknown(content, {_RECORD_KEY, _BLOBS_KEY, _ARRAYS_KEY})
    blobs = _blobs(content)
    size = len(body) + sum(map(len, blobs.values()))
    if size > max_bytes:
        raise ProtocolError(f"a message of {size} bytes is too large", why=f"at most {max_bytes} are accepted here")
    if kind != record_type.kind:
        raise ProtocolError(
            f"expected a {record_type.kind} record and got another kind",
            why=f"the message says {kind[:64]!r}",
            fix="check that client and server run the same release of zkapex",
        )
    return record_type.from_bytes(body), blobs


def pack_arrays(arrays: Mapping[str, NDArray[Any]], content: RecordDict | None = None) -> RecordDict:
    """Add named arrays (float16/32/64, int32/64 or bool, C order) to the content of a Flower message, or start one.

    Raises
    ------
    ProtocolError
        An array has a name or a dtype the receiver would refuse.
    """
    content = RecordDict() if content is None else content
    _check_names(arrays, MAX_ARRAYS, "array")
    packed: dict[str, Array] = {}
    for name, array in arrays.items():
        if array.dtype.str not in ARRAY_DTYPES:
            raise ProtocolError(f"array {name!r} cannot be sent", why=f"its dtype is {array.dtype}")
        packed[name] = Array(np.ascontiguousarray(array).reshape(array.shape))
    content[_ARRAYS_KEY] = ArrayRecord(packed)
    return content


def unpack_arrays(content: RecordDict, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Take the named arrays out of the content of a Flower message.

    The header of each ``.npy`` is compared with the bytes that follow before anything is allocated, so a peer cannot
    make the receiver reserve more memory than was sent.

    Raises
    ------
    ProtocolError
        There are no arrays, they are too large, or one is malformed.
    """
    record = content.get(_ARRAYS_KEY)
    if not isinstance(record, ArrayRecord):
        raise ProtocolError("a message carries no arrays where they are expected")
    _check_names(record, MAX_ARRAYS, "array")
    size = sum(len(array.data) for array in record.values())
    if size > max_bytes:
        raise ProtocolError(f"arrays of {size} bytes are too large", why=f"at most {max_bytes} are accepted here")
    return {name: _npy(name, array) for name, array in record.items()}


def _head(content: RecordDict) -> tuple[str, bytes]:
    record = content.get(_RECORD_KEY)
    if not isinstance(record, ConfigRecord):
        raise ProtocolError("a message carries no zkapex record", fix="check that both ends run zkapex")
    version, kind, body = record.get("wire"), record.get("kind"), record.get("body")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ProtocolError("a message does not say which version of the framing it uses")
    if version != WIRE_VERSION:
        raise FormatVersionError(
            f"a message uses version {version} of the framing",
            why=f"this release knows version {WIRE_VERSION}",
            fix="run the same release of zkapex on client and server",
        )
    if not isinstance(kind, str) or not isinstance(body, bytes) or len(record) != 3:
        raise ProtocolError("a message's framing is malformed", why="it must hold wire, kind and body and nothing else")
    return kind, body


def _blobs(content: RecordDict) -> dict[str, bytes]:
    record = content.get(_BLOBS_KEY)
    if record is None:
        return {}
    if not isinstance(record, ConfigRecord):
        raise ProtocolError("a message's blobs are malformed", why="they are not in a ConfigRecord")
    _check_names(record, MAX_BLOBS, "blob")
    blobs: dict[str, bytes] = {}
    for name, blob in record.items():
        if not isinstance(blob, bytes):
            raise ProtocolError(f"blob {name!r} is malformed", why="it is not raw bytes")
        blobs[name] = blob
    return blobs


def _npy(name: str, array: Array) -> NDArray[Any]:
    """Decode one ``.npy`` (format version 1.0, C order, known dtype) whose header agrees with its length."""
    if array.stype != _NUMPY_STYPE:
        raise ProtocolError(f"array {name!r} is malformed", why="it is not serialised by numpy")
    stream = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not version 1.0 of the npy format")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, TypeError, EOFError) as error:
        raise ProtocolError(f"array {name!r} is malformed", why=str(error)[:200]) from None
    count = math.prod(shape)
    if fortran_order or dtype.str not in ARRAY_DTYPES or min(shape, default=0) < 0:
        raise ProtocolError(f"array {name!r} is malformed", why="its order, dtype or shape is not accepted")
    if count * dtype.itemsize != len(array.data) - stream.tell():
        raise ProtocolError(f"array {name!r} is malformed", why="its shape and the number of bytes disagree")
    # A copy: an array over the message's own bytes would be read-only.
    return np.frombuffer(array.data, dtype=dtype, count=count, offset=stream.tell()).reshape(shape).copy()


def _check_names(entries: Mapping[str, object], limit: int, what: str) -> None:
    if len(entries) > limit:
        raise ProtocolError(f"a message has {len(entries)} {what}s", why=f"at most {limit} are accepted")
    for name in entries:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ProtocolError(f"a message has a malformed {what} name", why=repr(name)[:160])


def _refuse_unknown(content: RecordDict, known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ProtocolError("a message carries entries that zkapex does not send", why=", ".join(unknown)[:200])
