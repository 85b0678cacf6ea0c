"""``docs/verify-without-us.md`` is run as it stands; other people's implementations agree with ours."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import conformance
import jsonschema
import pytest
import scitt_cose
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from zkapex.proofs import merkle
from zkapex.proofs.receipts import schemas
from zkapex.proofs.receipts.export import cose_statement, sigstore_bundle
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.signing import key_id, load_public_key

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verify-without-us.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROVIDER = hashlib.sha256(b"zkapex conformance provider").digest()
"""Private key of the suite's provider, which follows from its name (``tests/conformance/world.py``)."""
FILES = ("receipt.json", "receipt.tsr", "receipt.tlog-proof", "manifest.json", "proofs/0.bin")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who was given a receipt, and keys from elsewhere."""
    folder = tmp_path_factory.mktemp("stranger")
    conformance.lay("v2_logged_and_stamped", folder / "receipt")
    for name, source in {"key.pub": "provider.pem", "log.vkey": "trust/log.vkey", "tsa.pem": "trust/tsa.pem"}.items():
        shutil.copyfile(conformance.ROOT / source, folder / name)
    key = Ed25519PrivateKey.from_private_bytes(PROVIDER)
    (folder / "receipt.cose").write_bytes(cose_statement((folder / "receipt" / "receipt.json").read_bytes(), key))
    return folder


def follow(folder: Path) -> list[int]:
    """Exit codes of the page's blocks, in order."""
    codes = []
    for language, block in BLOCKS:
        program = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-I", "-c"]
        codes.append(subprocess.run([*program, block], cwd=folder, capture_output=True).returncode)
    return codes


def test_the_page_is_right(stranger: Path) -> None:
    assert len(BLOCKS) == 7
    assert follow(stranger) == [0] * 7


@pytest.mark.parametrize("name", FILES)
def test_what_is_altered_is_found_by_the_page(stranger: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(stranger, tmp_path / "copy"))
    path = folder / "receipt" / name
    data = bytearray(path.read_bytes())
    # A digit in the payload, the signed part of the stamp, a step of the path, any byte of a file.
    position = {"receipt.json": 2000, "receipt.tsr": data.find(b"20260102") + 3, "receipt.tlog-proof": 120}.get(
        name, 50
    )
    data[position] ^= 1
    path.write_bytes(data)
    assert any(follow(folder))


def test_envelopes_are_those_of_securesystemslib(stranger: Path) -> None:
    key = load_public_key(stranger / "key.pub")
    for name in ("receipt.json", "request.json"):
        envelope = Envelope.from_dict(json.loads((stranger / "receipt" / name).read_bytes()))
        envelope.verify([SSlibKey.from_crypto(key, keyid=key_id(key))], 1)
        other = Ed25519PrivateKey.generate().public_key()
        with pytest.raises(VerificationError):
            envelope.verify([SSlibKey.from_crypto(other, keyid=key_id(key))], 1)


@settings(max_examples=60, deadline=None)
@given(leaves=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70), data=st.data())
def test_merkle_proofs_are_those_of_an_independent_implementation(leaves: list[bytes], data: st.DataObject) -> None:
    hexed = [leaf.hex() for leaf in leaves]
    root = merkle.root(leaves)
    assert root.hex() == scitt_cose.merkle_root(hexed)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = merkle.inclusion_proof(leaves, index)
    assert [step.hex() for step in path] == scitt_cose.inclusion_proof(hexed, index)
    assert scitt_cose.verify_inclusion(hexed[index], index, len(leaves), [step.hex() for step in path], root.hex())
    old = data.draw(st.integers(1, len(leaves)))
    theirs = scitt_cose.consistency_proof(hexed, old, len(leaves))
    steps = [bytes.fromhex(step) for step in theirs]
    merkle.verify_consistency(old, merkle.root(leaves[:old]), len(leaves), root, steps)
    ranges = merkle.consistency_path(old, len(leaves), lambda start, end: merkle.root(leaves[start:end]))
    assert [step.hex() for step in ranges] == theirs


def test_a_sigstore_bundle_holds_the_same_envelope(stranger: Path) -> None:
    envelope = (stranger / "receipt" / "receipt.json").read_bytes()
    bundle = json.loads(sigstore_bundle(envelope))
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    key = load_public_key(stranger / "key.pub")
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    Envelope.from_dict(bundle["dsseEnvelope"]).verify([SSlibKey.from_crypto(key, keyid=hint)], 1)


# -- schemas -----------------------------------------------------------------------------------------------------------

SIGNED = {
    "deletion-receipt-v1": "guarded_group_obs/receipt.json",
    "deletion-receipt-v2": "v2/receipt.json",
    "deletion-report-v1": "v2_report/report.json",
    "keyset-v1": "trust/keyset-revoked.json",
    "receipt-status-v1": "v2_withdrawn_fail/status.json",
}


@pytest.mark.parametrize("name", sorted(schemas.MODELS))
def test_schemas_are_those_of_the_models_and_of_what_is_signed(name: str) -> None:
    kept = (ROOT / "docs" / "predicates" / f"{name}.schema.json").read_text(encoding="utf-8")
    assert kept == schemas.text(name), "run python -m zkapex.proofs.receipts.schemas docs/predicates"
    document = json.loads(peek((conformance.ROOT / SIGNED[name]).read_bytes()))
    jsonschema.Draft202012Validator.check_schema(json.loads(kept))
    validator = jsonschema.Draft202012Validator(json.loads(kept))
    validator.validate(document)
    for wrong in ({**document, "more": 1}, {**document, "predicateType": "https://zkapex.example/another/v1"}):
        assert not validator.is_valid(wrong)
    page = (ROOT / "docs" / "predicates" / f"{name}.md").read_text(encoding="utf-8")
    assert document["predicateType"] in page
    predicate = document["predicate"]
    fields = {**predicate, **predicate.get("facts", {}), **predicate.get("outcome", {})}
    if name == "deletion-receipt-v2":
        assert not [field for field in fields if f"`{field}`" not in page]


def test_payloads_are_named_by_sha256sum(stranger: Path) -> None:
    follow(stranger)
    payload = (stranger / "payload.json").read_bytes()
    assert payload == peek((stranger / "receipt" / "receipt.json").read_bytes())
    assert base64.b64decode(json.loads((stranger / "receipt" / "receipt.json").read_bytes())["payload"]) == payload
