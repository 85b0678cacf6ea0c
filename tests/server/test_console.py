"""The console by HTTP: who gets in, who may do what, and that nobody else's page can do it for them."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from zkapex.cli.web import console, console_token
from zkapex.errors import IllegalTransitionError, InputError, LedgerError
from zkapex.server.console.access import Access, Operator, Role, add_operator, load_access
from zkapex.server.console.app import create_app
from zkapex.server.console.folder import FederationFolder
from zkapex.server.console.views import (
    Answer,
    ClientView,
    Draft,
    Entry,
    LedgerView,
    PlanView,
    RequestView,
    tasks,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
GOOD, BAD = "a" * 64, "b" * 64


def answer(client: str, verdict: str | None, status: str = "proving", proved: int = 2) -> Answer:
    return Answer("req-1", client, status, verdict, "", 3, 3, proved, verdict == "proved")


@dataclass
class Scene:
    """A source of two clients, one quarantined, and one request that waits."""

    federation: str = "clinic"
    can_order: bool = True
    readmitted: list[tuple[str, str, str]] = field(default_factory=list)
    steps: list[RequestView] = field(default_factory=list)
    ordered: list[tuple[str, str]] = field(default_factory=list)
    signed: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)

    def requests(self) -> Sequence[RequestView]:
        return [self.view()]

    def view(self) -> RequestView:
        waiting = RequestView(
            "req-1", (answer(GOOD, None), answer(BAD, "failed")), NOW, NOW + timedelta(days=1), "guarded-group-obs"
        )
        return self.steps.pop(0) if self.steps else waiting

    def request(self, request_id: str) -> RequestView | None:
        return self.view() if request_id == "req-1" else None

    def clients(self) -> Sequence[ClientView]:
        return [ClientView(GOOD, "pending", 0), ClientView(BAD, "quarantined", 0, "<b>half a mask</b>")]

    def client(self, client_id: str) -> ClientView | None:
        return next((client for client in self.clients() if client.client_id == client_id), None)

    def trail(self, limit: int) -> Sequence[Entry]:
        return [Entry(NOW, "Rejected", BAD, "req-1", "half a mask")][:limit]

    def verify(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        if client_id != GOOD:
            raise InputError("there is no such receipt", fix="choose another")
        depths = [{"name": "proofs", "result": "reached", "note": ""}]
        return {"proofs_verified": 3, "verify_cpu_s": 0.1, "depths": depths}

    def summary(self, request_id: str, client_id: str) -> Mapping[str, Any]:
        return {
            "verdict": "proved", "reasons": [], "issued_at": NOW, "operator": "mask-only", "audit": "full",
            "chunks_touched": 3, "payload_sha256": "c" * 64, "shows": ["that"], "does_not_show": ["this"],
        }  # fmt: skip

    def plan(self, request_id: str) -> PlanView | None:
        return None

    def outcome(self, request_id: str) -> Mapping[str, Any] | None:
        return None

    def estimate(self, draft: Draft) -> Mapping[str, str | int | float] | None:
        if draft.about == "nonsense":
            raise InputError("that makes no sense", fix="say it otherwise")
        return {"prove_cpu_s": 12.5, "verify_cpu_s": 0.5, "chunks_proved": 7}

    def create(self, draft: Draft, operator: str) -> None:
        self.ordered.append((draft.request_id, operator))

    def cancel(self, request_id: str, operator: str) -> None:
        self.ordered.remove((request_id, operator))

    def ledger(self) -> LedgerView | None:
        return LedgerView("clinic", 4, "d" * 64, "clinic+key", ())

    def check_ledger(self) -> LedgerView:
        raise LedgerError("the log does not hold", why="an entry was changed")

    def report(self, request_id: str, reader: str) -> str | None:
        return f"<!doctype html><title>for {reader}</title>" if self.signed and reader == "dpo" else None

    def make_report(self, request_id: str, case: Mapping[str, Any], operator: str) -> None:
        if not case["controller"]:
            raise InputError("the description of the case is wrong", why="controller")
        self.signed.append((case, operator))

    def readmit(self, client_id: str, reason: str, operator: str) -> None:
        if client_id != BAD:
            raise IllegalTransitionError("client cannot be readmitted", why="it is not quarantined")
        self.readmitted.append((client_id, reason, operator))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "console.toml"


@dataclass
class Party:
    """The console, and a browser of somebody who is signed in."""

    scene: Scene
    browser: TestClient

    def csrf(self, page: str) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.browser.get(page).text)
        assert found
        return found[1]


def party(file: Path, role: Role = Role.OPERATOR, **options: Any) -> Party:
    scene = Scene()
    token = add_operator(file, "ada", role)
    app = create_app(scene, load_access(file), clock=lambda: NOW, tick_s=0.01, **options)
    browser = TestClient(app, follow_redirects=True)
    found = Party(scene, browser)
    answer = browser.post("/signin", data={"csrf": found.csrf("/signin"), "token": token, "then": "/requests"})
    assert answer.status_code == 200
    assert answer.url.path == "/requests"
    return found


def test_nobody_gets_in_without_a_token(file: Path) -> None:
    add_operator(file, "ada", Role.OPERATOR)
    browser = TestClient(create_app(Scene(), load_access(file)), follow_redirects=False)
    pages = ["/", "/requests", "/requests/req-1", f"/clients/{GOOD}", "/trail", f"/receipts/req-1/{GOOD}"]
    for page in (*pages, "/requests/new", "/ledger", "/requests/req-1/report", "/requests/req-1/report/dpo"):
        refused = browser.get(page)
        assert refused.status_code == 303
        assert refused.headers["location"].startswith("/signin?then=")
    assert browser.get("/requests/req-1/progress").status_code == 303
    assert browser.post(f"/clients/{BAD}/readmit", data={"reason": "x"}).status_code == 401


def test_a_wrong_token_says_so(file: Path) -> None:
    add_operator(file, "ada", Role.OPERATOR)
    found = Party(Scene(), TestClient(create_app(Scene(), load_access(file))))
    refused = found.browser.post("/signin", data={"csrf": found.csrf("/signin"), "token": "guess", "then": "/"})
    assert refused.status_code == 401
    assert "No operator has this token" in refused.text


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_signing_in_leads_nowhere_else(file: Path, then: str) -> None:
    token = add_operator(file, "ada", Role.OPERATOR)
    browser = TestClient(create_app(Scene(), load_access(file)), follow_redirects=False)
    csrf = Party(Scene(), browser).csrf("/signin")
    assert browser.post("/signin", data={"csrf": csrf, "token": token, "then": then}).headers["location"] == "/"


@pytest.mark.parametrize(
    ("page", "action"),
    [
        (f"/clients/{BAD}", f"/clients/{BAD}/readmit"),
        ("/", "/signout"),
        ("/requests/new", "/requests/new"),
        ("/requests/req-1", "/requests/req-1/cancel"),
        ("/requests/req-1/report", "/requests/req-1/report"),
    ],
)
def test_another_site_cannot_act(file: Path, page: str, action: str) -> None:
    found = party(file)
    for csrf in ({}, {"csrf": ""}, {"csrf": "x" * 43}):
        refused = found.browser.post(action, data={**csrf, "reason": "mine"})
        assert refused.status_code == 403
    assert [found.scene.readmitted, found.scene.ordered, found.scene.signed] == [[], [], []]
    assert found.browser.get(page).status_code == 200


def test_an_operator_readmits_with_a_reason_and_a_name(file: Path) -> None:
    found = party(file)
    csrf = found.csrf(f"/clients/{BAD}")
    assert found.browser.post(f"/clients/{BAD}/readmit", data={"csrf": csrf, "reason": " "}).status_code == 400
    assert found.browser.post(f"/clients/{BAD}/readmit", data={"csrf": csrf, "reason": "new disk"}).status_code == 200
    assert found.scene.readmitted == [(BAD, "new disk", "ada")]
    refused = found.browser.post(f"/clients/{GOOD}/readmit", data={"csrf": csrf, "reason": "why not"})
    assert refused.status_code == 409
    assert "it is not quarantined" in refused.text


@pytest.mark.parametrize(
    ("role", "trail", "readmit"), [(Role.OPERATOR, 200, 200), (Role.AUDITOR, 200, 403), (Role.OFFICER, 403, 403)]
)
def test_roles(file: Path, role: Role, trail: int, readmit: int) -> None:
    found = party(file, role)
    assert found.browser.get("/trail").status_code == trail
    answer = found.browser.post(f"/clients/{BAD}/readmit", data={"csrf": found.csrf("/"), "reason": "x"})
    assert answer.status_code == readmit
    assert ("Readmit" in found.browser.get(f"/clients/{BAD}").text) == (role is Role.OPERATOR)
    assert ("Audit trail" in found.browser.get("/").text) == (trail == 200)


def test_who_is_taken_off_the_list_is_signed_out(file: Path) -> None:
    token = add_operator(file, "ada", Role.OPERATOR)
    access = load_access(file)
    tokens = list(access.tokens)
    browser = TestClient(create_app(Scene(), replace(access, tokens=tokens)), follow_redirects=False)
    browser.post("/signin", data={"csrf": Party(Scene(), browser).csrf("/signin"), "token": token, "then": "/"})
    assert browser.get("/").status_code == 200
    tokens.clear()
    assert browser.get("/").status_code == 303


def test_a_proxy_names_who_it_is_only_if_it_is_believed(file: Path) -> None:
    add_operator(file, "ada", Role.OPERATOR)
    for proxies, status in ((["testclient"], 200), (["10.0.0.1"], 401)):
        access = load_access(file, "X-Remote-User", proxies)
        browser = TestClient(create_app(Scene(), access))
        assert browser.get("/", headers={"X-Remote-User": "ada"}).status_code == status
        assert browser.get("/", headers={"X-Remote-User": "eve"}).status_code == 401
        assert browser.get("/").status_code == 401


def test_pages_take_nothing_from_elsewhere_and_nothing_is_run(file: Path) -> None:
    found = party(file)
    for page in ("/", "/requests", "/requests/req-1", "/clients", f"/clients/{BAD}", "/trail", "/nowhere"):
        response = found.browser.get(page)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["cache-control"] == "no-store"
        assert not re.findall(r"(?:src|href|action)=\"(?:https?:)?//", response.text)
        assert "<b>half" not in response.text, "what a device said is text, not markup"
    cookie = TestClient(create_app(Scene(), Access(()))).get("/signin").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_progress_is_told_until_it_is_done(file: Path) -> None:
    found = party(file)
    view = found.scene.view()
    half = replace(view, answers=(answer(GOOD, None, proved=1), answer(BAD, "failed")))
    done = replace(view, answers=(answer(GOOD, "proved", proved=3), answer(BAD, "failed")))
    found.scene.steps = [half, half, done]
    told = re.findall(r"data: (.*)\n\n", found.browser.get("/requests/req-1/progress").text)
    assert len(told) == 2
    assert '"proved": 3' in told[0]
    assert '"done": true' in told[1]


def test_a_receipt_is_verified_again(file: Path) -> None:
    found = party(file)
    page = f"/receipts/req-1/{GOOD}"
    shown = found.browser.post(page, data={"csrf": found.csrf(page)})
    assert "3 zero-knowledge proofs verified" in shown.text
    refused = found.browser.post(f"/receipts/req-1/{BAD}", data={"csrf": found.csrf(page)})
    assert refused.status_code == 409
    assert "there is no such receipt" in refused.text


ORDER = {"request_id": "r-2", "about": "forget-class=5", "legal_basis": "other", "days": "30", "density": "0.01"}


def test_nothing_is_ordered_whose_cost_was_not_shown(file: Path) -> None:
    found = party(file)
    fields = {**ORDER, "csrf": found.csrf("/requests/new")}
    for early in ({"step": "create"}, {"step": "create", "estimated": "0.5"}, {"step": "estimate"}):
        shown = found.browser.post("/requests/new", data={**fields, **early})
        assert "12.5" in shown.text
        assert 'name="estimated" value="0.01"' in shown.text
        assert found.scene.ordered == []
    assert "that makes no sense" in found.browser.post("/requests/new", data={**fields, "about": "nonsense"}).text
    found.browser.post("/requests/new", data={**fields, "step": "create", "estimated": "0.01"})
    assert found.scene.ordered == [("r-2", "ada")]
    found.browser.post("/requests/r-2/cancel", data=fields)
    assert found.scene.ordered == []


def test_who_may_order_and_who_may_report(file: Path, tmp_path: Path) -> None:
    for role, orders, reports in ((Role.OPERATOR, 200, 200), (Role.AUDITOR, 403, 403), (Role.OFFICER, 403, 200)):
        found = party(tmp_path / f"{role}.toml", role)
        csrf = found.csrf("/")
        assert found.browser.get("/requests/new").status_code == orders
        assert found.browser.post("/requests/new", data={**ORDER, "csrf": csrf}).status_code == orders
        case = {"csrf": csrf, "controller": "Clinic", "received": "2026-01-02", "scope": "backups\n\nrecipients"}
        assert found.browser.post("/requests/req-1/report", data=case).status_code == reports
        assert len(found.scene.signed) == (reports == 200)
        if reports == 200:
            told, who = found.scene.signed[0]
            assert (told["received"], told["scope"], who) == ("2026-01-02T00:00:00Z", ["backups", "recipients"], "ada")
            report = found.browser.get("/requests/req-1/report/dpo")
            assert "script-src" not in report.headers["content-security-policy"]
            assert found.browser.get("/requests/req-1/report/elsewhere").status_code == 404
            assert found.browser.post("/requests/req-1/report", data={"csrf": csrf}).status_code == 400


def test_a_log_that_does_not_hold_says_so(file: Path) -> None:
    found = party(file)
    assert "4" in found.browser.get("/ledger").text
    refused = found.browser.post("/ledger", data={"csrf": found.csrf("/ledger")})
    assert refused.status_code == 409
    assert "an entry was changed" in refused.text


def test_what_needs_a_person() -> None:
    found = tasks(Scene(), NOW)
    assert [task.urgent for task in found] == [True, True, False]
    assert "is quarantined" in found[0].text
    assert "1 clients have not finished" in found[1].text
    assert not [task for task in tasks(Scene(), NOW - timedelta(days=9)) if "expires" in task.text]
    assert "has expired" in tasks(Scene(), NOW + timedelta(days=2))[1].text


def test_a_form_has_a_bound(file: Path) -> None:
    found = party(file)
    answer = found.browser.post("/signout", data={"csrf": found.csrf("/"), "more": "x" * 70_000})
    assert answer.status_code == 413


def test_tokens_are_kept_as_digests_in_a_private_file(file: Path) -> None:
    token = add_operator(file, "ada", Role.OPERATOR)
    assert token not in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
    again = add_operator(file, "ada", Role.AUDITOR)
    access = load_access(file)
    assert access.by_token(token) is None
    assert access.by_token(again) == Operator("ada", Role.AUDITOR)
    file.chmod(0o644)
    with pytest.raises(InputError, match="can be read by other users"):
        load_access(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[operator]]\nname = 'a'\nrole = 'king'\ntoken_sha256 = 'x'", "malformed"),
        ("[[operator]]\nname = 'a'", "malformed"),
        ("operator = ", "holds no operators"),
        ("[[operator]]\nname='a'\nrole='auditor'\ntoken_sha256='x'\n" * 2, "twice"),
    ],
)
def test_a_file_that_is_wrong_says_how(file: Path, text: str, says: str) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(InputError, match=says):
        load_access(file)


def test_nobody_is_let_in_by_an_empty_list() -> None:
    assert Access(()).by_token("") is None
    assert Access(()).by_name("") is None


def test_a_port_that_is_taken_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "provider").mkdir()
    (tmp_path / "provider" / "run.json").write_text("{}", encoding="utf-8")
    console_token(tmp_path, "ada")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}") as caught:
            console(tmp_path, "127.0.0.1", port)
    assert caught.value.fix is not None
    assert "--port" in caught.value.fix


def test_a_token_is_printed_alone_and_what_it_is_for_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "provider").mkdir()
    (tmp_path / "provider" / "run.json").write_text("{}", encoding="utf-8")
    console_token(tmp_path, "grace", "auditor")
    printed = capsys.readouterr()
    access = load_access(FederationFolder.of(tmp_path).tokens)
    assert access.by_token(printed.out.strip()) == Operator("grace", Role.AUDITOR)
    assert "grace signs in with this, as auditor" in printed.err
