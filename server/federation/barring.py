"""Which nodes take no part in federated training."""

from __future__ import annotations

from zkapex.errors import Error
from zkapex.server.federation.admission import Admission
from zkapex.server.federation.identity import Emit, Identity, identify
from zkapex.server.protocol.states import ClientStatus
from zkapex.server.store.registry import Registry
from zkapex.transport.peers import Peers


def barred(peers: Peers, registry: Registry, admission: Admission, emit: Emit) -> set[int]:
    """Nodes of clients in quarantine, and of devices that wait for an operator.

    Raises
    ------
    StorageError
        The list of who is admitted is damaged.
    """
    quarantined = {c.client_id for c in registry.clients() if c.status is ClientStatus.QUARANTINED}
    if not quarantined and admission.policy == "open":
        return set()
    found = admission.barred(quarantined)
    for node, who in identify(peers).items():
        if not isinstance(who, Identity):
            continue
        if who.client_id in quarantined:
            found.add(node)
        try:
            admission.check(who.client_id, node)
        except Error as e:
            emit("client.waiting", node=str(node), client=who.client_id, reason=e.what)
            found.add(node)
    return found
