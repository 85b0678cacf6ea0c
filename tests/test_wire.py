from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import Field

from zkapex.errors import Error, FormatVersionError, ProtocolError
from zkapex.proofs.records.record import Record
from zkapex.transport import wire


class Note(Record):
    kind: ClassVar[str] = "note"
    format: Literal["zkapex.note.v1"] = "zkapex.note.v1"
    text: Annotated[str, Field(max_length=50)]


class Other(Record):
    kind: ClassVar[str] = "other"
    format: Literal["zkapex.other.v1"] = "zkapex.other.v1"


def over_the_wire(content: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(content))


def head(**changes: Any) -> ConfigRecord:
    fields = {"wire": 1, "kind": "note", "body": Note(text="hi").to_bytes(), **changes}
    return ConfigRecord({name: value for name, value in fields.items() if value is not None})


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,20}", fullmatch=True)


@given(
    text=st.text(max_size=50).filter(lambda t: t.isprintable()),
    blobs=st.dictionaries(names, st.binary(max_size=40), max_size=4),
)
def test_record_and_blobs_survive_the_wire(text: str, blobs: dict[str, bytes]) -> None:
    note = Note(text=text)
    content = over_the_wire(wire.pack(note, blobs))
    assert wire.kind_of(content) == "note"
    assert wire.unpack(content, Note, max_bytes=10_000) == (note, blobs)


@given(
    st.dictionaries(
        names,
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.bool_]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=3,
    )
)
def test_arrays_survive_the_wire(arrays: dict[str, Any]) -> None:
    received = wire.unpack_arrays(over_the_wire(wire.pack_arrays(arrays)))
    assert received.keys() == arrays.keys()
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        assert received[name].shape == array.shape
        assert received[name].flags.writeable
        np.testing.assert_array_equal(received[name], array)


def test_arrays_in_fortran_order_arrive_the_same() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    received = wire.unpack_arrays(wire.pack_arrays({"w": array}))
    np.testing.assert_array_equal(received["w"], array)


def test_record_and_arrays_share_a_message() -> None:
    content = wire.pack_arrays({"w": np.zeros(3)}, wire.pack(Note(text="hi")))
    assert wire.unpack(content, Note, max_bytes=1000)[0] == Note(text="hi")
    assert wire.unpack_arrays(content)["w"].shape == (3,)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (RecordDict(), ProtocolError, "no zkapex record"),
        (RecordDict({"zkapex.record": MetricRecord({"wire": 1})}), ProtocolError, "no zkapex record"),
        (RecordDict({"zkapex.record": head(wire=None)}), ProtocolError, "which version"),
        (RecordDict({"zkapex.record": head(wire=True)}), ProtocolError, "which version"),
        (RecordDict({"zkapex.record": head(wire="1")}), ProtocolError, "which version"),
        (RecordDict({"zkapex.record": head(wire=2)}), FormatVersionError, "version 2"),
        (RecordDict({"zkapex.record": head(kind=None)}), ProtocolError, "framing is malformed"),
        (RecordDict({"zkapex.record": head(body="text")}), ProtocolError, "framing is malformed"),
        (RecordDict({"zkapex.record": head(extra=1)}), ProtocolError, "framing is malformed"),
        (RecordDict({"zkapex.record": head(kind="other")}), ProtocolError, "another kind"),
        (RecordDict({"zkapex.record": head(body=b"{")}), ProtocolError, "malformed"),
        (RecordDict({"zkapex.record": head(body=b'{"format":"zkapex.note.v9","text":""}')}), FormatVersionError, "v9"),
        (RecordDict({"zkapex.record": head(), "more": ConfigRecord()}), ProtocolError, "does not send"),
        (RecordDict({"zkapex.record": head(), "zkapex.blobs": MetricRecord()}), ProtocolError, "blobs are malformed"),
        (RecordDict({"zkapex.record": head(), "zkapex.blobs": ConfigRecord({"a": 1})}), ProtocolError, "raw bytes"),
        (RecordDict({"zkapex.record": head(), "zkapex.blobs": ConfigRecord({"../a": b""})}), ProtocolError, "name"),
        (
            RecordDict({"zkapex.record": head(), "zkapex.blobs": ConfigRecord({f"b{i}": b"" for i in range(4097)})}),
            ProtocolError,
            "4097 blobs",
        ),
        (RecordDict({"zkapex.record": head(body=b"x" * 1001)}), ProtocolError, "too large"),
        (RecordDict({"zkapex.record": head(), "zkapex.blobs": ConfigRecord({"a": b"x" * 1000})}), ProtocolError, "too"),
    ],
)
def test_malformed_messages_are_refused(content: RecordDict, error: type[Error], text: str) -> None:
    with pytest.raises(error) as caught:
        wire.unpack(content, Note, max_bytes=1000)
    assert text in caught.value.what + caught.value.why


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    text = (header + " " * (-len(header) % 16) + "\n").encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "magic"),
        (b"\x80\x04K\x01.", "magic"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8, b"\x02\x00"), "version 1.0"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04K\x01."), "dtype"),
        (npy("{'descr': '<f8', 'fortran_order': True, 'shape': (1,)}", b"\0" * 8), "order"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", b"\0" * 8), "shape"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}", b"\0" * 8), "disagree"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}", b"\0" * 7), "disagree"),
        (npy("not a header", b""), ""),
        (npy("{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}", b""), ""),
    ],
)
def test_malformed_arrays_are_refused(data: bytes, why: str) -> None:
    content = RecordDict({"zkapex.arrays": ArrayRecord({"w": Array("<f8", (1,), "numpy.ndarray", data)})})
    with pytest.raises(ProtocolError, match="malformed") as caught:
        wire.unpack_arrays(content)
    assert why in caught.value.why


def test_arrays_are_measured_before_they_are_parsed() -> None:
    content = wire.pack_arrays({"w": np.zeros(1000)})
    with pytest.raises(ProtocolError, match="too large"):
        wire.unpack_arrays(content, max_bytes=1000)
    with pytest.raises(ProtocolError, match="no arrays"):
        wire.unpack_arrays(RecordDict())
    foreign = RecordDict({"zkapex.arrays": ArrayRecord({"w": Array("<f8", (1,), "torch.tensor", b"")})})
    with pytest.raises(ProtocolError, match="malformed"):
        wire.unpack_arrays(foreign)


def test_what_would_be_refused_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="name"):
        wire.pack(Note(text="hi"), {"a b": b""})
    with pytest.raises(ProtocolError, match="cannot be sent"):
        wire.pack_arrays({"w": np.array(["text"])})
    with pytest.raises(ProtocolError, match="another kind"):
        wire.unpack(wire.pack(Other()), Note, max_bytes=1000)
