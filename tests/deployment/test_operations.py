"""What operators do with a server: every command in one process, over real campaigns with one small device."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import commands
import databases
import pytest
from federation import step_of
from here import SETTINGS, Here

from zkapex.errors import IllegalTransitionError, InputError, VerificationError
from zkapex.server.console.folder import FederationFolder
from zkapex.server.console.source import FolderSource
from zkapex.server.console.views import Draft
from zkapex.server.deployment.acts import acts, record
from zkapex.server.deployment.backup import read_backup
from zkapex.server.deployment.init import create_server
from zkapex.server.deployment.keys import public_keys
from zkapex.server.deployment.requests import OrderBook
from zkapex.server.deployment.settings import checked
from zkapex.transport.grid import Fate, reliable


@pytest.fixture
def zkapex(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command here; what it printed as JSON, or its exit code and what it said."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, code: int = 0) -> Any:
        capsys.readouterr()
        found = commands.here(*map(str, arguments))
        said = capsys.readouterr()
        assert found == code, said.out + said.err
        if "--json" in arguments and not code:
            return json.loads(said.out)
        return said.out + said.err

    return run


def test_from_an_order_to_a_backup_that_is_restored(tmp_path: Path, zkapex: Any) -> None:
    here = Here(tmp_path, devices=1)
    server = here.place.root
    zkapex("server", "requests", "create", server, "bad", "--about", "mask=none", code=10)
    zkapex("server", "requests", "create", server, "r-1", "--about", "mask=request-1", "--legal-basis", "x", code=10)
    zkapex("server", "requests", "create", server, "r-1", "--about", "mask=request-1", "--dry-run", code=10)
    made = zkapex("server", "requests", "create", server, "r-1", "--about", "mask=request-1", "--note", "n", "--json")
    assert made["forgets"] == "what request-1 is about"
    (row,) = zkapex("server", "requests", "list", server, "--json")["requests"]
    assert (row["state"], row["basis"], row["note"], row["asked"]) == ("new", "gdpr-17-erasure", "n", 0)
    zkapex("server", "requests", "watch", server, "r-1", "--timeout", 0.1, "--every", 0.1, code=50)
    here.campaign()
    assert "1 of 1 proved" in zkapex("server", "requests", "watch", server, "r-1")
    shown = zkapex("server", "requests", "show", server, "r-1", "--json")
    assert (shown["state"], shown["proved"], shown["clients"][0]["verdict"]) == ("done", 1, "proved")
    client = shown["clients"][0]["client"]
    zkapex("server", "requests", "cancel", server, "r-1", "--reason", "no", code=31)
    zkapex("server", "requests", "retry", server, "r-1", code=31)
    preview = ("server", "requests", "create", server, "r-x", "--about", "mask=request-2", "--dry-run")
    costs = zkapex(*preview, "--json")
    assert (costs["costs"]["chunks_touched"], costs["costs"]["chunks"], costs["costs"]["masked_weights"]) == (1, 2, 16)
    assert [one["client"] for one in costs["asked"]] == [client]
    assert min(costs["costs"]["client_wall_s"], costs["costs"]["client_memory_mb"]) > 0
    assert [one["request"] for one in zkapex("server", "requests", "list", server, "--json")["requests"]] == ["r-1"]

    (receipt,) = zkapex("server", "receipts", "list", server, "--json")["receipts"]
    assert (receipt["request"], receipt["verdict"]) == ("r-1", "proved")
    assert zkapex("server", "receipts", "show", server, "r-1", client[:8], "--json")["verified"]
    zkapex("server", "receipts", "export", server, "r-1", client[:8], tmp_path / "receipt.zip")
    zkapex("verify", tmp_path / "receipt.zip", "--trust", here.place.federation / "key.pub")
    zkapex("server", "receipts", "show", server, "r-1", "ffffffffff", code=10)

    zkapex("server", "backup", server, tmp_path / "backup.tar")
    zkapex("server", "backup", server, tmp_path / "backup.tar", code=10)
    assert (tmp_path / "backup.tar").stat().st_mode & 0o077 == 0
    here.order("r-2", "request-2")
    here.now += timedelta(days=1)
    here.campaign()
    zkapex("server", "clients", "quarantine", server, client[:8], "--reason", "it was stolen")
    here.order("r-3", "request-3")
    zkapex("server", "restore", server, tmp_path / "backup.tar", code=10)
    done = zkapex("server", "restore", server, tmp_path / "backup.tar", "--replace", "--json")
    assert sorted(one["request_id"] for one in done["orders_since"]) == ["r-2", "r-3"]
    assert any("client.quarantined" in act and "it was stolen" in act for act in done["acts_since"])
    assert (done["given_up"], done["new_log"]) == ([], False)
    assert Path(done["set_aside"]).exists()
    zkapex("server", "tick", server, code=31)
    with pytest.raises(IllegalTransitionError, match="nobody has confirmed"):
        here.campaign()
    zkapex("server", "confirm-restore", server, "--reason", "asked again, all of it")
    zkapex("server", "confirm-restore", server, "--reason", "twice", code=10)
    here.order("r-2b", "request-2")
    outcome = here.campaign()
    assert (outcome.left, outcome.problems) == ((), {})
    assert here.chains() == [["proved", "proved"]], "what the device had done meanwhile is no hindrance"
    trail = zkapex("server", "audit-trail", server, "--json")["events"]
    operators = [line["event"] for line in trail if line["who"] != "protocol"]
    assert operators[0] == "request.created"
    assert operators[-2:] == ["server.restored", "server.restore-confirmed"]
    assert "Moved" in [line["event"] for line in trail if line["who"] == "protocol"]
    assert [one["trail"] for one in zkapex("server", "audit-trail", server, "--head", "--json")["heads"]] == [
        "operators", "registry",
    ]  # fmt: skip
    zkapex("server", "receipts", "verify", server)


def test_a_quarantine_a_readmission_and_another_key(tmp_path: Path, zkapex: Any) -> None:
    here = Here(tmp_path, devices=1)
    server = here.place.root
    here.order("r-1", "request-1")
    here.campaign()
    (row,) = zkapex("server", "clients", "list", server, "--json")["clients"]
    client = row["client"]
    zkapex("server", "clients", "readmit", server, client, "--reason", "no need", code=31)
    zkapex("server", "clients", "quarantine", server, client[:6], "--reason", "it was lost")
    here.order("r-2", "request-2")
    assert here.campaign().left == ()
    shown = zkapex("server", "requests", "show", server, "r-2", "--json")
    assert [one["status"] for one in shown["clients"]] == ["not asked yet"]
    zkapex("server", "clients", "readmit", server, client[:6], "--reason", "it was found")
    here.campaign()
    shown = zkapex("server", "clients", "show", server, client[:6], "--json")
    assert (shown["status"], [one["verdict"] for one in shown["requests"]]) == ("proved", ["proved", "proved"])
    assert [(t["event"], t["detail"]) for t in shown["trail"] if t["event"] in ("Quarantined", "Readmitted")] == [
        ("Quarantined", "by an operator: it was lost"), ("Readmitted", "by an operator: it was found"),
    ]  # fmt: skip
    zkapex("server", "clients", "quarantine", server, client[:6], "--reason", "it was lost again")
    console = FolderSource(FederationFolder.of(server))
    console.readmit(client, "it was found again", "ada")
    found = console.client(client)
    assert found is not None
    assert (found.readmitted, found.reason) == (True, "by ada, in the console: it was found again")
    [last] = acts(here.place)[-1:]
    assert (last.what, last.subject, last.reason) == ("client.readmitted", client, found.reason.removeprefix("by "))
    zkapex("server", "clients", "show", server, "none", code=10)
    zkapex("server", "clients", "admit", server, "none", code=10)

    zkapex("server", "rotate-key", server, "--reason", "once a year")
    assert len(public_keys(here.place)) == 2
    here.order("r-3", "request-3")
    zkapex("device", "trust", here.devices[0], here.place.federation / "key.pub")
    assert here.campaign().left == ()
    assert here.chains() == [["proved"] * 3]
    zkapex("server", "receipts", "verify", server)


def test_who_did_not_prove_is_asked_again_and_what_nobody_was_asked_is_cancelled(tmp_path: Path, zkapex: Any) -> None:
    here = Here(tmp_path, devices=1)
    server = here.place.root
    here.order("r-1", "request-1")
    here.network = lambda m: Fate.NODE_DOWN if step_of(m) == "unlearn" else Fate.DELIVERED
    here.campaign()
    shown = zkapex("server", "requests", "show", server, "r-1", "--json")["clients"][0]
    assert (shown["status"], shown["reason"]) == ("distributed", "Error: Node Unavailable")
    zkapex("server", "rotate-key", server, "--reason", "too early", code=31)
    here.now += timedelta(days=31)
    here.network = reliable
    here.campaign()
    zkapex("server", "requests", "watch", server, "r-1", code=25)
    again = zkapex("server", "requests", "retry", server, "r-1", "--json")
    assert again["request"] == "r-1-2"
    here.now += timedelta(seconds=1)
    here.campaign()
    assert here.chains() == [["unreachable", "proved"]]

    (row,) = zkapex("server", "clients", "list", server, "--json")["clients"]
    zkapex("server", "clients", "quarantine", server, row["client"], "--reason", "so that nobody is asked")
    here.order("r-2", "request-2")
    here.campaign()
    assert zkapex("server", "requests", "show", server, "r-2", "--json")["state"] == "under way"
    zkapex("server", "requests", "cancel", server, "r-2", "--reason", "it was withdrawn")
    assert not (here.place.federation / "global-r-2.npz").exists()
    assert here.campaign().left == ()
    states = {
        one["request"]: one["state"] for one in zkapex("server", "requests", "list", server, "--json")["requests"]
    }
    assert states == {"r-1": "done", "r-1-2": "done", "r-2": "cancelled"}


def test_what_operators_did_cannot_be_changed_unnoticed(tmp_path: Path, zkapex: Any) -> None:
    here = Here(tmp_path, devices=1)
    for number in range(3):
        record(here.place, "client.quarantined", f"client-{number}", "why\nnot")
    path = here.place.provider / "acts.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"at": "cut')  # a crash
    assert [act.reason for act in acts(here.place)] == ["why not"] * 3
    record(here.place, "client.readmitted", "client-0")
    assert len(acts(here.place)) == 4
    lines = path.read_text().splitlines(keepends=True)
    for changed in (lines[1:], [lines[0], *lines[2:]], [lines[0].replace("client-0", "client-9"), *lines[1:]], ["x\n"]):
        path.write_text("".join(changed))
        with pytest.raises(VerificationError):
            acts(here.place)
        zkapex("server", "audit-trail", here.place.root, code=20)


def test_a_damaged_or_strange_archive_is_refused(tmp_path: Path, zkapex: Any) -> None:
    import io
    import tarfile

    here = Here(tmp_path, devices=1)
    zkapex("server", "backup", here.place.root, tmp_path / "good.tar")
    data = bytearray((tmp_path / "good.tar").read_bytes())
    at = data.index(b"provider = ")
    data[at] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)
    zkapex("server", "restore", tmp_path / "new", tmp_path / "bad.tar", code=20)
    (tmp_path / "none.tar").write_bytes(b"none")
    zkapex("server", "restore", tmp_path / "new", tmp_path / "none.tar", code=10)
    for name in ("../out", "/out", "a/../../out"):
        with tarfile.open(tmp_path / "evil.tar", "w") as tar:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(VerificationError, match="no file of a server"):
            read_backup(tmp_path / "evil.tar", tmp_path / "empty")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out").exists()


def test_an_encrypted_archive_is_restored_by_whoever_has_its_passphrase(tmp_path: Path, zkapex: Any) -> None:
    here = Here(tmp_path, devices=1)
    right, wrong, archive = tmp_path / "right", tmp_path / "wrong", tmp_path / "backup.tar"
    right.write_text("one passphrase of the tests\n")
    wrong.write_text("another one of the tests\n")
    done = zkapex("server", "backup", here.place.root, archive, "--passphrase-file", right, "--json")
    assert done["encrypted"]
    key = next(here.place.federation.rglob("key.pem")).read_bytes()
    assert key not in archive.read_bytes()
    new = tmp_path / "new"
    zkapex("server", "restore", new, archive, code=10)
    zkapex("server", "restore", new, archive, "--passphrase-file", wrong, code=10)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1])
    zkapex("server", "restore", new, archive, "--passphrase-file", right, code=20)
    assert not new.exists()
    archive.write_bytes(whole)
    zkapex("server", "restore", new, archive, "--passphrase-file", right)
    assert next((new / "provider" / "federation").rglob("key.pem")).read_bytes() == key
    zkapex("server", "backup", here.place.root, tmp_path / "plain.tar")
    zkapex("server", "restore", tmp_path / "other", tmp_path / "plain.tar", "--passphrase-file", right, code=10)


def test_a_registry_in_postgresql_is_used_backed_up_and_restored(tmp_path: Path, zkapex: Any) -> None:
    if databases.programs() is None:
        pytest.skip(databases.WHY_NOT)
    with databases.postgresql("fsync=off") as running:
        here = Here(tmp_path, devices=1, database=running.database())
        here.order("r-1", "request-1")
        assert here.campaign().left == ()
        assert not (here.place.federation / "provider" / "registry.sqlite").exists()
        zkapex("server", "backup", here.place.root, tmp_path / "backup.tar")
        here.order("r-2", "request-2")
        here.now += timedelta(days=1)
        here.campaign()
        done = zkapex("server", "restore", here.place.root, tmp_path / "backup.tar", "--replace", "--json")
        assert [one["request_id"] for one in done["orders_since"]] == ["r-2"]
        assert [
            one["request"] for one in zkapex("server", "receipts", "list", here.place.root, "--json")["receipts"]
        ] == ["r-1"]


def test_the_console_orders_what_the_command_line_does(tmp_path: Path, zkapex: Any) -> None:
    """What the provider does not understand is refused; what it does understand goes into the trail of operators."""
    place = create_server(tmp_path / "server", SETTINGS)
    console = FolderSource(FederationFolder.of(place.root), lambda manifest, density: {})
    wrong = Draft("r-1", "mask=none")
    for attempt in (lambda: console.estimate(wrong), lambda: console.create(wrong, "ada")):
        with pytest.raises(InputError, match="there is no mask none"):
            attempt()
    assert (acts(place), OrderBook(place.requests).all()) == ([], [])
    draft = Draft("r-1", "mask=request-1")
    assert console.estimate(draft) is None, "nobody has enrolled yet"
    console.create(draft, "ada")
    with pytest.raises(InputError, match="there is a request r-1 already"):
        console.estimate(draft)
    zkapex("server", "requests", "create", place.root, "r-2", "--about", "mask=request-1")
    console.cancel("r-1", "ada")
    zkapex("server", "requests", "cancel", place.root, "r-2", "--reason", "a mistake")
    first, second = OrderBook(place.requests).all()
    assert (first.about, first.open) == (second.about, second.open) == ({"mask": "request-1"}, False)
    told = [act.reason for act in acts(place)]
    by = "ada, in the console"
    assert told[0] == f"{by}: gdpr-17-erasure, due {first.due_at}: what request-1 is about"
    assert told[1:] == [f"gdpr-17-erasure, due {second.due_at}: what request-1 is about", by, "a mistake"]


def test_an_order_that_lacks_what_the_provider_wants_is_refused(tmp_path: Path, zkapex: Any) -> None:
    place = create_server(tmp_path / "server", SETTINGS.model_copy(update={"provider": "small_deployed:classes"}))
    said = zkapex("server", "requests", "create", place.root, "r-1", "--about", "class=5", code=10)
    assert "does not understand what request r-1 is about" in said
    assert "forget-class" in said
    assert OrderBook(place.requests).all() == []


def test_a_password_does_not_belong_into_the_configuration() -> None:
    base = {"host": "h", "provider": "a:b"}
    assert checked({**base, "database": "postgresql://me@host/db"}, "t").database == "postgresql+psycopg://me@host/db"
    for url in ("postgresql://me:secret@host/db", "postgresql://me@host/db?password=x", "sqlite:///x", "mysql://a@b/c"):
        with pytest.raises(InputError, match="not understood"):
            checked({**base, "database": url}, "t")
