"""What an operator asks of the SuperLink, over the loopback interface: nodes, their keys, and runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from zkapex.errors import InputError, RuntimeFailure
from zkapex.host.bundle import bundle_bytes

R = TypeVar("R")
FINISHED, COMPLETED = "finished", "completed"
_READS: Final = 3
_PAUSE_S: Final = 0.2


@dataclass(frozen=True)
class Node:
    """A SuperNode that the SuperLink knows.

    Attributes
    ----------
    node_id : int
    name : str
        As it was registered under.
    status : str
        ``registered``, ``online``, ``offline`` or ``unregistered``.
    key : str
        SHA-256 of its public key, hex.
    since : str
        When it last came online, ISO 8601; empty if never.
    """

    node_id: int
    name: str
    status: str
    key: str
    since: str


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes
    ----------
    status, sub_status, details : str
        As Flower calls them: ``pending``, ``starting``, ``running``, ``finished``; ``completed``, ``failed``,
        ``stopped``.
    """

    status: str
    sub_status: str
    details: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status == FINISHED


class SuperLink:
    """The SuperLink of this machine.

    Parameters
    ----------
    port : int
    authority : Path
        Certificate of the authority its certificate is by.

    Raises
    ------
    RuntimeFailure
        From every method: it does not answer, or refuses.
    """

    def __init__(self, port: int, authority: Path) -> None:
        try:
            self._client = ControlHttpClient.from_server_address(
                server_address=f"127.0.0.1:{port}",
                insecure=False,
                root_certificates=authority.read_bytes(),
                interceptors=[CliClientHttpInterceptor()],
            )
        except OSError as error:
            raise InputError(f"{authority} cannot be read", why=str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def nodes(self) -> list[Node]:
        """All nodes that were registered and not retired, by id."""
        found = _read(lambda: self._client.ListNodes(ListNodesRequest())).nodes_info
        return sorted(
            (
                Node(
                    node.node_id,
                    node.name,
                    node.status,
                    hashlib.sha256(node.public_key).hexdigest(),
                    node.last_activated_at,
                )
                for node in found
                if node.status != "unregistered"
            ),
            key=lambda node: node.node_id,
        )

    def register(self, key: Path, name: str) -> int:
        """Let a device in whose public key is in a file; the number of its node.

        Raises
        ------
        InputError
            The file holds no OpenSSH key on a curve of NIST's.
        """
        try:
            public = load_ssh_public_key(key.read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise InputError(f"{key} holds no public key", why=str(error)[:300]) from None
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise InputError(f"the key in {key} is not on an elliptic curve", fix="make it with zkapex device init")
        request = RegisterNodeRequest(public_key=public_key_to_bytes(public), name=name)
        return int(_asked(lambda: self._client.RegisterNode(request)).node_id)

    def retire(self, node_id: int) -> None:
        """Let a device in no more. Its key can never be registered again."""
        _asked(lambda: self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id)))

    def submit(self, settings: Mapping[str, str | int | float | bool], content: bytes | None = None) -> int:
        """Start a run of a bundle, by default the installed one; its number."""
        content = bundle_bytes() if content is None else content
        bundle = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(bundle), override_config=user_config_to_proto(dict(settings)))
        answer = _asked(lambda: self._client.StartRun(request))
        if not answer.HasField("run_id"):
            raise RuntimeFailure("the SuperLink did not start the campaign", why=answer.note or "it gave no reason")
        return int(answer.run_id)

    def state(self, run_id: int) -> RunState:
        """How far a run is."""
        runs = _read(lambda: self._client.ListRuns(ListRunsRequest(run_id=run_id))).run_dict
        if run_id not in runs:
            raise RuntimeFailure(f"the SuperLink knows no run {run_id}")
        status = runs[run_id].status
        return RunState(status.status, status.sub_status, status.details)

    def active(self) -> list[int]:
        """Numbers of the runs that have not ended, oldest first."""
        runs = _read(lambda: self._client.ListRuns(ListRunsRequest())).run_dict
        found = [(run.pending_at, number) for number, run in runs.items() if run.status.status != FINISHED]
        return [int(number) for _, number in sorted(found)]

    def stop(self, run_id: int) -> None:
        """End a run."""
        _asked(lambda: self._client.StopRun(StopRunRequest(run_id=run_id)))


def _read(call: Callable[[], R]) -> R:
    """The same for what changes nothing, which is asked again if it was not answered.

    A connection that was kept is closed by the SuperLink after some seconds, possibly just when it is used again.
    """
    for _ in range(_READS - 1):
        try:
            return call()
        except httpx.TransportError:
            time.sleep(_PAUSE_S)
        except httpx.HTTPError:
            break
    return _asked(call)


def _asked(call: Callable[[], R]) -> R:
    try:
        return call()
    except httpx.HTTPStatusError as error:
        raise RuntimeFailure(
            f"the SuperLink refused: {error.response.status_code}", why=error.response.text[:500]
        ) from None
    except httpx.HTTPError as error:
        raise RuntimeFailure(
            "the SuperLink does not answer", why=str(error) or type(error).__name__, fix="zkapex server run"
        ) from None
