"""Many devices, many requests, devices that come and go, and some that cheat: does anything grow that should not?

``PYTHONPATH=tests/support python tests/support/soak.py --devices 100 --requests 20`` (``make test-soak``)

Everything is the product's but three things, which cost time and show nothing here: messages do not leave the process,
devices prove in this process instead of a worker's, and the search for a mask is made once. Every request masks a few
weights of one chunk (mask-only). After each one, what holds is checked on the registry and on the devices; at the end,
receipts are verified as chains.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from faults import Site, cipher_of, now
from federation import SmallTask
from flwr.app import Message
from life import LivingProvider, left, spots
from measured import megabytes, tell
from torch import nn
from weather import FaultyGrid, Weather

from zkapex.circuits.statement import StatementSpec
from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.salts import SaltLedger
from zkapex.proofs.backends.halo2 import opened_by
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.prove import prove_chunk
from zkapex.proofs.jobs.worker import COST, PROOF
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.protocol.states import ClientStatus
from zkapex.simulation.federation.adversaries import CHEATS
from zkapex.unlearning.planning.search import Plan
from zkapex.unlearning.planning.steps import OnStep, no_step

AWAY, DISHONEST = 0.1, 0.1
"""Share of devices that miss any one request, and of those that cheat."""


def request_name(number: int) -> str:
    return f"request-{number:02d}"


def mask_of(request_id: str) -> dict[str, np.ndarray]:
    """Six weights of one row of one chunk, another row for every request."""
    number = int(request_id.rpartition("-")[2])
    column = 6 * (number % 5)
    return spots(("fc2", number % 32, slice(column, column + 6)))


class SoakProvider(LivingProvider):
    """The small provider, whose search runs once."""

    found: Plan | None = None

    def for_request(self, request_id: str) -> SoakProvider:
        return SoakProvider(request_id, self)

    def plan(self, model: nn.Module, statement: StatementSpec, on_step: OnStep = no_step) -> Plan:
        if SoakProvider.found is None:
            SoakProvider.found = super().plan(model, statement, on_step)
        return replace(SoakProvider.found, masks=mask_of(self.request_id))


class Here(DeviceAgent):
    """A device that proves in this process."""

    def prove_chunks(
        self, engine: Engine, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        ledger, circuit = SaltLedger(self.vault), engine.circuit
        assert circuit is not None
        for chunk, folder in folders.items():
            ledger.spend(opened_by(holdings, change, chunk))
            start = time.process_time()
            proof = prove_chunk(circuit, instance.public(chunk), change.witness(holdings, chunk))
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / COST).write_text(json.dumps({"cpu_s": time.process_time() - start, "peak_rss_mb": 0.0}))
            (folder / PROOF).write_bytes(proof)


class Crowd(Site):
    """A site whose devices come, go, and cheat from some request on."""

    def __init__(self, folder: Path, devices: int, requests: int, seed: int) -> None:
        super().__init__(folder, clients=devices, settings={"verify-workers": 0, "backend": "halo2"})
        self.federation.provider = SoakProvider()
        chance = random.Random(seed)
        others = chance.sample(range(devices), k=max(1, round(devices * DISHONEST)) + 2 * (devices // 20))
        dishonest = others[: max(1, round(devices * DISHONEST))]
        rest = others[len(dishonest) :]
        self.cheats = {index: chance.choice(("ignore", "half")) for index in dishonest}
        self.cheats_from = {index: chance.randrange(1, max(2, requests)) for index in dishonest}
        self.comes = {index: chance.randrange(2, max(3, requests)) for index in rest[::2]}
        self.leaves = {index: chance.randrange(2, max(3, requests)) for index in rest[1::2]}
        self.chance, self.number = chance, 0
        self.away: set[int] = set()
        self.tasks = [SmallTask(index, 1) for index in range(devices)]

    def agent(self, index: int) -> DeviceAgent:
        folder = self.state(index)
        cheats = index in self.cheats and self.number >= self.cheats_from[index]
        kind = CHEATS[self.cheats[index]] if cheats else Here
        return kind(folder, self.tasks[index], 1, clock=lambda: now(0), cipher=cipher_of(folder))

    def next_request(self, devices_away: float) -> str:
        self.number += 1
        present = [
            index
            for index in range(self.clients)
            if self.number >= self.comes.get(index, 0) and self.number < self.leaves.get(index, 10**6)
        ]
        self.away = set(range(self.clients)) - set(present)
        self.away |= {index for index in present if self.chance.random() < devices_away}
        return request_name(self.number)

    def grid(self, weather: Weather | None = None) -> FaultyGrid:
        return _Churn(self, weather or Weather())


class _Churn(FaultyGrid):
    """A grid on which devices that are away cannot be reached, which Flower says at once."""

    site: Crowd

    def __init__(self, site: Crowd, weather: Weather) -> None:
        super().__init__(site, weather)
        self.network = lambda message: self._fate(message)

    def _fate(self, message: Message) -> Any:
        from zkapex.transport.grid import Fate

        return Fate.NODE_DOWN if self._partition(message) in self.site.away else Fate.DELIVERED


def soak(
    folder: Path, devices: int, requests: int, seed: int, say: Any = lambda line: None, minutes: float = math.inf
) -> dict[str, Any]:
    """Run it; what was measured. Raises AssertionError if anything that must hold does not.

    After so many minutes the next request is the last one.
    """
    torch.set_num_threads(1)
    site = Crowd(folder, devices, requests, seed)
    process, rows = psutil.Process(), []
    begun = time.monotonic()
    for number in range(1, requests + 1):
        last = number == requests or time.monotonic() - begun > 60 * minutes
        request_id = site.next_request(0.0 if last else AWAY)
        start, cpu = time.monotonic(), time.process_time()
        with site.service() as service:
            grid = site.grid()
            service.carry_out(grid, request_id)
            left_over = service.tick(grid) if last else service.due()
        site.sent.clear()
        gc.collect()
        rows.append(
            {
                "request": request_id,
                "away": len(site.away),
                "wall_s": round(time.monotonic() - start, 1),
                "cpu_s": round(time.process_time() - cpu, 1),
                "rss_mb": round(process.memory_info().rss / 1e6, 1),
                "registry_mb": round(megabytes(folder / "provider", "registry.sqlite*"), 2),
                "server_mb": round(megabytes(folder, "*") - megabytes(folder / "devices", "*"), 2),
                "devices_mb": round(megabytes(folder / "devices", "*"), 2),
                "due": len(left_over),
            }
        )
        say(rows[-1])
        _check(site)
        if last:
            break
    found = _check_end(site, [one.client_id for one in left_over])
    proofs = sum(row["proofs"] for row in found["requests"].values())
    wall = time.monotonic() - begun
    return {
        "devices": devices,
        "requests": len(rows),
        "dishonest": len(site.cheats),
        "proofs": proofs,
        "receipts": found["receipts"],
        "wall_s": round(wall, 1),
        "proofs_per_s": round(proofs / wall, 2),
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "verdicts": found["verdicts"],
        "quarantined": found["quarantined"],
        "rounds": rows,
    }


def _check(site: Crowd) -> None:
    """After every request: no honest client is blamed, no cheat is proved of what it cheated at."""
    cheats = {site.client_id(index): index for index in site.cheats if site.vault(index).has("key.pem")}
    with site.registry() as registry:
        for client in registry.clients():
            if client.status is ClientStatus.QUARANTINED:
                assert client.client_id in cheats, f"an honest client: {client.reason}"
        for request in registry.requests(request_name(site.number)):
            index = cheats.get(request.client_id)
            if index is not None and site.number >= site.cheats_from[index]:
                assert request.verdict != "proved", "a cheat was proved"


def _check_end(site: Crowd, due: list[str]) -> dict[str, Any]:
    """No request is lost, receipts are chains, everything that was deleted is gone; what is left waits for the away."""
    gone = {site.client_id(index) for index in site.leaves if site.vault(index).has("key.pem")}
    assert set(due) <= gone, "something is due from a device that is here"
    verdicts: Counter[str] = Counter()
    requests: dict[str, dict[str, int]] = {}
    proved: dict[str, list[str]] = {}
    with site.registry() as registry:
        registry.verify_trail()
        quarantined = sum(one.status is ClientStatus.QUARANTINED for one in registry.clients())
        for request in registry.requests():
            verdicts[request.verdict or "waiting"] += 1
            row = requests.setdefault(request.request_id, {"clients": 0, "proofs": 0})
            row["clients"] += 1
            row["proofs"] += len(request.proofs)
            if request.verdict == "proved":
                assert not request.missing
                proved.setdefault(request.client_id, []).append(request.request_id)
            elif request.verdict is None:
                assert request.client_id in gone
    receipts = 0
    for chain in verify_chain(site.folder / "receipts", [load_public_key(site.folder / "key.pub")]):
        receipts += len(chain.receipts)
        found = [
            one.bundle.receipt.facts.request_id
            for one in chain.receipts
            if one.bundle.receipt.outcome.verdict == "proved"
        ]
        assert sorted(found) == sorted(proved.get(chain.client_id, []))
    for index in site.honest():
        client_id = site.client_id(index)
        for request_id in proved.get(client_id, []):
            assert left(site.deployed(index), mask_of(request_id)) == 0
    here = [index for index in site.honest() if index not in site.leaves and index not in site.comes]
    missed = {index: found for index in here if (found := _not_proved(site, site.client_id(index)))}
    assert not missed, f"honest devices missed requests: {missed}"
    return {"verdicts": dict(verdicts), "requests": requests, "receipts": receipts, "quarantined": quarantined}


def _not_proved(site: Crowd, client_id: str) -> dict[str, str]:
    """Requests since it became a client that one has not proved, and what became of them instead."""
    with site.registry() as registry:
        mine = {request.request_id: request for request in registry.requests() if request.client_id == client_id}
    first = min(mine, default=request_name(site.number))  # who was away at the first ones became a client later
    names = [name for number in range(1, site.number + 1) if (name := request_name(number)) >= first]
    return {
        name: "never asked" if name not in mine else f"{mine[name].verdict}: {mine[name].reason}"
        for name in names
        if name not in mine or mine[name].verdict != "proved"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then one more request, and that is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zkapex-soak-") as folder:
        say = lambda row: sys.stderr.write(json.dumps(row) + "\n")  # noqa: E731
        found = soak(Path(folder) / "site", given.devices, given.requests, given.seed, say, given.minutes)
    tell(found, given.out)


if __name__ == "__main__":
    main()
