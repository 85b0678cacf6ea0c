"""What is fuzzed: decoders of proofs, commitments, envelopes, records, and of a receipt's evidence as a whole.

And readers of what users bring: images, source code, JSON and checkpoints.

Every target is a function of bytes that may raise subclasses of `zkapex.errors.Error` and nothing else, and must not
accept what it should not. Flower is not loaded.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import conformance
import transparent_vectors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from zkapex.circuits.cache import sha256_file
from zkapex.circuits.halo2.srs import import_srs
from zkapex.costs.shapes import model_shapes
from zkapex.errors import Error, InputError
from zkapex.foreign import parse_json
from zkapex.proofs.chunk.commitment import Point
from zkapex.proofs.chunk.prove import leading_points
from zkapex.proofs.chunk.verifier import ChunkVerifier, circuit_of
from zkapex.proofs.jobs.claim import Claim
from zkapex.proofs.messages import (
    Enrolment,
    EnrolRequest,
    EvaluateReply,
    EvaluateRequest,
    ModelManifest,
    PersonaliseReply,
    PersonaliseRequest,
    Proposal,
    ProposeRequest,
    ProveRequest,
    ProveResponse,
    UnlearnRequest,
    UnlearnResponse,
)
from zkapex.proofs.receipts.bundle import Bundle, read_bundle
from zkapex.proofs.receipts.evidence import Evidence, derive
from zkapex.proofs.receipts.receipt import Statement
from zkapex.proofs.receipts.v1 import StatementV1
from zkapex.proofs.records.record import Record
from zkapex.proofs.records.sealed import seal
from zkapex.proofs.records.signing import Envelope, key_id, public_key_hex
from zkapex.simulation.data.image import decode as decode_image
from zkapex.simulation.data.text import decode as decode_text

RECORDS: tuple[type[Record], ...] = (
    ModelManifest,
    Enrolment,
    UnlearnRequest,
    UnlearnResponse,
    Statement,
    StatementV1,
    ProveRequest,
    ProveResponse,
    EnrolRequest,
    PersonaliseRequest,
    PersonaliseReply,
    EvaluateRequest,
    EvaluateReply,
    ProposeRequest,
    Proposal,
)
PARTS = {"manifest": ModelManifest, "enrolment": Enrolment, "request": UnlearnRequest, "response": UnlearnResponse}
"""The records of the evidence, any one of which a fuzzed receipt has another of."""

LARGEST_CHUNK = 2**16
"""Weights: larger public vectors are correct and slow, and so not looked at."""


LARGEST_SEED = 10_000
"""Bytes; what is larger only takes longer."""


class Accepted(Exception):
    """Something was accepted that should not be."""


@cache
def bundle() -> Bundle:
    """The honest receipt of the conformance suite."""
    with tempfile.TemporaryDirectory() as tmp:
        return read_bundle(conformance.lay("guarded_group_obs", Path(tmp) / "receipt"))


@cache
def verifier() -> ChunkVerifier:
    found = bundle().dossier
    path = conformance.ROOT / "srs.bin"
    srs = import_srs(path.read_bytes(), sha256_file(path), found.manifest.statement.log2_rows, "local")
    curvature = found.enrolment.record.curvature
    claim = Claim(found.manifest, found.request.record, curvature, found.pre, found.post)
    return claim.verifier(circuit_of(found.manifest, srs))


def point(data: bytes) -> None:
    """A commitment, and the sum with another one."""
    for found in (Point.from_bytes(data), Point.from_hex(data.hex())):
        if found.to_bytes() != data:
            raise Accepted("a point has two encodings")
        other = Point.from_hex(bundle().dossier.pre[0])
        if found + other - other != found:
            raise Accepted("points do not add up")


def proof(data: bytes) -> None:
    """The proof of a chunk, against an honest receipt's claim."""
    leading_points(bundle().dossier.manifest.statement, data)
    verifier().verify(0, data)
    if data != bundle().evidence.proofs[0]:
        raise Accepted("a proof was altered and is still valid")


def layer(data: bytes) -> None:
    """The proof of a layer, by the transparent backend; the first byte says of which vector."""
    names = transparent_vectors.names()
    vector = _vector(names[data[0] % len(names)])
    transparent_vectors.verify(vector.about, data[1:])
    if data[1:] != vector.proof:
        raise Accepted("a proof was altered and is still valid")


@cache
def _vector(name: str) -> transparent_vectors.Vector:
    return transparent_vectors.load(name)


def envelope(data: bytes) -> None:
    """A signed envelope."""
    if Envelope.from_bytes(data).to_bytes() != data:
        raise Accepted("an envelope has two encodings")


def record(data: bytes) -> None:
    """A record; the first byte says which kind."""
    if RECORDS[data[0] % len(RECORDS)].from_bytes(data[1:]).to_bytes() != data[1:]:
        raise Accepted("a record has two encodings")


@cache
def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"zkapex fuzz {name}".encode()).digest())


