"""Real devices, several requests, one device away at each: does anything of Flower's or of the server's grow?

``PYTHONPATH=tests/support python tests/support/soak_nodes.py --devices 8 --requests 5`` (``make test-soak-nodes``)

SuperLink, superexec, gate, SuperNodes with TLS and node authentication, all on the loopback interface. Every request
masks six weights of one row; before each but the first, another device is stopped, and comes back after it. At the end
receipts are verified, with their proofs and as chains.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from deployed import SMALL, Deployed, wait_for, zkapex
from federation import SmallTask
from life import LivingProvider, spots
from measured import megabytes, tell
from torch import nn

from zkapex.circuits.statement import StatementSpec
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.federation.provider import Options, Orders
from zkapex.unlearning.planning.search import Plan
from zkapex.unlearning.planning.steps import OnStep, no_step

PARTS = {
    "link_mb": "/flower-superlink",
    "gate_mb": "zkapex.server.deployment.parts gate",
    "observe_mb": "zkapex.server.deployment.parts observe",
    "node_mb": "/flower-supernode",
    "superexec_mb": "/flower-superexec",
}
"""What is found in the command lines of the processes that keep running."""


class Provider(LivingProvider):
    """Forgets six weights of the row that an order names."""

    def __init__(self, orders: Orders, row: int = 0) -> None:
        super().__init__()
        self._orders, self._row = orders, row

    def for_request(self, request_id: str) -> Provider:
        return Provider(self._orders, int(self._orders.about(request_id)["row"]))

    def forget_description(self) -> str:
        return f"row {self._row}"

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        found = super().plan(model, statement, on_step)
        return replace(found, masks=spots(("fc2", self._row, slice(0, 6))))


def provider(options: Options, orders: Orders) -> Provider:
    torch.set_num_threads(1)
    return Provider(orders)


def task(options: Options) -> SmallTask:
    torch.set_num_threads(1)
    return SmallTask(int(options["index"]), epochs=1)


def soak(root: Path, devices: int, requests: int, say: Any = lambda line: None) -> dict[str, Any]:
    """Run it; what was measured. Raises AssertionError if a receipt is missing or wrong."""
    begun, rows = time.monotonic(), []
    with Deployed(root, devices=devices, task="soak_nodes", run=SMALL) as here:
        rows.append(_row(here, "start", begun))
        say(rows[-1])
        for number in range(1, requests + 1):
            start, cpu = time.monotonic(), _cpu_s()
            away = here.devices[number % devices] if number > 1 else None
            if away is not None:
                here.stop(away)
                wait_for(lambda: here.online() == devices - 1, 120, "a device going off")
            zkapex("server", "requests", "create", here.server, f"request-{number}", "--about", f"row={number}")
            zkapex("server", "tick", here.server)
            if away is not None:
                here.start(away)
                wait_for(lambda: here.online() == devices, 180, "coming back")
                zkapex("server", "tick", here.server)
            rows.append(_row(here, f"request-{number}", start, cpu))
            say(rows[-1])
        federation = here.server / "provider" / "federation"
        chains = verify_chain(federation / "receipts", [load_public_key(federation / "key.pub")])
        wanted = [f"request-{number}" for number in range(1, requests + 1)]
        assert len(chains) == devices
        for chain in chains:
            receipts = [one.bundle.receipt for one in chain.receipts]
            assert [one.facts.request_id for one in receipts] == wanted
            assert {one.outcome.verdict for one in receipts} == {"proved"}
    return {"devices": devices, "requests": requests, "wall_s": round(time.monotonic() - begun, 1), "rows": rows}


def _cpu_s() -> float:
    """Of everything that was started, whether it has ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            seconds += sum(process.cpu_times()[:4])
    return seconds


def _row(here: Deployed, what: str, start: float, cpu: float = 0.0) -> dict[str, Any]:
    lines = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            lines.append((" ".join(process.cmdline()), process.memory_info().rss / 1e6))
    memory = {}
    for name, part in PARTS.items():
        found = [rss for line, rss in lines if part in line]
        memory[name] = round(max(found), 1) if found else None
    state = here.server / "link"
    return {
        "what": what,
        "wall_s": round(time.monotonic() - start, 1),
        "cpu_s": round(_cpu_s() - cpu, 1),
        **memory,
        "link_db_mb": round(megabytes(state, "state.db*"), 2),
        "registry_mb": round(megabytes(here.server / "provider" / "federation", "registry.sqlite*"), 2),
        "server_mb": round(megabytes(here.server, "*"), 2),
        "logs_mb": round(megabytes(here.server / "logs", "*"), 2),
        "devices_mb": round(sum(megabytes(device, "*") for device in here.devices), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zkapex-soak-") as folder:
        say = lambda row: sys.stderr.write(json.dumps(row) + "\n")  # noqa: E731
        found = soak(Path(folder), given.devices, given.requests, say)
    tell(found, given.out)


if __name__ == "__main__":
    main()
