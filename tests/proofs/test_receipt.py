"""Receipts: they say what their evidence says, in full, and change with no byte."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parties import (
    NOW,
    SEED,
    SETTINGS,
    SRS,
    Party,
    Provider,
    make_evidence,
    make_manifest,
    make_outcome,
    point,
    proof,
)
from pydantic import ValidationError

from zkapex.errors import (
    FormatVersionError,
    InputError,
    ReceiptError,
    SignatureError,
    StorageError,
    VerificationError,
)
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.receipts import sayings
from zkapex.proofs.receipts.archive import pack_archive
from zkapex.proofs.receipts.bundle import put_companion, read_bundle, read_files, write_bundle
from zkapex.proofs.receipts.evidence import Evidence
from zkapex.proofs.receipts.receipt import Receipt, Statement, check_receipt, issue, open_receipt, sayings_of
from zkapex.proofs.receipts.sayings import SHOWS, Saying, percent, say
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import Envelope, sign

PROVIDER = Provider()
TRUSTED = [PROVIDER.key.public_key()]


def write(directory: Path, evidence: Evidence, **changes: object) -> Receipt:
    receipt = issue(evidence, make_outcome(evidence.proofs, **changes), PROVIDER.key)
    write_bundle(directory, receipt.envelope, evidence)
    return receipt


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "client"
    write(directory, make_evidence(PROVIDER, Party("a"), earlier=2, srs=SRS))
    return directory


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def files_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_a_bundle_reads_back(bundle: Path) -> None:
    read = read_bundle(bundle, TRUSTED)
    facts = read.receipt.facts
    assert read.receipt.pinned
    outcome = read.receipt.outcome
    assert outcome == make_outcome(client_ref=outcome.client_ref)
    assert facts.chunks_drawn == read.dossier.instance.touched == (0, 3, 9)
    assert facts.chunks_total == make_manifest().n_chunks
    assert facts.pre_root == commitment_root(list(enumerate(read.dossier.pre)))
    assert facts.post_root == commitment_root(list(enumerate(read.dossier.post)))
    assert [a != b for a, b in zip(read.dossier.pre, read.dossier.post, strict=True)].count(True) == 3
    assert read.evidence.files().keys() == set(files_in(bundle)) - {"receipt.json"}
    assert "earlier/0001.json" in files_in(bundle)


def test_without_a_pinned_key_the_receipt_says_so(bundle: Path) -> None:
    assert not read_bundle(bundle).receipt.pinned
    with pytest.raises(SignatureError, match="trusted"):
        read_bundle(bundle, [Party("x").key.public_key()])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_any_file_can_change(bundle: Path, data: st.DataObject) -> None:
    path = bundle / data.draw(st.sampled_from(files_in(bundle)))
    original = path.read_bytes()
    altered = bytearray(original)
    altered[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    pinned = data.draw(st.booleans())
    try:
        path.write_bytes(altered)
        with pytest.raises(VerificationError):
            read_bundle(bundle, TRUSTED if pinned else None)
    finally:
        path.write_bytes(original)


def test_every_byte_of_the_receipt_itself_counts(bundle: Path) -> None:
    data = (bundle / "receipt.json").read_bytes()
    for position in range(0, len(data), 3):
        altered = bytearray(data)
        altered[position] ^= 1
        with pytest.raises(SignatureError):
            open_receipt(bytes(altered), TRUSTED)


def test_no_file_can_be_cut_lengthened_or_missing(copy: Path) -> None:
    for name in files_in(copy):
        path = copy / name
        original = path.read_bytes()
        spaces = name == "receipt.json"  # around an envelope they are legal, and mean nothing
        for altered in (original[: -2 if spaces else -1], original + (b"x" if spaces else b"\n"), b""):
            path.write_bytes(altered)
            with pytest.raises(VerificationError):
                read_bundle(copy, TRUSTED)
        path.unlink()
        kind, message = (InputError, "no receipt") if name == "receipt.json" else (ReceiptError, name)
        with pytest.raises(kind, match=message):
            read_bundle(copy, TRUSTED)
        path.write_bytes(original)
    read_bundle(copy, TRUSTED)


def test_nothing_else_may_be_there(copy: Path) -> None:
    for extra in ("notes.txt", "proofs/1.bin", "circuit/.hidden"):
        (copy / extra).write_bytes(b"")
        with pytest.raises(ReceiptError, match=extra):
            read_bundle(copy, TRUSTED)
        (copy / extra).unlink()
    (copy / "empty").mkdir()
    with pytest.raises(ReceiptError, match="empty"):
        read_bundle(copy, TRUSTED)


@pytest.mark.parametrize("name", ["manifest.json", "proofs/0.bin", "receipt.json", "proofs"])
def test_links_are_refused(copy: Path, name: str, tmp_path: Path) -> None:
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReceiptError, match=name):
        read_bundle(copy, TRUSTED)


def test_pipes_are_refused(copy: Path) -> None:
    for name in ("manifest.json", "receipt.json"):
        content = (copy / name).read_bytes()
        (copy / name).unlink()
        os.mkfifo(copy / name)
        with pytest.raises(ReceiptError, match="regular"):
            read_bundle(copy, TRUSTED)
        (copy / name).unlink()
        (copy / name).write_bytes(content)


def test_no_receipt_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no receipt"):
        read_bundle(tmp_path / "missing")
    with pytest.raises(InputError, match="no receipt"):
        read_bundle(tmp_path)


def test_writing_is_atomic_repeatable_and_never_replaces(tmp_path: Path) -> None:
    directory = tmp_path / "receipts" / "client"
    evidence = make_evidence(PROVIDER, Party("a"))
    leftover = tmp_path / "receipts" / ".client.partial" / "proofs"
    leftover.mkdir(parents=True)
    (leftover / "0.bin").write_bytes(b"from a writer that was killed")
    receipt = write(directory, evidence)
    write_bundle(directory, receipt.envelope, evidence)
    assert [path.name for path in directory.parent.iterdir()] == ["client"]
    with pytest.raises(InputError, match="exists already"):
        write(directory, evidence, reasons=("changed",), verdict="failed")
    read_bundle(directory, TRUSTED)


@pytest.mark.parametrize("at", ["write", "rename"])
def test_whoever_is_killed_while_something_is_put_beside_a_receipt_leaves_a_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    directory = tmp_path / "receipts" / "client"
    write(directory, make_evidence(PROVIDER, Party("a")))

    def killed(*_: object) -> None:
        os._exit(7)

    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "fsync" if at == "write" else "rename", killed)
        put_companion(directory, "status.json", b"half of it")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(list(directory.parent.iterdir())) == 2, "something is left behind"
    read_bundle(directory, TRUSTED)
    put_companion(directory, "status.json", b"all of it")
    assert (directory / "status.json").read_bytes() == b"all of it"
    assert [path.name for path in directory.parent.iterdir()] == ["client"], "and is gone"


def test_what_is_put_beside_a_receipt_may_be_named_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "receipts" / "client"
    write(directory, make_evidence(PROVIDER, Party("a")))
    monkeypatch.chdir(directory)
    put_companion(Path(), "status.json", b"a word")
    assert (directory / "status.json").read_bytes() == b"a word"


def test_a_folder_that_cannot_be_written_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="could not be written"):
        write(Path("/proc/no-such-folder/client"), make_evidence(PROVIDER, Party("a")))


def test_sampled_audits_say_so(tmp_path: Path) -> None:
    evidence = make_evidence(PROVIDER, Party("a"), sample=2)
    receipt = write(tmp_path / "client", evidence, chunks_proved=2, audit_seed=SEED)
    read = read_bundle(tmp_path / "client", TRUSTED)
    assert len(read.dossier.drawn) == 2
    assert any("2 of the 3 chunks" in saying.words() for saying in receipt.statement.predicate.shows)
    assert (read.receipt.facts.audit_cheating, read.receipt.facts.audit_detection) == (0.5, 1.0)
    assert any(
        "50 % or more of these 3 chunks undone (2 at least)" in sentence and "with probability 100 %" in sentence
        for sentence in (saying.words() for saying in receipt.statement.predicate.shows)
    )
    assert "chunks-not-drawn" in {saying.id for saying in receipt.statement.predicate.does_not_show}
    with pytest.raises(ReceiptError, match="seed"):
        issue(evidence, make_outcome(evidence.proofs, chunks_proved=2), PROVIDER.key)


def test_receipts_of_failures_need_no_proofs_and_show_nothing(tmp_path: Path) -> None:
    full = make_evidence(PROVIDER, Party("a"))
    refused = replace(full, proofs={})
    silent = replace(refused, response=None)
    for name, verdict, evidence in (("f", "failed", refused), ("u", "unreachable", silent)):
        write(tmp_path / name, evidence, verdict=verdict, reasons=("It did not verify.",), chunks_proved=0)
        read = read_bundle(tmp_path / name, TRUSTED)
        assert read.receipt.statement.predicate.shows == (Saying(id="nothing"),)
        assert "no change of the model is shown" in Saying(id="nothing").words()
    assert read.receipt.facts.post_root is None
    assert read.dossier.post == read.dossier.pre


def draw_again(evidence: Evidence, proofs: dict[int, bytes]) -> None:
    issue(
        replace(evidence, proofs=proofs), make_outcome(proofs, chunks_proved=len(proofs), audit_seed=SEED), PROVIDER.key
    )


def test_a_draw_that_was_tampered_with_gets_no_receipt() -> None:
    party = Party("a")
    evidence = make_evidence(PROVIDER, party, sample=2)
    touched = {0, 3, 9}
    drawn = set(evidence.proofs)
    (spared,) = touched - drawn
    draw_again(evidence, dict(evidence.proofs))
    with pytest.raises(ReceiptError, match="is wrong"):  # another chunk than the one drawn
        draw_again(evidence, {chunk: proof(chunk) for chunk in (spared, max(drawn))})
    with pytest.raises(ReceiptError, match="evidence"):  # one chunk fewer
        draw_again(evidence, {max(drawn): proof(max(drawn))})
    with pytest.raises(ReceiptError, match="seed"):  # another seed
        issue(evidence, make_outcome(evidence.proofs, chunks_proved=2, audit_seed="00" * 32), PROVIDER.key)


@pytest.mark.parametrize("change", [{"detection": 0.99}, {"cheating": 0.01}, {"count": 1}, {"count": 4}])
def test_an_audit_that_promises_too_much_gets_no_receipt(change: dict[str, float]) -> None:
    party = Party("a")
    evidence = make_evidence(PROVIDER, party, sample=2)
    audit = PROVIDER.ask(party, sample=2).record.audit.model_copy(update=change)
    promised = replace(evidence, request=PROVIDER.ask(party, audit=audit).envelope)
    with pytest.raises(ReceiptError, match="audit"):
        issue(promised, make_outcome(promised.proofs, chunks_proved=2, audit_seed=SEED), PROVIDER.key)


def test_a_signed_receipt_with_another_draw_or_probability_is_refused() -> None:
    """A server that lies: its signature is right, what it says about the audit is not."""
    evidence = make_evidence(PROVIDER, Party("a"), sample=2)
    receipt = issue(evidence, make_outcome(evidence.proofs, chunks_proved=2, audit_seed=SEED), PROVIDER.key)
    facts, files = receipt.facts, evidence.files()
    check_receipt(receipt, files)
    (spared,) = {0, 3, 9} - set(facts.chunks_drawn)
    for change in (
        {"chunks_drawn": tuple(sorted((spared, facts.chunks_drawn[0])))},
        {"audit_detection": 0.5},
        {"audit_cheating": None},
        {"audit_mode": "full"},
    ):
        with pytest.raises(ReceiptError, match="contradicts"):
            check_receipt(resign(receipt, facts=facts.model_copy(update=change)), files)
    outcome = receipt.outcome.model_copy(update={"audit_seed": "00" * 32})
    with pytest.raises(ReceiptError, match="seed"):
        check_receipt(resign(receipt, outcome=outcome), files)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, "100 %"), (0.99999999, "99.999 %"), (0.99, "99 %"), (0.29, "29 %"), (0.0123456, "1.234 %"), (1e-5, "1e-05")],
)
def test_percentages_never_promise_more(fraction: float, text: str) -> None:
    assert percent(fraction) == text


def contradictions() -> dict[str, tuple[Evidence, str]]:
    """Evidence in which every signature is right, but whose parts do not belong together."""
    party, other = Party("a"), Party("b")
    good = make_evidence(PROVIDER, party)
    theirs = make_evidence(PROVIDER, other)
    unrelated = make_manifest(model="another")
    asked = PROVIDER.ask(party)
    party.enrol()
    stale = PROVIDER.ask(party, pre_root=commitment_root([(0, point("x"))]))
    foreign_layer = [guard.model_copy(update={"layer": "other"}) for guard in asked.record.guards]
    return {
        "other manifest": (replace(good, manifest=unrelated.to_bytes()), "request.json"),
        "broken manifest": (replace(good, manifest=b"{}"), "manifest.json"),
        "other settings": (replace(good, settings=SETTINGS + b" "), "circuit/settings.json"),
        "other key": (replace(good, verification_key=b""), "circuit/vk.bin"),
        "other srs": (replace(good, srs=b""), "circuit/srs.bin"),
        "another client's enrolment": (replace(good, enrolment=theirs.enrolment), "enrolment.json"),
        "another client's response": (replace(good, response=theirs.response), "response.json"),
        "another client's request": (replace(good, request=theirs.request), "enrolment.json"),
        "enrolment for another manifest": (
            replace(good, enrolment=party.enrol(manifest=unrelated).envelope),
            "enrolment.json",
        ),
        "too few commitments": (replace(good, enrolment=party.enrol(theta=(point(1),)).envelope), "enrolment.json"),
        "too few curvatures": (replace(good, enrolment=party.enrol(curvature=(point(1),)).envelope), "enrolment.json"),
        "other commitments": (replace(good, enrolment=party.enrol(revision=1).envelope), "request.json"),
        "stale request": (replace(good, request=stale.envelope), "request.json"),
        "response of another request": (
            replace(good, response=party.respond(PROVIDER.ask(party, "r2").record).envelope),
            "response.json",
        ),
        "response with another nonce": (
            replace(good, response=party.respond(asked.record, nonce="00" * 32).envelope),
            "response.json",
        ),
        "response with another root": (
            replace(good, response=party.respond(asked.record, root="00" * 32).envelope),
            "response.json",
        ),
        "the response as an earlier one": (replace(good, earlier=(good.response or b"",)), "earlier/0000.json"),
        "guard of no layer": (
            replace(good, request=PROVIDER.ask(party, guards=tuple(foreign_layer)).envelope),
            "request.json",
        ),
        "proof of an untouched chunk": (replace(good, proofs={**good.proofs, 1: proof(1)}), "proofs/1.bin"),
        "a missing proof": (replace(good, proofs={c: p for c, p in good.proofs.items() if c != 3}), "proofs/3.bin"),
        "proofs without response": (replace(good, response=None), "response.json"),
    }


@pytest.mark.parametrize(("evidence", "file"), contradictions().values(), ids=contradictions())
def test_evidence_that_does_not_belong_together_gets_no_receipt(evidence: Evidence, file: str) -> None:
    with pytest.raises(VerificationError) as caught:
        issue(evidence, make_outcome(evidence.proofs, chunks_proved=len(evidence.proofs)), PROVIDER.key)
    assert file in caught.value.explain()


def resign(receipt: Receipt, **changes: object) -> Receipt:
    """The same receipt with a changed predicate, signed by the server: a server that lies, or a bug in one."""
    predicate = receipt.statement.predicate.model_copy(update=changes)
    statement = receipt.statement.model_copy(update={"predicate": predicate})
    return open_receipt(sign(statement.to_bytes(), Statement.payload_type(), PROVIDER.key).to_bytes(), TRUSTED)


def test_a_signed_receipt_that_contradicts_its_evidence_is_refused() -> None:
    evidence = make_evidence(PROVIDER, Party("a"))
    receipt = issue(evidence, make_outcome(evidence.proofs), PROVIDER.key)
    facts, files = receipt.facts, evidence.files()
    check_receipt(receipt, files)
    lies: dict[str, dict[str, object]] = {
        "facts.mask_digest": {"facts": facts.model_copy(update={"mask_digest": "00" * 32})},
        "facts.post_root": {"facts": facts.model_copy(update={"post_root": "00" * 32})},
        "facts.tau_s": {"facts": facts.model_copy(update={"tau_s": 1})},
        "shows": {"shows": (Saying(id="nothing"),)},
        "does_not_show": {"does_not_show": (Saying(id="chunks-not-drawn"),)},
        "facts.enrolment_digest": {"facts": facts.model_copy(update={"enrolment_digest": "00" * 32})},
        "facts.enrolment_revision": {"facts": facts.model_copy(update={"enrolment_revision": 1})},
    }
    for where, change in lies.items():
        with pytest.raises(ReceiptError) as caught:
            check_receipt(resign(receipt, **change), files)
        assert where in caught.value.explain()
    for outcome in (
        make_outcome(chunks_proved=2),
        make_outcome(certified_distance=None),
        make_outcome(issued_at=NOW - timedelta(seconds=1)),
    ):
        with pytest.raises(ReceiptError):
            check_receipt(resign(receipt, outcome=outcome), files)
    statement = receipt.statement.model_copy(update={"subject": receipt.statement.subject[1:]})
    relabelled = replace(receipt, statement=statement)
    with pytest.raises(ReceiptError, match="contradicts"):
        check_receipt(relabelled, files)


def test_strange_files_in_a_signed_receipt_are_refused() -> None:
    evidence = make_evidence(PROVIDER, Party("a"))
    receipt = issue(evidence, make_outcome(evidence.proofs), PROVIDER.key)
    files = evidence.files()
    for name in ("proofs/007.bin", "proofs/x.bin", "earlier/1.json", "other.json"):
        with pytest.raises(ReceiptError, match="does not belong"):
            check_receipt(receipt, files | {name: b""})
    del files["circuit/vk.bin"]
    with pytest.raises(ReceiptError, match=r"vk\.bin"):
        check_receipt(receipt, files)


def test_reasons_belong_to_failures() -> None:
    for changes in ({"reasons": ("why",)}, {"verdict": "failed"}):
        with pytest.raises(ValidationError, match="reasons"):
            make_outcome(**changes)


def test_an_unknown_version_is_named_as_such(copy: Path) -> None:
    envelope = Envelope.from_bytes((copy / "receipt.json").read_bytes())
    payload = envelope.payload.replace(b"deletion-receipt/v2", b"deletion-receipt/v3")
    (copy / "receipt.json").write_bytes(sign(payload, envelope.payload_type, PROVIDER.key).to_bytes())
    with pytest.raises(FormatVersionError, match="v3"):
        read_bundle(copy, TRUSTED)


def test_a_receipt_that_names_another_key_than_it_is_signed_with_is_refused(bundle: Path) -> None:
    envelope = Envelope.from_bytes((bundle / "receipt.json").read_bytes())
    forged = sign(envelope.payload, envelope.payload_type, Party("x").key).to_bytes()
    with pytest.raises(SignatureError):
        open_receipt(forged, None)


def test_the_statement_is_in_toto(bundle: Path) -> None:
    envelope = Envelope.from_bytes((bundle / "receipt.json").read_bytes())
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert envelope.payload.startswith(b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":')
    statement = Statement.from_bytes(envelope.payload)
    digests = {subject.name: subject.digest.sha256 for subject in statement.subject}
    assert digests == {n: sha256_hex((bundle / n).read_bytes()) for n in files_in(bundle) if n != "receipt.json"}


def test_what_other_peoples_tools_make_of_an_envelope_is_accepted(bundle: Path) -> None:
    """DSSE allows it: indented, without a key id, with somebody else's signature beside the issuer's."""
    document = json.loads((bundle / "receipt.json").read_bytes())
    digest = open_receipt((bundle / "receipt.json").read_bytes(), TRUSTED).payload_digest
    payload = base64.b64decode(document["payload"])
    [other] = json.loads(sign(payload, "application/vnd.in-toto+json", Party("auditor").key).to_bytes())["signatures"]
    [mine] = document["signatures"]
    for signatures in ([{"sig": mine["sig"]}], [{**mine, "keyid": ""}], [other, mine], [{"sig": other["sig"]}, mine]):
        for indent in (None, 2):
            data = json.dumps({**document, "signatures": signatures}, indent=indent).encode()
            assert open_receipt(data, TRUSTED).payload_digest == digest
    for signatures in ([], [other], [{"sig": other["sig"]}], [{**other, "keyid": mine["keyid"]}, mine], [mine] * 9):
        with pytest.raises(SignatureError):
            open_receipt(json.dumps({**document, "signatures": signatures}).encode(), TRUSTED)
    for change in ({"more": 1}, {"payload": document["payload"] + "\n"}, {"signatures": [{**mine, "x": 1}]}):
        with pytest.raises(SignatureError):
            open_receipt(json.dumps(document | change).encode(), TRUSTED)


def test_other_words_leave_a_receipt_valid(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Yesterday's receipts survive any change of any sentence, more reservations, and fewer."""
    changed = {
        "operators": {},
        "sayings": {name: f"Something else about {name}." for name in sayings.texts()["sayings"]},
    }
    monkeypatch.setattr(sayings, "texts", lambda language="en": changed)
    read = read_bundle(bundle, TRUSTED)
    monkeypatch.setitem(sayings.DOES_NOT_SHOW, "new-reservation", lambda facts, verdict: {})  # type: ignore[arg-type]
    read_bundle(bundle, TRUSTED)
    shows, does_not_show = sayings_of(read.receipt, read.dossier.facts)
    assert shows[0].words() == "Something else about all-chunks."
    assert does_not_show[-1].id == "new-reservation"
    monkeypatch.delitem(sayings.DOES_NOT_SHOW, "new-reservation")  # type: ignore[arg-type]
    read_bundle(bundle, TRUSTED)


