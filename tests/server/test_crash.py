"""SIGKILL at any moment: what was acknowledged is there afterwards, and what was not is whole or not there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from parties import FEDERATION

from zkapex.server.protocol.states import Distributed, RequestStatus
from zkapex.server.store.registry import Registry

SUPPORT = str(Path(__file__).parents[1] / "support")

PREPARED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, {support!r})
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from parties import FEDERATION, Party, Provider, make_manifest
from zkapex.server.store import registry as module
from zkapex.server.store.registry import Registry
from zkapex.server.protocol.states import *

FOREVER = datetime(2100, 1, 1, tzinfo=UTC)
LATER = datetime(2099, 1, 1, tzinfo=UTC)
place = {place!r} if "://" in {place!r} else Path({place!r})
registry = Registry(place, FEDERATION)
registry.add_manifest(make_manifest())
provider = Provider(Ed25519PrivateKey.from_private_bytes(bytes(31) + b"1"))
"""

ONCE = """
party = Party("a", Ed25519PrivateKey.from_private_bytes(bytes(32)))
registry.apply(Enrolled(party.enrol(nonce=registry.invite())))
registry.apply(Opened(provider.ask(party, expires_at=FOREVER)))
if {when!r} == "inside":
    # The last thing a transaction writes is its entry of the audit trail; die right before.
    module.trail.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
registry.apply(Distributed(party.client_id, "r1"))
os.kill(os.getpid(), signal.SIGKILL)
"""

FOR_EVER = """
for number in range(10**6):
    party = Party(str(number))
    events = [Enrolled(party.enrol(nonce=registry.invite()))]
    asked = provider.ask(party, issued_at=LATER, expires_at=FOREVER)  # so that no curvature is younger than the mask
    ids = (party.client_id, "r1")
    response = party.respond(asked.record)
    chunks = [commitment.chunk for commitment in response.record.commitments]
    events += [Opened(asked), Distributed(*ids), Responded(response), Drawn(*ids)]
    events += [ProofsAccepted(*ids, party.proofs(asked.record, (chunk,))) for chunk in chunks]
    events += [Verified(*ids), ReceiptIssued(*ids, b"receipt of " + ids[0].encode())]
    for event in events:
        registry.apply(event)
        print(type(event).__name__, party.client_id, flush=True)
"""


def script(body: str, place: Path | str, **values: str) -> list[str]:
    text = textwrap.dedent(PREPARED + body).format(support=SUPPORT, place=str(place), **values)
    return [sys.executable, "-c", text]


@pytest.mark.parametrize(("when", "status"), [("inside", RequestStatus.OPEN), ("after", RequestStatus.DISTRIBUTED)])
def test_a_killed_server_goes_on_where_it_was(place: Path | str, when: str, status: RequestStatus) -> None:
    done = subprocess.run(script(ONCE, place, when=when), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Registry(place, FEDERATION) as registry:
        (request,) = registry.unfinished()
        assert request.status is status
        assert registry.verify_trail().serial == {"inside": 2, "after": 3}[when]
        assert registry.apply(Distributed(request.client_id, "r1")).request == registry.request(request.client_id, "r1")
        (request,) = registry.unfinished()
        assert request.status is RequestStatus.DISTRIBUTED


def test_killed_at_any_moment_nothing_acknowledged_is_lost(place: Path | str) -> None:
    """What the killed process had said was applied is in the trail, in that order; at most one event more is."""
    seen = 0
    chance = random.Random(7)
    for _ in range(3):
        with subprocess.Popen(script(FOR_EVER, place), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [process.stdout.readline().split()]
            time.sleep(chance.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            said += [line.split() for line in process.stdout.read().splitlines()]
        assert process.returncode == -signal.SIGKILL
        with Registry(place, FEDERATION) as registry:
            head = registry.verify_trail()
            stored = [[entry.event, entry.client_id] for entry in registry.transitions()][seen:]
            assert stored[: len(said)] == said
            assert len(stored) <= len(said) + 1
            seen = head.serial
            for request in registry.requests():  # every state is one that the events led to, with all that goes with it
                trail = [entry.event for entry in registry.transitions(request.client_id)]
                assert len(request.proofs) == trail.count("ProofsAccepted")
                assert (request.receipt_digest is not None) == ("ReceiptIssued" in trail)
                assert (request.verdict == "proved") == ("Verified" in trail)
                assert len(request.drawn) == len(tuple(request.drawn)) == (3 if "Drawn" in trail else 0)
