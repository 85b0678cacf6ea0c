"""The gate passes what devices need and nothing else, however it is spelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from zkapex.server.deployment import gate
from zkapex.server.deployment.gate import Buckets, gate_app
from zkapex.server.deployment.settings import Gate


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes, dict[str, str]]]:
    """What the SuperLink is sent: a stand-in that answers everything, so that only the gate can refuse."""
    calls: list[tuple[str, bytes, dict[str, str]]] = []

    async def everything(request: Request) -> PlainTextResponse:
        calls.append((request.url.path, await request.body(), dict(request.headers)))
        return PlainTextResponse("reached", headers={"x-of-the-link": "yes"})

    upstream = Starlette(routes=[Route("/{path:path}", everything, methods=["GET", "POST", "PUT"])])
    real: Any = gate.httpx.AsyncClient

    def client(**kwargs: Any) -> Any:
        kwargs.pop("verify")
        return real(transport=gate.httpx.ASGITransport(app=upstream), **kwargs)

    monkeypatch.setattr(gate.httpx, "AsyncClient", client)
    return calls


@pytest.fixture
def devices(seen: list[Any]) -> Iterator[TestClient]:
    with TestClient(gate_app(Gate(largest_mb=1), "https://127.0.0.1:9091", None)) as client:
        yield client


@pytest.mark.parametrize("call", ["register-node", "activate-node", "pull-messages", "push-object", "get-fab"])
def test_what_devices_call_is_passed_on(devices: TestClient, seen: list[Any], call: str) -> None:
    answer = devices.post(f"/v1/fleet/{call}", content=b"body", headers={"flwr-signature": "abc"})
    assert (answer.status_code, answer.text, answer.headers["x-of-the-link"]) == (200, "reached", "yes")
    path, body, headers = seen[0]
    assert (path, body, headers["flwr-signature"]) == (f"/v1/fleet/{call}", b"body", "abc")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/",
        "/openapi.json",
        "/v1/fleet/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "//v1/control/start-run",
        "/V1/CONTROL/start-run",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/pull-messages?x=/v1/control/start-run",
        "/v1/fleet/pull-messages;/v1/control",
        "/v1/fleet/pull-messages%0a",
        "/%0a/v1/control/start-run",
    ],
)
def test_everything_else_is_refused(devices: TestClient, seen: list[Any], path: str) -> None:
    assert devices.post(path, content=b"").status_code == 403
    assert devices.get(path).status_code == 403
    assert not seen


def test_only_posts_reach_the_fleet(devices: TestClient, seen: list[Any]) -> None:
    assert devices.get("/v1/fleet/pull-messages").status_code == 403
    assert devices.put("/v1/fleet/pull-messages").status_code == 403
    assert devices.request("ANYTHING", "/v1/fleet/pull-messages").status_code == 403
    assert not seen


def test_health_says_nothing_of_the_server(devices: TestClient) -> None:
    answer = devices.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "x-of-the-link" not in answer.headers


def test_messages_are_bounded_whether_or_not_they_say_how_large_they_are(devices: TestClient, seen: list[Any]) -> None:
    assert devices.post("/v1/fleet/push-object", content=b"x" * (2**20 + 1)).status_code == 413
    pieces = (b"x" * 2**18 for _ in range(5))
    assert devices.post("/v1/fleet/push-object", content=pieces).status_code == 413
    assert devices.post("/v1/fleet/push-object", content=b"x" * 2**20).status_code == 200
    assert len(seen) == 1


def test_one_address_cannot_ask_without_end(seen: list[Any]) -> None:
    with TestClient(gate_app(Gate(requests_per_minute=5), "https://127.0.0.1:9091", None)) as client:
        codes = [client.post("/v1/fleet/pull-messages").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2


def test_nobody_gets_around_the_limit_by_asking_for_what_is_no_path(seen: list[Any]) -> None:
    with TestClient(gate_app(Gate(requests_per_minute=5), "https://127.0.0.1:9091", None)) as client:
        codes = [client.request("ANYTHING", "/%0a").status_code for _ in range(7)]
    assert codes == [403] * 5 + [429] * 2


def test_a_bucket_fills_again_and_is_one_address_s() -> None:
    buckets = Buckets(60)
    assert all(buckets.take("a", 0.0) for _ in range(60))
    assert not buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)
    assert buckets.take("a", 1.01)
    assert not buckets.take("a", 1.02)


def test_a_link_that_is_down_is_not_blamed_on_the_device(tmp_path: Path) -> None:
    with TestClient(gate_app(Gate(), "https://127.0.0.1:1", None)) as client:
        assert client.post("/v1/fleet/pull-messages").status_code == 502
        assert client.get("/health").status_code == 503
