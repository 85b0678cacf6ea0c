"""``zkapex report``, ``receipts``, ``srs``: what becomes of receipts once they are there, on the suite's folders."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import conformance
import pytest
from authority import Authority
from commands import output_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from zkapex.cli.verify import policy_of
from zkapex.errors import Error, FormatVersionError, InputError, VerificationError
from zkapex.proofs.receipts.report import Report
from zkapex.proofs.records.envelope import peek
from zkapex.proofs.records.intoto import PAYLOAD_TYPE
from zkapex.proofs.records.signing import load_private_key, sign
from zkapex.proofs.verify import Depth, verify_receipt

SUITE = conformance.ROOT
TRUST = ("--trust", SUITE / "provider.pem")
STRING = ("--srs", SUITE / "srs.bin")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Private key of the suite's provider, which follows from its name."""
    raw = hashlib.sha256(b"zkapex conformance provider").digest()
    path = tmp_path_factory.mktemp("key") / "provider.key"
    path.touch(0o600)
    private = Ed25519PrivateKey.from_private_bytes(raw)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture
def receipt(tmp_path: Path) -> Path:
    return conformance.lay("v2", tmp_path / "receipt")


@pytest.fixture
def request_(tmp_path: Path) -> Path:
    return conformance.lay("v2_report", tmp_path / "request")


# -- one flipped byte --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relied_on", [True, False])
def test_one_flipped_byte_of_any_file_is_refused(tmp_path: Path, relied_on: bool) -> None:
    folder = conformance.lay("v2_logged_and_stamped", tmp_path / "receipt")
    more = {"ledger": SUITE / "trust" / "policy", "tsa": [SUITE / "trust" / "tsa.pem"]} if relied_on else {}
    policy = policy_of([SUITE / "provider.pem"], srs=str(SUITE / "srs.bin"), **more)  # type: ignore[arg-type]
    depths: list[Depth] = []
    verify_receipt(folder, policy, depths=depths)
    honest = {depth.name: depth.note for depth in depths}
    unsigned, reasons = 0, set[tuple[str, str]]()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 12)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            depths = []
            try:
                verify_receipt(folder, policy, depths=depths)
            except (VerificationError, FormatVersionError) as error:
                reasons.add((path.relative_to(folder).as_posix(), error.what))
                continue
            # What no signature covers or nobody relies on may change, and then changes nothing that is said.
            assert path.name in ("receipt.tsr", *(() if relied_on else ("receipt.tlog-proof", "opened.tlog-proof")))
            assert {depth.name: depth.note for depth in depths} == honest
            unsigned += 1
        path.write_bytes(data)
    assert unsigned < (40 if relied_on else 120)
    for name, what in reasons:
        alone = name in ("receipt.json", "receipt.tsr") or name.endswith(".tlog-proof")
        assert alone or f"{name} was altered" == what


