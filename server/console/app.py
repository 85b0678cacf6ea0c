"""The console as an ASGI application: pages, what they may do, and how they are kept from doing more.

No page needs a script: the one there is only shows progress while it happens. Every change is a POST with a token that
the session holds, so that no other site can make one; pages take nothing from other servers, and may not be framed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.staticfiles import StaticFiles

from zkapex.errors import Error, InputError
from zkapex.server.console.access import Access, Operator, Right
from zkapex.server.console.chart import charts
from zkapex.server.console.views import Draft, RequestView, Source, tasks
from zkapex.server.deployment.requests import LEGAL_BASES

HERE = Path(__file__).parent
LARGEST_FORM = 64 * 1024
TRAIL = 500
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = POLICY.replace("style-src 'self'", "style-src 'unsafe-inline'").replace("script-src 'self'; ", "")
"""Of a report, which is a page of its own with its style in it, and runs nothing."""
CASE_FIELDS = (
    ("controller", "Controller", "text"),
    ("contact", "Contact of the controller or its data-protection officer", "text"),
    ("complaints", "Where the data subject can complain", "text"),
    ("reference", "Reference of the case", "text"),
    ("received", "Received on", "date"),
    ("due", "Due on", "date"),
    ("completed", "Completed on", "date"),
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def create_app(
    source: Source,
    access: Access,
    *,
    secret: str | None = None,
    secure: bool = False,
    clock: Callable[[], datetime] = utc_now,
    tick_s: float = 1.0,
) -> FastAPI:
    """The console over a source of what there is.

    Parameters
    ----------
    source : Source
    access : Access
        Whom to let in.
    secret : str, optional
        Signs sessions; a fresh one by default, so that a restart signs everybody out.
    secure : bool
        Whether the console is reached by HTTPS, so that cookies may insist on it.
    clock : callable
        Time in UTC.
    tick_s : float
        How often progress is looked at, in seconds.
    """
    app = FastAPI(title="zkapex console", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined)
    pages.filters["short"] = lambda text: str(text)[:16]
    pages.filters["figure"] = _figure

    def who(request: Request) -> Operator | None:
        peer = request.client.host if request.client else ""
        if access.header:
            return access.by_header(request.headers.get(access.header), peer)
        name = request.session.get("operator")
        return access.by_name(name) if isinstance(name, str) else None

    def page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        csrf = request.session.setdefault("csrf", secrets.token_urlsafe(32))
        root = request.scope.get("root_path", "") + "/"
        content = pages.get_template(name).render(
            root=root, csrf=csrf, operator=who(request), federation=source.federation, now=clock(), **values
        )
        return HTMLResponse(content, status)

    def allowed(request: Request, right: Right) -> Operator:
        operator = who(request)
        if operator is None:
            raise HTTPException(401)
        if not operator.may(right):
            raise HTTPException(403, f"this needs another role than {operator.role}")
        return operator

    async def form(request: Request) -> dict[str, str]:
        """The fields of a POST, after its token was found to be the session's."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_FORM:
                raise HTTPException(413)
        fields = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        expected = request.session.get("csrf")
        if not isinstance(expected, str) or not hmac.compare_digest(fields.get("csrf", "").encode(), expected.encode()):
            raise HTTPException(403, "the form is not from this session; reload the page and try again")
        return fields

    def known(request_id: str) -> RequestView:
        found = source.request(request_id)
        if found is None:
            raise HTTPException(404, "no request has this id")
        return found

    @app.middleware("http")
    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_middleware(
        SessionMiddleware,
        secret_key=secret or secrets.token_urlsafe(32),
        session_cookie="zkapex_console",
        max_age=12 * 3600,
        same_site="strict",
        https_only=secure,
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code == 401 and request.method == "GET" and not access.header:
            return RedirectResponse(f"{request.scope.get('root_path', '')}/signin?then={quote(request.url.path)}", 303)
        words = {401: "Sign in first.", 403: "That is not allowed.", 404: "There is no such page."}
        text = words.get(error.status_code, "That did not work.")
        return page(request, "message.html", error.status_code, title=text, detail=error.detail, link="")

    @app.exception_handler(Error)
    async def explained(request: Request, error: Error) -> Response:
        return page(request, "message.html", 409, title=error.what, detail=f"{error.why} {error.fix}".strip(), link="")

    @app.get("/signin")
    def signin(request: Request, then: str = "/") -> Response:
        return page(request, "signin.html", then=then, wrong=False)

    @app.post("/signin")
    async def enter(request: Request) -> Response:
        fields = await form(request)
        operator = access.by_token(fields.get("token", "").strip())
        if operator is None:
            return page(request, "signin.html", 401, then=fields.get("then", "/"), wrong=True)
        request.session.clear()  # a session that somebody else may have seen is not signed in
        request.session["operator"] = operator.name
        then = fields.get("then", "/")
        inside = then.startswith("/") and not then.startswith(("//", "/\\"))
        return RedirectResponse(request.scope.get("root_path", "") + (then if inside else "/"), 303)

    @app.post("/signout")
    async def leave(request: Request) -> Response:
        await form(request)
        request.session.clear()
        return RedirectResponse(request.scope.get("root_path", "") + "/signin", 303)

    @app.get("/")
    def overview(request: Request) -> Response:
        allowed(request, Right.SEE)
        found = source.requests()
        return page(request, "overview.html", requests=found, tasks=tasks(source, clock()), clients=source.clients())

    @app.get("/requests")
    def requests(request: Request) -> Response:
        allowed(request, Right.SEE)
        return page(request, "requests.html", requests=source.requests(), can_order=source.can_order)

    def drafted(request: Request, draft: Draft, status: int = 200, **values: Any) -> HTMLResponse:
        found = {"problem": "", "estimated": False, "figures_of": None, **values}
        return page(request, "new.html", status, draft=draft, bases=LEGAL_BASES, **found)

    @app.get("/requests/new")
    def new_request(request: Request) -> Response:
        allowed(request, Right.CHANGE)
        if not source.can_order:
            raise HTTPException(404, "deletions are ordered on a server; a demo makes its own")
        return drafted(request, Draft())

    @app.post("/requests/new")
    async def order(request: Request) -> Response:
        """Two steps in one form: what it costs, then the order; nothing is ordered whose cost was not shown."""
        operator = allowed(request, Right.CHANGE)
        fields = await form(request)
        draft = Draft(**{name: fields.get(name, "").strip() for name in Draft.__dataclass_fields__})
        try:
            if fields.get("step") == "create" and fields.get("estimated") == draft.density:
                await run_in_threadpool(source.create, draft, operator.name)
                return RedirectResponse(f"{request.scope.get('root_path', '')}/requests/{draft.request_id}", 303)
            figures = await run_in_threadpool(source.estimate, draft)
        except InputError as error:
            return drafted(request, draft, 400, problem=f"{error.what}. {error.fix}".strip())
        return drafted(request, draft, estimated=True, figures_of=_for_all(figures, len(source.clients())))

    @app.post("/requests/{request_id}/cancel")
    async def cancel(request: Request, request_id: str) -> Response:
        operator = allowed(request, Right.CHANGE)
        await form(request)
        await run_in_threadpool(source.cancel, request_id, operator.name)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/requests/{request_id}", 303)

    @app.get("/requests/{request_id}")
    def one_request(request: Request, request_id: str) -> Response:
        allowed(request, Right.SEE)
        found = known(request_id)
        plan = source.plan(request_id)
        pictures = [] if plan is None else charts(plan.chosen, plan.curve)
        outcome = source.outcome(request_id)
        return page(request, "request.html", deletion=found, plan=plan, pictures=pictures, outcome=outcome)

    def reported(
        request: Request, request_id: str, case: dict[str, str], status: int = 200, problem: str = ""
    ) -> HTMLResponse:
        signed = source.report(request_id, "dpo") is not None
        return page(
            request, "report.html", status, deletion=known(request_id), signed=signed, fields=CASE_FIELDS, case=case,
            problem=problem,
        )  # fmt: skip

    @app.get("/requests/{request_id}/report")
    def report(request: Request, request_id: str) -> Response:
        allowed(request, Right.SEE)
        known(request_id)
        return reported(request, request_id, {"received": f"{clock():%Y-%m-%d}"})

    @app.post("/requests/{request_id}/report")
    async def sign_report(request: Request, request_id: str) -> Response:
        operator = allowed(request, Right.REPORT)
        fields = await form(request)
        await run_in_threadpool(known, request_id)
        try:
            await run_in_threadpool(source.make_report, request_id, _case_of(fields), operator.name)
        except InputError as error:
            told = f"{error.what}: {error.why}" if error.why else error.what
            return await run_in_threadpool(reported, request, request_id, fields, 400, told)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/requests/{request_id}/report", 303)

    @app.get("/requests/{request_id}/report/{reader}")
    def report_page(request: Request, request_id: str, reader: str) -> Response:
        allowed(request, Right.SEE)
        known(request_id)
        found = source.report(request_id, reader)
        if found is None:
            raise HTTPException(404, "no such report is signed")
        return HTMLResponse(found, headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/ledger")
    def ledger(request: Request) -> Response:
        allowed(request, Right.SEE)
        return page(request, "ledger.html", ledger=source.ledger(), checked=None)

    @app.post("/ledger")
    async def check_ledger(request: Request) -> Response:
        allowed(request, Right.SEE)
        await form(request)
        found = await run_in_threadpool(source.check_ledger)
        return page(request, "ledger.html", ledger=found, checked=found)

    @app.get("/requests/{request_id}/progress")
    async def progress(request: Request, request_id: str) -> Response:
        """Server-sent events: one whenever something about the request changes, until it is done."""
        allowed(request, Right.SEE)

        async def changes() -> AsyncIterator[str]:
            last = ""
            while not await request.is_disconnected():
                found = await run_in_threadpool(source.request, request_id)
                if found is None:
                    return
                text = json.dumps({
                    "proved": found.proved,
                    "drawn": found.drawn,
                    "states": found.states,
                    "done": found.done,
                    "clients": {answer.client_id: answer.verdict or answer.status for answer in found.answers},
                })  # fmt: skip
                if text != last:
                    yield f"data: {text}\n\n"
                    last = text
                if found.done:
                    return
                await asyncio.sleep(tick_s)

        return StreamingResponse(changes(), media_type="text/event-stream")

    @app.get("/clients")
    def clients(request: Request) -> Response:
        allowed(request, Right.SEE)
        return page(request, "clients.html", clients=source.clients())

    @app.get("/clients/{client_id}")
    def one_client(request: Request, client_id: str) -> Response:
        allowed(request, Right.SEE)
        found = source.client(client_id)
        if found is None:
            raise HTTPException(404, "no client has this id")
        return page(request, "client.html", client=found)

    @app.post("/clients/{client_id}/readmit")
    async def readmit(request: Request, client_id: str) -> Response:
        operator = allowed(request, Right.CHANGE)
        fields = await form(request)
        reason = fields.get("reason", "").strip()
        if not reason:
            raise HTTPException(400, "give a reason: it goes into the audit trail")
        await run_in_threadpool(source.readmit, client_id, reason, operator.name)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/clients/{client_id}", 303)

    @app.get("/receipts/{request_id}/{client_id}")
    def receipt(request: Request, request_id: str, client_id: str) -> Response:
        allowed(request, Right.SEE)
        summary = source.summary(request_id, client_id)
        return page(request, "receipt.html", request_id=request_id, client_id=client_id, summary=summary, result=None)

    @app.post("/receipts/{request_id}/{client_id}")
    async def verify(request: Request, request_id: str, client_id: str) -> Response:
        allowed(request, Right.SEE)
        await form(request)
        result = await run_in_threadpool(source.verify, request_id, client_id)
        summary = await run_in_threadpool(source.summary, request_id, client_id)
        return page(request, "receipt.html", request_id=request_id, client_id=client_id, summary=summary, result=result)

    @app.get("/trail")
    def trail(request: Request) -> Response:
        allowed(request, Right.INSPECT)
        return page(request, "trail.html", entries=source.trail(TRAIL), limit=TRAIL)

    return app


def _for_all(figures: Mapping[str, str | int | float] | None, clients: int) -> dict[str, str | int | float] | None:
    """An estimate, with what it comes to for so many clients."""
    if figures is None:
        return None
    return {**figures, "clients": clients, "all_verify_cpu_s": float(figures["verify_cpu_s"]) * clients}


def _case_of(fields: Mapping[str, str]) -> dict[str, Any]:
    """What a form says of a case, as `zkapex.proofs.receipts.report.Case` has it; dates begin at midnight UTC."""
    case: dict[str, Any] = {name: fields.get(name, "").strip() for name, _, kind in CASE_FIELDS if kind == "text"}
    case |= {name: f"{fields[name]}T00:00:00Z" for name, _, kind in CASE_FIELDS if kind == "date" and fields.get(name)}
    case["ground"] = fields.get("ground", "")
    case["scope"] = [line.strip() for line in fields.get("scope", "").splitlines() if line.strip()]
    return case


def _figure(value: str | int | float) -> str:
    """A number for people: integers in groups of three, others with three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
