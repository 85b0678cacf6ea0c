"""What operators decide about clients; each decision, with its reason, goes into the trails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zkapex.errors import InputError
from zkapex.server.deployment.acts import record, said
from zkapex.server.deployment.link import SuperLink
from zkapex.server.deployment.reading import nodes_by_client, registry_of
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.federation.admission import Admission
from zkapex.server.protocol.states import Client, ClientStatus, Failed, Quarantined, Readmitted, Rejected
from zkapex.server.store.registry import Registry


@dataclass(frozen=True)
class Decision:
    """What was decided about whom.

    Attributes
    ----------
    client : str or None
        Client id, if it is one.
    node : int or None
        Number of its node, as far as it is known.
    """

    client: str | None
    node: int | None


def admission_of(place: Place) -> Admission:
    """The list of who may be a client."""
    return Admission(place.federation / "provider" / "roster.json")


def client_called(registry: Registry, text: str) -> Client:
    """The client whose id is, or begins with, a text.

    Raises
    ------
    InputError
        There is none, or more than one.
    """
    found = [client for client in registry.clients() if text and client.client_id.startswith(text)]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} clients are called {text!r}", fix="see zkapex server clients list, and give more of the id"
        )
    return found[0]


def admit_device(place: Place, link: SuperLink, key: Path, name: str) -> Decision:
    """Let a device in whose public key is in a file.

    Raises
    ------
    InputError
        The file holds no such key.
    RuntimeFailure
        The SuperLink refuses, as it does for a key that was retired, or does not answer.
    """
    node = link.register(key, name)
    admission_of(place).admit(str(node), name)
    record(place, "device.admitted", str(node), name)
    return Decision(None, node)


def admit_client(place: Place, client: str, reason: str) -> Decision:
    """Let a client in that waits for it, such as one whose device shows another key than before.

    Raises
    ------
    InputError
        None that waits is called so.
    """
    admission = admission_of(place)
    waiting = [one for one in admission.entries().waiting if client and one.startswith(client)]
    if len(waiting) != 1:
        raise InputError(
            f"{len(waiting)} clients that wait are called {client!r}",
            why="it is neither a file with a key nor a client that waits to be admitted",
            fix="see zkapex server clients list",
        )
    admission.admit(waiting[0], reason)
    record(place, "client.admitted", waiting[0], reason)
    return Decision(waiting[0], None)


def quarantine(place: Place, settings: ServerSettings, client: str, reason: str) -> Decision:
    """Have a client take no part any more; a request under way to it has failed with that.

    Raises
    ------
    InputError
        No client is called so.
    """
    with registry_of(place, settings) as registry:
        found = client_called(registry, client)
        why = f"by an operator: {reason}"
        if found.active is not None:
            registry.apply(Rejected(found.client_id, found.active, why))
        else:
            registry.apply(Quarantined(found.client_id, why))
    record(place, "client.quarantined", found.client_id, reason)
    return Decision(found.client_id, _node(place, found.client_id))


def readmit(place: Place, settings: ServerSettings, client: str, reason: str) -> Decision:
    """Let a quarantined client enrol again, by proof that all it was ever asked to delete is zero.

    Raises
    ------
    InputError
        No client is called so.
    IllegalTransitionError
        It is not in quarantine.
    """
    with registry_of(place, settings) as registry:
        return readmit_in(registry, place, client, reason)


def readmit_in(registry: Registry, place: Place, client: str, reason: str, by: str = "") -> Decision:
    """As `readmit`, in a registry that is open already.

    Parameters
    ----------
    by : str
        Who decides it, if that is not the user of this machine.
    """
    found = client_called(registry, client)
    registry.apply(Readmitted(found.client_id, f"by {by or 'an operator'}: {reason}"))
    record(place, "client.readmitted", found.client_id, said(by, reason))
    return Decision(found.client_id, _node(place, found.client_id))


def retire(place: Place, settings: ServerSettings, link: SuperLink, device: str, reason: str) -> Decision:
    """Let a device in no more, ever: its key cannot be registered again, and its client takes no part.

    Parameters
    ----------
    device : str
        Number of its node, or (the beginning of) its client's id.

    Raises
    ------
    InputError
        There is no such device.
    RuntimeFailure
        The SuperLink does not answer.
    """
    tied = nodes_by_client(place)
    if device.isdecimal() and any(node.node_id == int(device) for node in link.nodes()):
        gone: tuple[int, ...] = (int(device),)
        client = next((one for one, nodes in tied.items() if nodes == gone), None)  # unless it has another node now
    else:
        with registry_of(place, settings) as registry:
            client = client_called(registry, device).client_id
        gone = tied.get(client, ())
    known = {node.node_id for node in link.nodes()}
    for node in gone:
        if node in known:
            link.retire(node)
    if client is not None:
        with registry_of(place, settings) as registry:
            found = registry.client(client)
            if found is not None and found.active is not None:
                registry.apply(Failed(client, found.active, "the device was retired"))
            if found is not None and found.status is not ClientStatus.QUARANTINED:
                registry.apply(Quarantined(client, f"retired: {reason}"))
    record(place, "device.retired", client or str(gone[0]), reason)
    return Decision(client, gone[0] if gone else None)


def _node(place: Place, client_id: str) -> int | None:
    return next(iter(nodes_by_client(place).get(client_id, ())), None)
