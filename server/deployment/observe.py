"""What machines of the operator may ask: metrics for Prometheus, health, readiness.

``/healthz`` answers while this process lives, ``/readyz`` while the SuperLink serves and the registry can be read,
``/metrics`` in Prometheus' text format (version 0.0.4). Numbers come from the registry when they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from zkapex.errors import Error
from zkapex.host.health import serving
from zkapex.server.deployment.reading import Snapshot, snapshot
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.protocol.states import ClientStatus, RequestStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NEAR_S: Final = 2 * 24 * 3600.0
"""A request's end is near when it is less than this away."""


@dataclass(frozen=True)
class Metric:
    """A gauge: its value for every set of labels."""

    name: str
    help: str
    values: Mapping[tuple[tuple[str, str], ...], float]


def metrics(found: Snapshot, link: bool, now: datetime) -> list[Metric]:
    """What there is to measure of a server."""
    clients = Counter(str(client.status) for client in found.clients)
    requests = Counter(str(request.status) for request in found.requests)
    open_ones = [one for one in found.requests if one.status is not RequestStatus.RECEIPTED]
    ages = [(now - one.opened_at).total_seconds() for one in open_ones]
    near = [one for one in open_ones if 0 <= (one.expires_at - now).total_seconds() < NEAR_S]
    orders = Counter(order.status for order in found.orders)
    accepted, missing = sum(one.proofs for one in found.requests), sum(one.missing for one in found.requests)
    return [
        _plain("zkapex_up", "1 if the SuperLink serves.", link),
        _by_state("zkapex_clients", "Clients by state.", {str(state): clients[state] for state in ClientStatus}),
        _by_state("zkapex_requests", "Requests to clients.", {str(state): requests[state] for state in RequestStatus}),
        _by_state("zkapex_orders", "Requests of operators.", orders),
        _plain("zkapex_oldest_request_seconds", "Age of the oldest request without a receipt.", max(ages, default=0)),
        _plain("zkapex_deadlines_near", "Requests without a receipt that end within two days.", len(near)),
        _plain("zkapex_proofs_accepted", "Proofs that were accepted so far.", accepted),
        _plain("zkapex_proofs_missing", "Proofs that are still to come.", missing),
        _plain("zkapex_registry_bytes", "Size of the registry.", found.registry_bytes),
        _plain("zkapex_link_bytes", "Size of the SuperLink's database.", found.link_bytes),
    ]


def rendered(found: Iterable[Metric]) -> str:
    """Metrics in Prometheus' text format."""
    lines = []
    for metric in found:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} gauge"]
        for labels, value in metric.values.items():
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(f"{metric.name}{{{inner}}} {value:g}" if inner else f"{metric.name} {value:g}")
    return "\n".join(lines) + "\n"


def observe_app(place: Place, settings: ServerSettings) -> Starlette:
    """The service as an ASGI application."""

    def measured() -> str:
        return rendered(metrics(snapshot(place), serving(settings.link.health_port), datetime.now(UTC)))

    def ready() -> str:
        if not serving(settings.link.health_port):
            return "the SuperLink does not serve"
        snapshot(place)
        return ""

    async def metrics_page(_: Request) -> Response:
        try:
            return PlainTextResponse(await run_in_threadpool(measured), media_type=CONTENT_TYPE)
        except Error as error:
            return PlainTextResponse(error.explain(), 503)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readiness(_: Request) -> Response:
        try:
            why = await run_in_threadpool(ready)
        except Error as error:
            why = error.explain()
        return PlainTextResponse(why or "ok", 503 if why else 200)

    return Starlette(routes=[Route("/metrics", metrics_page), Route("/healthz", health), Route("/readyz", readiness)])


def serve_metrics(place: Place, settings: ServerSettings) -> None:
    """Serve until the process is told to stop."""
    where = settings.observe
    uvicorn.run(
        observe_app(place, settings), host=where.listen, port=where.port, access_log=False, log_level="warning",
        server_header=False,
    )  # fmt: skip


def _plain(name: str, text: str, value: float) -> Metric:
    return Metric(name, text, {(): float(value)})


def _by_state(name: str, text: str, values: Mapping[str, int]) -> Metric:
    return Metric(name, text, {(("state", state),): float(count) for state, count in values.items()})


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
