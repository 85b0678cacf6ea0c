"""The gate: what devices reach of the SuperLink, and nothing else.

Flower serves devices, operators and the processes that run tasks on one port, and lets everybody operate. The gate ends
TLS, passes what devices need (``POST /v1/fleet/...``) to the SuperLink on the loopback interface, answers ``GET
/health`` itself, and everything else with 403. It bounds the size of a request, how many come from one address, and how
many are open.

Paths are matched as they are decoded for routing, and may hold nothing but the name of a call, so that no other
spelling of a path gets through. Devices prove who they are by a header that Flower checks; the gate hands it on and can
itself neither make nor change it unnoticed, but it sees what messages say: it belongs on the server's own machine.
"""

from __future__ import annotations

import math
import re
import ssl
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from zkapex.host.journal import line
from zkapex.server.deployment.settings import MEBIBYTE, Gate

_FLEET: Final = re.compile(r"/v1/fleet/[a-z]+(-[a-z]+)*")
_MAX_ADDRESSES: Final = 10_000
_QUIET_S: Final = 60.0
_UPSTREAM_TIMEOUT_S: Final = 120.0
_KEPT_S: Final = 2.0
_DROPPED: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "server", "date", "content-length"})
_HOP: Final = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "forwarded"}
)


@dataclass
class Buckets:
    """A bucket of tokens for each address: `per_minute` a minute, and as many at once.

    Attributes
    ----------
    per_minute : int
    """

    per_minute: int
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, address: str, now: float) -> bool:
        """Whether one more request of an address may pass at `now`, in seconds of any steady clock."""
        left, at = self._left.pop(address, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        allowed = left >= 1
        self._left[address] = (left - 1 if allowed else left, now)
        while len(self._left) > _MAX_ADDRESSES:
            self._left.popitem(last=False)
        return allowed


@dataclass
class Refusals:
    """Says what was refused, on standard output: of one address and one status once a minute, and how often since."""

    _since: OrderedDict[tuple[str, int], tuple[float, int]] = field(default_factory=OrderedDict)

    def note(self, address: str, status: int, why: str, path: str, now: float) -> None:
        """One more; `path` is what somebody wrote, and is cut."""
        key = address, status
        at, count = self._since.pop(key, (-math.inf, 0))
        count += 1
        if now - at >= _QUIET_S:
            said = line("gate.refused", address=address, status=status, why=why, path=path[:200], times=count)
            sys.stdout.write(said + "\n")
            sys.stdout.flush()
            at, count = now, 0
        self._since[key] = at, count
        while len(self._since) > _MAX_ADDRESSES:
            self._since.popitem(last=False)


class TooLarge(Exception):
    """A body is larger than a message may be."""


def gate_app(settings: Gate, upstream: str, authority: Path | None) -> Starlette:
    """The gate as an ASGI application.

    Parameters
    ----------
    settings : Gate
    upstream : str
        Address of the SuperLink, as ``https://127.0.0.1:9091``.
    authority : Path, optional
        Certificate of the authority that the SuperLink's must be by.
    """
    buckets, refusals = Buckets(settings.requests_per_minute), Refusals()
    largest = settings.largest_mb * MEBIBYTE
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(authority)) if authority else True
    # Shorter than the SuperLink keeps one, so that no message is sent on a connection that it is closing.
    limits = httpx.Limits(max_connections=settings.connections, max_keepalive_connections=64, keepalive_expiry=_KEPT_S)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(
            base_url=upstream, verify=verify, timeout=_UPSTREAM_TIMEOUT_S, limits=limits, trust_env=False
        ) as client:
            app.state.client = client
            yield

    async def everything(request: Request) -> Response:
        address = request.client.host if request.client else ""
        answer = await judged(request, address)
        if answer.status_code in _REFUSALS:
            why = _REFUSALS[answer.status_code] if isinstance(answer, JSONResponse) else "the SuperLink refused it"
            refusals.note(address, answer.status_code, why, request.url.path, time.monotonic())
        return answer

    async def judged(request: Request, address: str) -> Response:
        if not buckets.take(address, time.monotonic()):
            return _refusal(429, "too many requests from this address")
        raw = request.scope.get("raw_path", b"").split(b"?")[0].decode("latin-1")
        if request.method == "GET" and raw == "/health":
            return await _health(request)
        if request.method != "POST" or not _FLEET.fullmatch(raw) or request.url.query:
            return _refusal(403, "devices may call /v1/fleet/ only")
        if int(request.headers.get("content-length") or 0) > largest:
            return _refusal(413, "the message is too large")
        return await _pass_on(request, raw, largest)

    async def otherwise(request: Request, _: Exception) -> Response:
        return await everything(request)

    # No route matches a path with a line break in it, or another method: these are judged, and counted, as all are.
    routes = [Route("/{path:path}", everything, methods=_METHODS)]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: otherwise, 405: otherwise})


_REFUSALS: Final = {
    401: "no device that is registered", 403: "nothing that devices may call", 413: "too large", 429: "too many",
}  # fmt: skip
_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def _health(request: Request) -> Response:
    client: httpx.AsyncClient = request.app.state.client
    try:
        answer = await client.get("/health", timeout=5.0)
    except httpx.HTTPError:
        return _refusal(503, "the SuperLink does not answer")
    return (
        JSONResponse({"status": "ok"}, 200)
        if answer.status_code == 200
        else _refusal(503, "the SuperLink is not ready")
    )


async def _pass_on(request: Request, path: str, largest: int) -> Response:
    client: httpx.AsyncClient = request.app.state.client
    headers = [(name, value) for name, value in request.headers.items() if name not in _HOP]

    async def body() -> AsyncIterator[bytes]:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > largest:
                raise TooLarge
            yield piece

    sent = client.build_request("POST", path, headers=headers, content=body())
    try:
        answer = await client.send(sent, stream=True)
    except TooLarge:
        return _refusal(413, "the message is too large")
    except httpx.HTTPError:
        return _refusal(502, "the SuperLink does not answer")

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    kept = {name: value for name, value in answer.headers.items() if name not in _DROPPED}
    return StreamingResponse(pieces(), answer.status_code, kept)


def _refusal(status: int, why: str) -> JSONResponse:
    return JSONResponse({"detail": why}, status)


def serve_gate(settings: Gate, link_port: int, folder: Path) -> None:
    """Serve the gate until the process is told to stop; certificate, key and authority are in `folder`."""
    config = uvicorn.Config(
        gate_app(settings, f"https://127.0.0.1:{link_port}", folder / "ca.pem"),
        host=settings.listen,
        port=settings.port,
        ssl_certfile=str(folder / "server.pem"),
        ssl_keyfile=str(folder / "server.key"),
        limit_concurrency=settings.connections,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=16 * 1024,
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_level="warning",
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    uvicorn.Server(config).run()
