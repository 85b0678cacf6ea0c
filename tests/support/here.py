"""A server and its devices without processes between them: real campaigns over encrypted devices, on any clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flwr.app import Context

from zkapex.client.app import Agent, make_client_app
from zkapex.client.deployment.app import agent_of_folder
from zkapex.client.deployment.init import create_device
from zkapex.client.deployment.settings import DeviceSettings
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.deployment.campaign import campaign
from zkapex.server.deployment.init import create_server
from zkapex.server.deployment.keys import public_keys
from zkapex.server.deployment.outcomes import Outcome
from zkapex.server.deployment.requests import Order, OrderBook, utc_text
from zkapex.server.deployment.settings import Campaigns, ServerSettings
from zkapex.server.deployment.work import Work, work
from zkapex.transport.grid import Fate, InProcessGrid, Network, reliable

SETTINGS = ServerSettings(
    host="localhost",
    provider="small_deployed:provider",
    run={"operator": "mask-only", "backend": "transparent", "rounds": 1, "personal-epochs": 1, "timeout-s": 5},
    campaigns=Campaigns(devices=2),
)
DEVICE = DeviceSettings(server="localhost:9092", task="small_deployed:task", max_cpu=1)


class Here:
    """A server and two devices, without processes between them."""

    def __init__(self, root: Path, devices: int = 2, database: str = "", **run: str | int) -> None:
        changed = {"campaigns": Campaigns(devices=devices), "database": database, "run": {**SETTINGS.run, **run}}
        self.settings = SETTINGS.model_copy(update=changed)
        self.place = create_server(root / "server", self.settings)
        self.devices = [root / f"device{index}" for index in range(devices)]
        self.network: Network = reliable
        self.now = datetime.now(UTC)
        key = self.place.federation / "key.pub"
        for index, device in enumerate(self.devices):
            mine = DEVICE.model_copy(update={"options": {"index": index}})
            create_device(device, mine, self.place.link / "ca.pem", key)

    def grid(self, devices: int | None = None) -> InProcessGrid:
        def agent(context: Context) -> Agent:
            return agent_of_folder(self.devices[int(context.node_config["partition-id"])])

        return InProcessGrid(make_client_app(agent), devices or len(self.devices), {}, self.network)

    def campaign(self, name: str = "", devices: int | None = None) -> Outcome:
        return campaign(self.grid(devices), self.place, self.settings, name, lambda: self.now)

    def order(self, request_id: str, mask: str) -> None:
        due = utc_text(self.now + timedelta(days=30))
        OrderBook(self.place.requests).create(
            Order(request_id, {"mask": mask}, "gdpr-17-erasure", "", utc_text(self.now), due)
        )

    def work(self, *online: int) -> list[Work]:
        return work(self.place, self.settings, online, self.now)

    def chains(self) -> list[list[str]]:
        keys = [load_public_key(path) for path in public_keys(self.place)]
        found = verify_chain(self.place.federation / "receipts", keys)
        return sorted([v.bundle.receipt.outcome.verdict for v in chain.receipts] for chain in found)


def without(node: int) -> Network:
    return lambda message: Fate.NODE_DOWN if message.metadata.dst_node_id == node else Fate.DELIVERED
