"""What verifiers of the cases rely on besides the provider's key: the files of ``trust/``, and who is behind them.

Everything follows from names and fixed times, and so comes out the same on every machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from conformance import ROOT
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from stamps import Clockwork
from world import NOW, digest, private_key

from zkapex.proofs.keys.keyset import KeyEntry, KeysetPredicate, entry_of, make_keyset, revoke
from zkapex.proofs.ledger.entry import entry
from zkapex.proofs.ledger.log import Log
from zkapex.proofs.ledger.note import LOG_KEY, WITNESS_KEY, Note, VerifierKey, cosign_note, sign_note
from zkapex.proofs.ledger.proof import LogProof

TRUST = ROOT / "trust"
AUTHORITY, ANOTHER = Clockwork("conformance"), Clockwork("another")
ORIGIN, ANOTHER_ORIGIN = "conformance.example/deletions", "another.example/deletions"
WITNESSES = ("first", "second")
ISSUED = NOW + timedelta(minutes=5)
SEEN = NOW + timedelta(minutes=7)
"""When stamps are made and witnesses sign, if nothing else is said."""
REVOKED = NOW + timedelta(days=30)
LATER = NOW + timedelta(days=60)


def nonce(name: str) -> bytes:
    """The random bytes of an entry: fit for a test and nothing else."""
    return bytes.fromhex(digest("nonce", name))


def log(folder: Path, origin: str = ORIGIN) -> Log:
    """An empty log of this name in a folder, whose key follows from the name."""
    key = private_key(f"log {origin}").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    folder.mkdir(parents=True)
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(key)
    return Log.create(folder, origin)


def proofs(
    digests: Sequence[tuple[str, str]],
    origin: str = ORIGIN,
    witnesses: Sequence[str] = WITNESSES,
    when: datetime = SEEN,
) -> list[LogProof]:
    """Proofs for signed payloads, each by name and digest, after others that say nothing; signed by witnesses."""
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        kept = log(Path(tmp) / "log", origin)
        kept.append([entry(nonce(f"filler {number}"), digest("filler", number)) for number in range(5)])
        entries = [entry(nonce(name), payload) for name, payload in digests]
        for one in entries:
            kept.append([one])
        found = [kept.prove(one, nonce(name)) for one, (name, _) in zip(entries, digests, strict=True)]
    return [cosigned(proof, witnesses, when) for proof in found]


def cosigned(proof: LogProof, witnesses: Sequence[str], when: datetime) -> LogProof:
    """The proof with the signatures of witnesses on its checkpoint."""
    added = [cosign_note(proof.note.text, f"{name}.example", private_key(name), when) for name in witnesses]
    return LogProof(proof.index, proof.path, proof.note.add(added), proof.extra)


def keyset(*keys: KeyEntry) -> bytes:
    """A keyset, signed by the offline root."""
    return make_keyset("conformance", 1, keys, private_key("root"), NOW)


def checkpoint(text: str, origin: str = ORIGIN) -> Note:
    """A checkpoint that the log has signed."""
    return Note(text, (sign_note(text, origin, private_key(f"log {origin}")),))


def write() -> None:
    """Write the files of ``trust/``."""
    TRUST.mkdir(exist_ok=True)
    provider = private_key("provider").public_key()
    valid = entry_of(provider, NOW - timedelta(days=1))
    revoked = revoke(_predicate(valid), valid.key_id, REVOKED, "compromised")
    key = VerifierKey.of(ORIGIN, LOG_KEY, private_key(f"log {ORIGIN}").public_key())
    named = [
        f"witness {name} {VerifierKey.of(f'{name}.example', WITNESS_KEY, private_key(name).public_key())}"
        for name in WITNESSES
    ]
    policy = "\n".join([f"log {key}", *named, "group both all first second", "quorum both", ""])
    files = {
        "root.pem": _pem("root"),
        "client-b.pem": _pem("b"),
        "keyset.json": keyset(valid),
        "keyset-later.json": keyset(entry_of(provider, LATER)),
        "keyset-revoked.json": keyset(*revoked),
        "log.vkey": f"{key}\n".encode(),
        "policy": policy.encode(),
        "tsa.pem": AUTHORITY.root,
    }
    for name, data in files.items():
        (TRUST / name).write_bytes(data)


def _pem(name: str) -> bytes:
    return private_key(name).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _predicate(*keys: KeyEntry) -> KeysetPredicate:
    return KeysetPredicate(owner="conformance", sequence=0, issued_at=NOW, keys=keys)
