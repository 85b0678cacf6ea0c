"""A deployed federation of real processes, with TLS, node authentication and the gate: from an order to receipts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from deployed import Deployed, wait_for, zkapex

from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.events import EventReader


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_order_ends_in_receipts_though_its_campaign_is_killed(tmp_path: Path) -> None:
    with Deployed(tmp_path, devices=2) as here:
        federation = here.server / "provider" / "federation"
        zkapex("server", "requests", "create", here.server, "r-1", "--about", "mask=request-1")
        zkapex("server", "backup", here.server, tmp_path / "backup.tar")
        refused = zkapex("server", "restore", here.server, tmp_path / "backup.tar", "--replace", check=False)
        assert (refused.returncode, "is running" in refused.stderr) == (31, True)
        events = EventReader(federation)
        campaign = here.command("server", "tick", here.server, "--json")
        wait_for(lambda: "unlearn.responded" in [event["event"] for event in events.new()], 300, "an answer")
        (app,) = here.processes("flwr-serverapp")
        os.kill(app, signal.SIGKILL)
        assert campaign.wait(timeout=300) == 50, "a campaign that was killed says so"
        keeps_going = here.command("server", "campaign", here.server, "--watch", "--every", 1)
        zkapex("server", "requests", "watch", here.server, "r-1", "--timeout", 300)
        keeps_going.send_signal(signal.SIGTERM)
        assert keeps_going.wait(timeout=300) == 0
        assert zkapex("server", "tick", here.server, "--json") == {"work": [], "run": None, "left": [], "problems": {}}
        key = load_public_key(federation / "key.pub")
        (first, second) = verify_chain(federation / "receipts", [key])
        for chain in (first, second):
            assert [one.bundle.receipt.outcome.verdict for one in chain.receipts] == ["proved"]
        for device in here.devices:
            assert zkapex("device", "status", device, "--json")["receipted"] == ["r-1"]
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])]
