"""Receipts of version 2, and what goes with them: keys and their time, stamps, the log, statuses, reports."""

from __future__ import annotations

import base64
import json
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from plan import Make, accepted, flip, rejected
from scene import Scene
from trust import (
    ANOTHER,
    ANOTHER_ORIGIN,
    AUTHORITY,
    ISSUED,
    LATER,
    REVOKED,
    SEEN,
    checkpoint,
    log,
    nonce,
    proofs,
)
from world import FIRST, GUARDED, NOW, WORLDS, digest, private_key

from zkapex.errors import (
    FormatVersionError,
    LedgerError,
    NotPinnedError,
    NotProvedError,
    ReceiptError,
    SignatureError,
    StatusError,
    TimestampError,
)
from zkapex.proofs.ledger.checkpoint import Checkpoint
from zkapex.proofs.ledger.entry import entry
from zkapex.proofs.ledger.proof import LogProof
from zkapex.proofs.receipts.bundle import read_bundle, write_bundle
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.receipts.receipt import Outcome, Receipt, Software, Statement, issue
from zkapex.proofs.receipts.report import Case, make_report
from zkapex.proofs.receipts.sayings import Saying
from zkapex.proofs.receipts.status import make_status
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import sign

BASE = "v2"
_STRING = ("--srs", "{suite}/srs.bin")
VERIFY = ("verify", "{case}", "--trust", "{suite}/provider.pem", *_STRING)
STAMPED = (*VERIFY, "--tsa", "{suite}/trust/tsa.pem")
LOGGED = (*VERIFY, "--ledger", "{suite}/trust/policy")
CHECK = ("ledger", "check", "{case}", "--key", "{suite}/trust/log.vkey", "--earlier", "{case}/earlier")
REPORT = ("report", "{case}", "--trust", "{suite}/provider.pem", "--format", "json")


def keyed(name: str, *more: str) -> tuple[str, ...]:
    """Verification with a keyset instead of a key."""
    keys = ("--root", "{suite}/trust/root.pem", "--keyset", f"{{suite}}/trust/{name}.json")
    return ("verify", "{case}", *keys, *_STRING, *more)


def outcome(scene: Scene, **changes: object) -> Outcome:
    """What the provider adds, in version 2."""
    old = scene.outcome
    fields: dict[str, object] = {
        "verdict": old.verdict,
        "reasons": old.reasons,
        "chunks_proved": old.chunks_proved,
        "certified_distance": old.certified_distance,
        "audit_seed": old.audit_seed,
        "issued_at": ISSUED,
        "client_ref": digest("reference", scene.request.client_id)[:32],
        "software": Software(zkapex="0.1.0"),
    }
    return Outcome.model_validate(fields | changes)


def write(folder: Path, scene: Scene, **changes: object) -> Receipt:
    """Issue a scene's receipt in version 2; the reference string is not carried."""
    evidence = scene.change(srs=None).evidence()
    receipt = issue(evidence, outcome(scene, **changes), private_key("provider"))
    write_bundle(folder, receipt.envelope, evidence)
    return receipt


def honest(folder: Path) -> Receipt:
    """The receipt that most cases are about."""
    return write(folder, Scene.base())


def resigned(folder: Path, evidence: Evidence | None = None, **predicate: object) -> None:
    """The honest receipt with another predicate, signed unchecked."""
    receipt = honest(folder)
    assert isinstance(receipt.statement, Statement)
    statement = receipt.statement
    changed = statement.model_copy(update={"predicate": statement.predicate.model_copy(update=predicate)})
    data = sign(changed.to_bytes(), Statement.payload_type(), private_key("provider")).to_bytes()
    (folder / "receipt.json").write_bytes(data)


def reworked(folder: Path, **document: object) -> None:
    """The honest receipt's envelope as other people's tools leave it."""
    honest(folder)
    path = folder / "receipt.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **document}, indent=2))