def test_a_saying_nobody_knows_is_of_a_later_release() -> None:
    evidence = make_evidence(PROVIDER, Party("a"))
    receipt = issue(evidence, make_outcome(evidence.proofs), PROVIDER.key)
    with pytest.raises(FormatVersionError, match="something-new"):
        check_receipt(resign(receipt, shows=(Saying(id="something-new"),)), evidence.files())
    twice = receipt.statement.predicate.shows[:1] * 2
    with pytest.raises(ReceiptError, match="contradicts"):
        check_receipt(resign(receipt, shows=twice), evidence.files())


def test_every_saying_has_words_for_its_arguments() -> None:
    evidence = make_evidence(PROVIDER, Party("a"), sample=2)
    outcome = make_outcome(evidence.proofs, chunks_proved=2, audit_seed=SEED)
    facts = issue(evidence, outcome, PROVIDER.key).facts
    for saying in say(SHOWS, facts, "proved"):
        assert "{" not in saying.words()
    assert set(sayings.texts()["sayings"]) >= set(SHOWS) | set(sayings.DOES_NOT_SHOW)


def test_a_larger_tolerance_than_the_operators_is_refused() -> None:
    party = Party("a")
    for name in ("tau_s", "tau_g"):
        evidence = make_evidence(PROVIDER, party)
        asked = PROVIDER.ask(party, **{name: 2**50})
        with pytest.raises(ReceiptError, match="asks for less"):
            issue(replace(evidence, request=asked.envelope), make_outcome(evidence.proofs), PROVIDER.key)


def test_companions_may_stand_beside_a_receipt(copy: Path) -> None:
    (copy / "receipt.tsr").write_bytes(b"anything: it is looked at by whoever relies on an authority")
    assert read_bundle(copy, TRUSTED).companions.keys() == {"receipt.tsr"}


def test_one_archive_of_a_receipt(bundle: Path, tmp_path: Path) -> None:
    files = read_files(bundle)
    archive = tmp_path / "receipt.zip"
    archive.write_bytes(pack_archive(files))
    assert archive.read_bytes() == pack_archive(files)
    assert read_bundle(archive, TRUSTED).receipt == read_bundle(bundle, TRUSTED).receipt
    data = archive.read_bytes()
    for altered in (data[:100], b"", data.replace(b"manifest.json", b"manifesT.json")):
        archive.write_bytes(altered)
        with pytest.raises((InputError, VerificationError)):
            read_bundle(archive, TRUSTED)
    with pytest.raises(InputError, match="the receipt alone"):
        read_bundle(bundle / "receipt.json", TRUSTED)