def evidence(data: bytes) -> None:
    """A receipt's evidence with another manifest, enrolment, request or response, signed by whom it should be."""
    name = list(PARTS)[data[0] % len(PARTS)]
    dossier = bundle().dossier
    assert dossier.response is not None
    records: dict[str, Record] = {
        "manifest": dossier.manifest,
        "enrolment": dossier.enrolment.record,
        "request": dossier.request.record,
        "response": dossier.response.record,
    }
    records[name] = PARTS[name].from_bytes(data[1:])
    digest = records["manifest"].digest()
    client = key_id(_key("client").public_key())
    identity = {"client_id": client, "public_key": public_key_hex(_key("client").public_key())}
    changed = {
        "manifest": records["manifest"],
        "enrolment": records["enrolment"].model_copy(update={**identity, "manifest_digest": digest}),
        "request": records["request"].model_copy(update={"client_id": client, "manifest_digest": digest}),
        "response": records["response"].model_copy(update={"client_id": client}),
    }
    given = bundle().evidence
    found = derive(
        Evidence(
            manifest=changed["manifest"].to_bytes(),
            request=seal(changed["request"], _key("provider")).envelope,
            enrolment=seal(changed["enrolment"], _key("client")).envelope,
            earlier=(),
            response=seal(changed["response"], _key("client")).envelope,
            proofs=given.proofs,
            settings=given.settings,
            verification_key=given.verification_key,
            srs=None,
        ),
        None,
        [_key("provider").public_key()],
    )
    spec = found.manifest.statement
    if spec.weights <= LARGEST_CHUNK:
        found.certified_distance()
        for chunk in found.drawn[:2]:
            found.instance.public(chunk).vector(spec, 7)


def image(data: bytes) -> None:
    """A file that is to be an image."""
    if decode_image(data, "x").mode != "RGB":
        raise Accepted("an image is not in RGB")


def text(data: bytes) -> None:
    """A file that is to be source code."""
    found, reason = decode_text(data)
    if bool(found) == bool(reason) or "\0" in found:
        raise Accepted("text is taken and skipped, or neither")


def foreign(data: bytes) -> None:
    """JSON of anybody's, and a model's configuration."""
    try:
        parse_json(data)
    except ValueError as e:
        raise InputError("no JSON") from e
    finally:
        _shapes_of(data, "config.json")


def safetensors(data: bytes) -> None:
    """A checkpoint's header."""
    _shapes_of(data, "model.safetensors")


def _shapes_of(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / name
        path.write_bytes(data)
        try:
            layers = model_shapes(str(path)).layers
        except InputError:
            if name == "config.json":
                return  # most JSON is no configuration
            raise
    if not layers or any(not (0 < layer.rows < 2**32 and 0 < layer.cols < 2**32) for layer in layers):
        raise Accepted("a layer has an impossible shape")


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f for f in (proof, point, envelope, record, evidence, image, text, foreign, safetensors, layer)
}
"""In this order for ever: the first byte of what is in ``corpus/`` counts them."""


def run(name: str, data: bytes) -> bool:
    """Whether a target accepted its input; raises what must not be raised."""
    if name in ("record", "evidence", "layer") and not data:
        return False
    try:
        TARGETS[name](data)
    except Error:
        return False
    return True


def honest() -> list[tuple[str, bytes]]:
    """Inputs that must be accepted, by target."""
    dossier = bundle().dossier
    assert dossier.response is not None
    parts = (dossier.manifest, dossier.enrolment.record, dossier.request.record, dossier.response.record)
    statement = Envelope.from_bytes(bundle().receipt.envelope).payload
    return [
        ("proof", bundle().evidence.proofs[0]),
        *(("point", bytes.fromhex(text)) for text in dossier.enrolment.record.theta),
        ("envelope", bundle().receipt.envelope),
        *(("record", bytes([RECORDS.index(type(part))]) + part.to_bytes()) for part in parts),
        ("record", bytes([RECORDS.index(StatementV1)]) + statement),
        *(("evidence", bytes([number]) + part.to_bytes()) for number, part in enumerate(parts)),
        *(("image", data) for data in _images()),
        *(("layer", bytes([i]) + _vector(name).proof) for i, name in enumerate(transparent_vectors.names())),
        ("text", "größe = 1\n".encode() * 30),
        ("foreign", b'{"model_type": "vit", "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2}'),
        ("safetensors", _checkpoint()),
    ]


def _images() -> list[bytes]:
    """One in each of the ways that images are stored in."""
    found = []
    for kind, mode in (
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGB"),
    ):
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new(mode, (9, 7)).save(out, kind, exif=exif)
        found.append(out.getvalue())
    return found


def _checkpoint() -> bytes:
    header = b'{"a.mlp.fc1.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    return len(header).to_bytes(8, "little") + header + bytes(24)


def seeds() -> list[tuple[str, bytes]]:
    """The honest inputs, and the proofs and envelopes of all cases of the conformance suite."""
    proofs = {path.read_bytes() for path in conformance.ROOT.glob("*/proofs/0.bin")}
    records = {path.read_bytes() for path in conformance.ROOT.glob("*/*.json") if path.name != "expected.json"}
    found = [("proof", data) for data in proofs] + [("envelope", data) for data in records]
    return honest() + sorted((name, data) for name, data in found if len(data) < LARGEST_SEED)