def signatures(folder: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((folder / "receipt.json").read_bytes())["signatures"]
    return found


def proved(name: str) -> Make:
    """The receipt of another world's honest client, with new proofs."""

    def make(folder: Path) -> None:
        write(folder, Scene.prove(WORLDS[name]))

    return make


# -- signatures --------------------------------------------------------------------------------------------------------


@accepted("A receipt of version 2, without the reference string, which it names.", "guarded_group_obs", VERIFY)
def v2(folder: Path) -> None:
    honest(folder)


@accepted("Targeted Group-OBS: what the result gives along the guard is prescribed.", None, VERIFY)
def v2_targeted(folder: Path) -> None:
    proved("targeted_group_obs")(folder)


@rejected(
    "No key is named: whoever holds the folder could have made it up.",
    NotPinnedError,
    "the receipt is consistent, but anybody could have made it up",
    BASE,
    ("verify", "{case}", *_STRING),
)
def v2_unpinned(folder: Path) -> None:
    honest(folder)


@accepted("An auditor has signed it as well, and somebody's tool has indented it.", BASE, VERIFY)
def v2_cosigned(folder: Path) -> None:
    honest(folder)
    payload = peek((folder / "receipt.json").read_bytes())
    other = sign(payload, Statement.payload_type(), private_key("auditor")).signatures[0]
    added = {"keyid": other.keyid, "sig": base64.b64encode(other.sig).decode()}
    path = folder / "receipt.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "signatures": [added, *signatures(folder)]}, indent=2))


@accepted("The envelope does not name the key; one that is trusted has signed.", BASE, VERIFY)
def v2_without_key_id(folder: Path) -> None:
    honest(folder)
    path = folder / "receipt.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "signatures": [{"sig": one["sig"]} for one in signatures(folder)]}))


@accepted("Issued by a release that made fewer reservations; the reader's own are added.", BASE, VERIFY)
def v2_of_an_older_release(folder: Path) -> None:
    receipt = honest(folder / "made")
    assert isinstance(receipt.statement, Statement)
    said = receipt.statement.predicate.does_not_show[:3]
    resigned(folder / "again", does_not_show=said)
    _move(folder / "again", folder)


@rejected(
    "It says that a sample was drawn, of a full audit.",
    ReceiptError,
    "the receipt contradicts its evidence",
    BASE,
    VERIFY,
)
def v2_untrue_saying(folder: Path) -> None:
    resigned(folder, does_not_show=(Saying(id="chunks-not-drawn"),))


@rejected(
    "It says something that this release does not know.",
    FormatVersionError,
    "the receipt says 'made-later'",
    BASE,
    VERIFY,
)
def v2_unknown_saying(folder: Path) -> None:
    resigned(folder, shows=(Saying(id="made-later"),))


@rejected("A bit of a proof is flipped.", ReceiptError, "proofs/0.bin was altered", BASE, VERIFY)
def v2_proof_altered(folder: Path) -> None:
    honest(folder)
    flip(folder / "proofs" / f"{FIRST}.bin", 1000)


@rejected(
    "The issuer answered for it for a day.",
    SignatureError,
    "the issuer answered for the receipt until 2026-01-03",
    BASE,
    VERIFY,
)
def v2_no_longer_valid(folder: Path) -> None:
    write(folder, Scene.base(), valid_until=NOW + timedelta(days=1))


@rejected(
    "It is about a client that the verifier does not know.",
    ReceiptError,
    "which is none of those that were named",
    BASE,
    (*VERIFY, "--client-key", "{suite}/trust/client-b.pem"),
)
def v2_client_unknown(folder: Path) -> None:
    honest(folder)


# -- proofs ------------------------------------------------------------------------------------------------------------


@rejected(
    "Its reference string is called imported, and is of no ceremony.",
    ReceiptError,
    "the receipt calls its reference string imported, and it is of no ceremony that is known here",
    BASE,
    VERIFY[:4],
)
def v2_imported_from_nobody(folder: Path) -> None:
    write(folder, Scene.base().rooted(srs_origin="imported"))


@rejected(
    "The verifier trusts another reference string.",
    ReceiptError,
    "the receipt's proofs are for another reference string than the one you trust",
    BASE,
    (*VERIFY[:4], "--srs", "12" * 32),
)
def v2_another_reference_string(folder: Path) -> None:
    honest(folder)


@rejected(
    "A statement of 2^26 weights per chunk in 2^12 rows: refused before anything is built.",
    ReceiptError,
    "manifest.json is wrong",
    BASE,
    VERIFY,
)
def v2_statement_too_large(folder: Path) -> None:
    receipt, scene = honest(folder / "made"), Scene.base()
    large = scene.manifest.statement.model_copy(update={"rows_per_chunk": 65536, "block_width": 1024})
    evidence = scene.amend("manifest", statement=large).change(srs=None).evidence()
    assert isinstance(receipt.statement, Statement)
    listed = {path: sha256_hex(data) for path, data in evidence.files().items()}
    subjects = tuple(
        one.model_copy(update={"digest": one.digest.model_copy(update={"sha256": listed[one.name]})})
        for one in receipt.statement.subject
    )
    changed = receipt.statement.model_copy(update={"subject": subjects})
    write_bundle(
        folder / "again",
        sign(changed.to_bytes(), Statement.payload_type(), private_key("provider")).to_bytes(),
        evidence,
    )
    _move(folder / "again", folder)


def _failed() -> Scene:
    scene = Scene.base()
    kept = {c: p for c, p in scene.proofs.items() if c != FIRST}
    scene = scene.change(proofs=kept)
    return scene.amend(
        "outcome",
        verdict="failed",
        reasons=("its proof was refused",),
        chunks_proved=len(kept),
        certified_distance=None,
    )


def _contested(folder: Path, proof: bytes) -> None:
    scene = _failed().change(srs=None)
    evidence = replace(scene.evidence(), rejected={FIRST: proof})
    receipt = issue(evidence, outcome(scene), private_key("provider"))
    write_bundle(folder, receipt.envelope, evidence)


@rejected(
    "A failed receipt, with the proof that was refused, rightly.",
    NotProvedError,
    "did not prove the deletion",
    BASE,
    VERIFY,
)
def v2_failed(folder: Path) -> None:
    spoilt = bytearray(Scene.base().proofs[FIRST])
    spoilt[1000] ^= 1
    _contested(folder, bytes(spoilt))


@rejected(
    "A failed receipt, and the proof that was refused is a good one.",
    ReceiptError,
    "the proof of chunk 0 was rejected, and is valid",
    BASE,
    VERIFY,
)
def v2_wrongly_failed(folder: Path) -> None:
    _contested(folder, Scene.base().proofs[FIRST])


# -- keys and time -----------------------------------------------------------------------------------------------------


@accepted("The key is in a keyset that the provider's root has signed.", BASE, keyed("keyset"))
def v2_keyset(folder: Path) -> None:
    honest(folder)


@rejected(
    "Signed before its key was valid.", SignatureError, "was not valid yet when it signed", BASE, keyed("keyset-later")
)
def v2_signed_before_its_key(folder: Path) -> None:
    honest(folder)


@rejected(
    "Its key was revoked, and nothing but its own word says that it is older.",
    SignatureError,
    "and nothing shows that it had signed before",
    BASE,
    keyed("keyset-revoked"),
)
def v2_back_dated(folder: Path) -> None:
    honest(folder)


@rejected(
    "Signed after its key was revoked, with a time from before; the timestamp tells.",
    SignatureError,
    "was revoked (compromised)",
    BASE,
    keyed("keyset-revoked", "--tsa", "{suite}/trust/tsa.pem"),
)
def v2_back_dated_and_stamped_later(folder: Path) -> None:
    _stamped(folder, AUTHORITY.stamp(_payload(honest(folder)), LATER))


@accepted(
    "Its key was revoked later than it was stamped.", BASE, keyed("keyset-revoked", "--tsa", "{suite}/trust/tsa.pem")
)
def v2_stamped_before_revocation(folder: Path) -> None:
    _stamped(folder, AUTHORITY.stamp(_payload(honest(folder)), REVOKED - timedelta(seconds=1)))


@accepted(
    "Its key was revoked later than witnesses of the log had seen it.",
    BASE,
    keyed("keyset-revoked", "--ledger", "{suite}/trust/policy"),
)
def v2_witnessed_before_revocation(folder: Path) -> None:
    _logged(folder, honest(folder))


@rejected(
    "A timestamp over another payload.", TimestampError, "receipt.tsr is a timestamp of something else", BASE, STAMPED
)
def v2_stamp_of_another(folder: Path) -> None:
    honest(folder)
    _stamped(folder, AUTHORITY.stamp(b"another payload", SEEN))


@rejected(
    "A timestamp by an authority that is not trusted.",
    TimestampError,
    "receipt.tsr is not by a timestamping authority that is trusted",
    BASE,
    STAMPED,
)
def v2_stamp_by_another(folder: Path) -> None:
    _stamped(folder, ANOTHER.stamp(_payload(honest(folder)), SEEN))


# -- the log -----------------------------------------------------------------------------------------------------------


@accepted(
    "Logged, seen by both witnesses and stamped, like its request: all five depths are reached.",
    BASE,
    (*LOGGED, *STAMPED[-2:]),
)
def v2_logged_and_stamped(folder: Path) -> None:
    receipt = honest(folder)
    _stamped(folder, AUTHORITY.stamp(_payload(receipt), SEEN))
    _logged(folder, receipt)


@rejected(
    "The proof of inclusion names another place.",
    LedgerError,
    "this is not in the log where its proof of inclusion says",
    BASE,
    LOGGED,
)
def v2_another_index(folder: Path) -> None:
    [proof] = proofs([("receipt", honest(folder).payload_digest)])
    (folder / "receipt.tlog-proof").write_bytes(
        LogProof(proof.index - 1, proof.path, proof.note, proof.extra).to_bytes()
    )


@rejected(
    "Logged in another log than the verifier relies on.",
    LedgerError,
    f"the log {ANOTHER_ORIGIN!r} is none",
    BASE,
    LOGGED,
)
def v2_another_log(folder: Path) -> None:
    [proof] = proofs([("receipt", honest(folder).payload_digest)], ANOTHER_ORIGIN)
    (folder / "receipt.tlog-proof").write_bytes(proof.to_bytes())


@rejected(
    "One of the two witnesses has not signed.",
    LedgerError,
    "too few witnesses have signed the log's checkpoint",
    BASE,
    LOGGED,
)
def v2_one_witness_short(folder: Path) -> None:
    [proof] = proofs([("receipt", honest(folder).payload_digest)], witnesses=("first",))
    (folder / "receipt.tlog-proof").write_bytes(proof.to_bytes())


@rejected("Its request was logged after it.", LedgerError, "the request was logged after its own receipt", BASE, LOGGED)
def v2_opened_afterwards(folder: Path) -> None:
    _logged(folder, honest(folder), backwards=True)


def _published(folder: Path, name: str, count: int) -> Checkpoint:
    """What the log publishes if it has had these entries, and its checkpoint."""
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        kept = log(Path(tmp) / "log")
        kept.append([entry(nonce(f"{name} {number}"), digest(name, number)) for number in range(count)])
        for path in kept.www.rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(kept.www)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        return kept.checkpoint()


@rejected(
    "A log that has signed two checkpoints which contradict each other.",
    LedgerError,
    "the log does not continue its state of 2 entries",
    None,
    CHECK,
)
def v2_two_histories(folder: Path) -> None:
    _published(folder, "shown to some", 3)
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        other = _published(Path(tmp), "shown to others", 2)
    (folder / "earlier").write_bytes(checkpoint(other.text()).to_bytes())


@rejected("A log that was longer before.", LedgerError, "the log has 2 entries, and once had 3", None, CHECK)
def v2_log_cut_short(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        before = _published(Path(tmp), "entry", 3)
    _published(folder, "entry", 2)
    (folder / "earlier").write_bytes(checkpoint(before.text()).to_bytes())


@accepted("A log that continues its earlier state.", None, CHECK)
def v2_log(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        before = _published(Path(tmp), "entry", 2)
    _published(folder, "entry", 3)
    (folder / "earlier").write_bytes(checkpoint(before.text()).to_bytes())


# -- what the issuer says later, and reports ---------------------------------------------------------------------------


@rejected(
    "Every proof is valid, and the issuer has withdrawn the receipt.",
    StatusError,
    "the receipt was withdrawn by its issuer",
    BASE,
    VERIFY,
)
def v2_withdrawn(folder: Path) -> None:
    _status(folder, "provider")


@rejected("Somebody else says that it was withdrawn.", SignatureError, "is not by a trusted key", BASE, VERIFY)
def v2_withdrawn_by_another(folder: Path) -> None:
    _status(folder, "stranger")


def _of_another_client() -> Scene:
    """The receipt of client b, which never answered."""
    scene = Scene.base()
    request, enrolment = GUARDED.request("b"), GUARDED.enrolment("b")
    scene = scene.change(request=request, enrolment=enrolment, response=None, proofs={})
    return scene.amend(
        "outcome",
        verdict="unreachable",
        reasons=("its time was over",),
        chunks_proved=0,
        certified_distance=None,
    )


def _request_folder(folder: Path) -> dict[str, Receipt]:
    """The receipts of both clients, and that both requests were logged."""
    folder.mkdir()
    other = _of_another_client().change(srs=None, signers={"enrolment": "b"})
    evidence = other.evidence()
    failed = issue(evidence, outcome(other), private_key("provider"))
    write_bundle(folder / "b", failed.envelope, evidence)
    receipts = {"a": honest(folder / "a"), "b": failed}
    digests = [
        (f"request {name}", sha256_hex(peek((folder / name / "request.json").read_bytes()))) for name in receipts
    ]
    for name, proof in zip(receipts, proofs(digests), strict=True):
        (folder / name / "opened.tlog-proof").write_bytes(proof.to_bytes())
    return receipts


def _report(folder: Path, *clients: str) -> None:
    case = Case(
        controller="Example Ltd",
        contact="dpo@example.org",
        complaints="the supervisory authority of Example",
        reference="2026-17",
        ground="17-1-b",
        received=NOW - timedelta(days=1),
        due=NOW + timedelta(days=30),
        completed=ISSUED,
    )
    key = private_key("provider")
    bundles = [read_bundle(folder / name, [key.public_key()]) for name in clients]
    (folder / "report.json").write_bytes(make_report(bundles, case, key, SEEN))


OPENED = (*REPORT, "--ledger", "{suite}/trust/policy", "--opened")


@accepted(
    "A report of one client that proved and one that never answered; both requests were logged.",
    None,
    (*OPENED, "{case}/b/request.json"),
)
def v2_report(folder: Path) -> None:
    _request_folder(folder)
    _report(folder, "a", "b")


@rejected(
    "A report that leaves out a receipt which is there.",
    ReceiptError,
    "the report leaves out a receipt that says 'unreachable'",
    "v2_report",
    REPORT,
)
def v2_report_without_a_receipt(folder: Path) -> None:
    _request_folder(folder)
    _report(folder, "a")


@rejected(
    "A report, and a folder, that leave out the client which failed; that it was asked is in the log.",
    ReceiptError,
    "the report leaves out a request that was opened",
    "v2_report",
    (*OPENED, "{suite}/v2_report/b/request.json"),
)
def v2_report_without_an_opened_request(folder: Path) -> None:
    _request_folder(folder)
    _report(folder, "a")
    for path in sorted((folder / "b").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "b").rmdir()


# -- parts -------------------------------------------------------------------------------------------------------------


def _payload(receipt: Receipt) -> bytes:
    return peek(receipt.envelope)


def _stamped(folder: Path, stamp: bytes) -> None:
    (folder / "receipt.tsr").write_bytes(stamp)


def _logged(folder: Path, receipt: Receipt, *, backwards: bool = False) -> None:
    """Log a receipt and its request, in the order in which that happens or the other one."""
    request = sha256_hex(peek((folder / "request.json").read_bytes()))
    digests = [("opened", request), ("receipt", receipt.payload_digest)]
    order = digests[::-1] if backwards else digests
    for (name, _), proof in zip(order, proofs(order), strict=True):
        (folder / f"{name}.tlog-proof").write_bytes(proof.to_bytes())


def _status(folder: Path, issuer: str) -> None:
    receipt = honest(folder)
    signed = make_status(receipt.payload_digest, "withdrawn", "issued by mistake", private_key(issuer), SEEN)
    (folder / "status.json").write_bytes(signed)


def _move(made: Path, folder: Path) -> None:
    """Leave in a folder what was made in one of its own."""
    with tempfile.TemporaryDirectory(prefix="zkapex-conformance-") as tmp:
        kept = made.rename(Path(tmp) / "kept")
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        kept.rename(folder)