def test_a_hostile_statement_costs_nothing(tmp_path: Path) -> None:
    """Refused before anything is built: in a process of its own, so that its memory can be told."""
    folder = conformance.lay("v2_statement_too_large_fail", tmp_path / "receipt")
    arguments = ["verify", str(folder), *map(str, (*TRUST, *STRING))]
    script = f"""
import sys
from zkapex.cli import main
sys.argv = ["zkapex", *{arguments!r}]
try:
    main()
finally:
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 24
    assert "manifest.json is wrong" in done.stderr
    assert int(done.stdout.split()[-1]) < 200_000, "kilobytes"


# -- receipts ----------------------------------------------------------------------------------------------------------


def test_receipts_are_listed(request_: Path) -> None:
    code, out, _ = output_of("receipts", "list", request_, *TRUST)
    assert code == 0
    assert re.findall(r"^([ab])  (\w+)  2026-01-02", out, re.MULTILINE) == [("a", "proved"), ("b", "unreachable")]
    assert "anybody" not in out
    code, out, _ = output_of("receipts", "list", request_, "--json")
    rows = json.loads(out)["receipts"]
    assert (code, [row["server_key_pinned"] for row in rows]) == (0, [False, False])
    assert rows[1]["beside_it"] == ["opened.tlog-proof"]
    assert output_of("receipts", "list", request_, "--trust", SUITE / "trust" / "root.pem")[0] == 21
    assert output_of("receipts", "list", request_ / "a" / "proofs")[0] == 10


def test_a_receipt_is_withdrawn(receipt: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "status.json"
    said = ("--key", key, "--reason", "issued by mistake")
    assert output_of("receipts", "status", receipt, "gone", *said)[0] == 10
    assert output_of("receipts", "status", receipt, "withdrawn", *said, "--out", out)[0] == 0
    assert output_of("verify", receipt, *TRUST, *STRING)[0] == 0, "who does not have it does not know"
    code, _, err = output_of("verify", receipt, *TRUST, *STRING, "--status", out)
    assert code == 29
    assert "issued by mistake" in err
    shutil.copyfile(out, receipt / "status.json")
    assert output_of("verify", receipt, *TRUST, *STRING)[0] == 29


def test_a_receipt_is_stamped(receipt: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tsa")
    with authority.serving() as url:
        assert output_of("receipts", "stamp", receipt, "--authority", url)[0] == 0
    code, out, _ = output_of("verify", receipt, *TRUST, *STRING, "--tsa", authority.root)
    assert code == 0
    assert re.search(r"time +reached", out)
    code, out, _ = output_of("verify", receipt, *TRUST, *STRING)
    assert code == 0
    assert re.search(r"time +not reached", out)


def test_a_receipt_is_exported(receipt: Path, key: Path, tmp_path: Path) -> None:
    archive = tmp_path / "receipt.zip"
    assert output_of("receipts", "export", receipt, archive)[0] == 0
    assert set(zipfile.ZipFile(archive).namelist()) >= {"receipt.json", "proofs/0.bin"}
    assert output_of("verify", archive, *TRUST, *STRING)[0] == 0
    assert output_of("receipts", "export", receipt, tmp_path / "r.sigstore.json")[0] == 0
    assert output_of("receipts", "export", receipt, tmp_path / "r.cose")[0] == 10, "which is signed anew"
    assert output_of("receipts", "export", receipt, tmp_path / "r.cose", "--key", key)[0] == 0
    assert output_of("receipts", "export", receipt, tmp_path / "r.tar")[0] == 10
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("note.txt", "hello")
    assert output_of("verify", archive, *TRUST, *STRING)[0] == 24


# -- reports -----------------------------------------------------------------------------------------------------------


def _report(folder: Path, *more: str | Path) -> tuple[int, str, str]:
    return output_of("report", folder, *TRUST, *more)


def test_a_report_for_each_reader(request_: Path) -> None:
    pages = {}
    for reader in ("dpo", "auditor", "subject"):
        code, pages[reader], err = _report(request_, "--for", reader)
        assert (code, err) == (0, "")
        assert "1 of the 2 devices that were asked" in pages[reader]
        assert "Example Ltd" in pages[reader]
    code, out, _ = _report(request_, "--for", "auditor", "--format", "json")
    technical = json.loads(out)["technical"]
    assert all(technical[name] in pages["auditor"] for name in ("mask", "guard", "manifest"))
    assert not any(technical[name] in pages["subject"] for name in ("mask", "guard", "manifest"))
    assert "the supervisory authority of Example" in pages["subject"]
    assert "learned again" in pages["auditor"]
    for page in pages.values():
        assert not re.search(r"<script|https?://|\{\{", page)


def test_a_report_is_made_from_receipts_and_a_case(request_: Path, key: Path, tmp_path: Path) -> None:
    (request_ / "report.json").unlink()
    assert _report(request_)[0] == 10
    case = {
        "controller": "Another <b>Ltd</b>", "contact": "dpo", "complaints": "authority", "reference": "7",
        "ground": "17-1-a", "received": "2026-01-01T00:00:00Z", "due": "2026-02-01T00:00:00Z",
    }  # fmt: skip
    path = tmp_path / "case.json"
    for wrong in ({**case, "ground": "17-1-z"}, {**case, "due": "2025-02-01T00:00:00Z"}, {**case, "proved": 2}):
        path.write_text(json.dumps(wrong))
        assert output_of("report", request_, "--key", key, "--case", path)[0] == 10
    path.write_text(json.dumps(case))
    assert output_of("report", request_, "--key", key)[0] == 10
    code, page, _ = output_of("report", request_, "--key", key, "--case", path)
    assert code == 0
    assert "Another &lt;b&gt;Ltd" in page
    assert _report(request_)[0] == 0, "it is signed, and there to stay"


def test_a_report_that_nobody_is_named_for(request_: Path) -> None:
    assert output_of("report", request_)[0] == 26
    assert output_of("report", request_, "--trust", SUITE / "trust" / "root.pem")[0] == 21
    assert _report(request_, "--for", "nobody")[0] == 10
    assert _report(request_, "--format", "docx")[0] == 10
    assert _report(request_, "--format", "pdf")[0] == 10, "which goes into a file"
    assert _report(request_, "--language", "xx")[0] == 10
    assert _report(request_ / "a")[0] == 10


def test_a_report_under_a_keyset(request_: Path) -> None:
    """As `zkapex verify`: a root's word for the provider's keys, and when their signatures count."""
    trust = SUITE / "trust"

    def told(*arguments: str | Path) -> tuple[int, str]:
        code, _, err = output_of("report", request_, "--format", "json", *arguments)
        return code, err

    pinned = ("--root", trust / "root.pem", "--keyset")
    assert told(*pinned, trust / "keyset.json") == (0, "")
    code, err = told(*pinned, trust / "keyset-revoked.json")
    assert (code, "was revoked" in err) == (21, True)
    code, err = told(*pinned, trust / "keyset-later.json")
    assert (code, "not valid yet" in err) == (21, True)
    assert told("--root", SUITE / "provider.pem", "--keyset", trust / "keyset.json")[0] == 21
    assert told("--keyset", trust / "keyset.json")[0] == 10


def test_a_report_that_names_another_key(request_: Path, key: Path) -> None:
    path = request_ / "report.json"
    private = load_private_key(key)
    report = Report.from_bytes(peek(path.read_bytes()))
    other = report.predicate.model_copy(update={"server_key": "ab" * 32})
    path.write_bytes(sign(report.model_copy(update={"predicate": other}).to_bytes(), PAYLOAD_TYPE, private).to_bytes())
    code, _, err = _report(request_)
    assert (code, "names another key" in err) == (24, True)


def test_a_report_on_paper(request_: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.pdf"
    assert _report(request_, "--for", "subject", "--format", "pdf", "--out", out)[0] == 0
    assert out.read_bytes().startswith(b"%PDF-")


def test_an_opening_of_another_commitment(request_: Path, tmp_path: Path) -> None:
    path = tmp_path / "opening.json"
    for kept in ({"description": "a guess", "random": "00" * 32}, {"description": "a guess"}, []):
        path.write_text(json.dumps(kept))
        assert _report(request_, "--for", "subject", "--opening", path)[0] == 10


# -- reference strings -------------------------------------------------------------------------------------------------


def test_a_reference_string_is_imported_listed_and_used(
    receipt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256((SUITE / "srs.bin").read_bytes()).hexdigest()
    assert output_of("srs", "import", SUITE / "srs.bin", "--digest", "12" * 32)[0] == 20
    code, out, _ = output_of("srs", "import", SUITE / "srs.bin", "--digest", digest, "--json")
    assert code == 0
    assert json.loads(out)["strings"] == [{"sha256": digest, "log2_rows": 12, "origin": "imported", "ceremony": None}]
    assert digest in output_of("srs", "list")[1]
    assert output_of("srs", "check", SUITE / "srs.bin")[0] == 0
    code, out, _ = output_of("verify", receipt, *TRUST)
    assert code == 0, "it is found in the cache by its digest"
    assert digest in out
    for junk in (b"", b"junk", (SUITE / "srs.bin").read_bytes()[:-1]):
        (tmp_path / "junk").write_bytes(junk)
        for command in ("check", "import"):
            assert output_of("srs", command, tmp_path / "junk")[0] == 20
    assert output_of("srs", "check", tmp_path / "missing")[0] == 10


def test_files_that_are_missing_are_named(receipt: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for option in ("--trust", "--keyset", "--ledger", "--tsa", "--status", "--srs", "--client-key"):
        code, _, err = output_of("verify", receipt, *TRUST, option, missing)
        assert code == InputError.exit_code
        assert "missing" in err or "belong together" in err
    assert issubclass(InputError, Error)
