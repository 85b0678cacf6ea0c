"""What can happen to messages between server and devices."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from federation import step_of
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Proto

from zkapex.client.app import make_client_app
from zkapex.transport.grid import InProcessGrid, reliable

if TYPE_CHECKING:
    from faults import Site

KINDS = ("lost", "reply lost", "twice", "late", "out of order", "garbage", "old")


@dataclass
class Weather:
    """What becomes of messages: one of `kinds` happens to each with probability `rate`.

    Attributes
    ----------
    seed : int
    rate : float
    kinds : tuple of str
    old : list
        Messages of earlier campaigns, (device, type, content), that a link may deliver again.
    spared : tuple of str
        Steps to which nothing happens.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    old: list[tuple[int, str, bytes]] = field(default_factory=list)
    spared: tuple[str, ...] = ()
    happened: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def over(self, message: Message) -> str:
        """What happens to a message; empty: it arrives, and so does its answer."""
        if step_of(message) in self.spared or self.rng.random() >= self.rate:
            return ""
        what = self.rng.choice(self.kinds)
        self.happened.append((what, step_of(message)))
        return what


class FaultyGrid(InProcessGrid):
    """A grid in some weather."""

    def __init__(self, site: Site, weather: Weather) -> None:
        self.weather, self.site = weather, site
        self.waiting: list[tuple[Message, bool]] = []
        """Messages that were held back, and whether they come after the next one."""
        app = make_client_app(lambda context: site.watched(int(context.node_config["partition-id"])))
        super().__init__(app, site.clients, site.federation.config, reliable)

    def _deliver(self, message: Message) -> Message | None:
        self.site.sent.append((self._partition(message), message.metadata.message_type, to_bytes(message.content)))
        after = [held for held, later in self.waiting if later]
        for held, later in self.waiting:
            if not later:
                super()._deliver(held)  # and whoever asked has long given up
        self.waiting = []
        what = self.weather.over(message)
        reply: Message | None = None
        if what in ("late", "out of order"):
            self.waiting.append((message, what == "out of order"))
        elif what == "old" and self.weather.old:
            mine = [one for one in self.weather.old if one[0] == self._partition(message)]
            _, kind, content = self.weather.rng.choice(mine)
            super()._deliver(self._message(message, kind, content))
            reply = self._answer(message)
        elif what != "lost":
            reply = self._answer(message)
            if what == "twice":
                reply = self.weather.rng.choice([reply, self._answer(message)])
            if what == "garbage" and reply is not None:
                reply = garbage(message, reply, self.weather.rng)
        for held in after:
            super()._deliver(held)
        return None if what == "reply lost" else reply

    def calm(self) -> None:
        """What is still on its way arrives."""
        for held, _ in self.waiting:
            super()._deliver(held)
        self.waiting = []

    def _answer(self, message: Message) -> Message | None:
        self.site.died = False
        reply = super()._deliver(message)
        return None if self.site.died else reply

    def _partition(self, message: Message) -> int:
        return list(self._contexts).index(message.metadata.dst_node_id)

    def _message(self, like: Message, kind: str, content: bytes) -> Message:
        return Message(from_bytes(content), like.metadata.dst_node_id, kind)


def garbage(message: Message, reply: Message, rng: random.Random) -> Message:
    """An answer that nobody can read, in one of the ways there are."""
    content = RecordDict() if not reply.has_content() else from_bytes(to_bytes(reply.content))
    way = rng.randrange(5)
    if way == 0:
        content = RecordDict()
    elif way == 1:
        content["zkapex.record"] = ConfigRecord({"wire": 1, "kind": "delivery", "body": rng.randbytes(300)})
    elif way == 2:
        content["zkapex.record"] = ConfigRecord({"wire": 99, "kind": "delivery", "body": b"{}"})
    elif way == 3:
        content["more"] = ConfigRecord({"x": rng.randbytes(30)})
    else:
        return Message(Error(2, "ClientAppException:<'" + "\x00\u202e" * 30 + "'>"), reply_to=message)
    reply.content = content
    return reply


def to_bytes(content: RecordDict) -> bytes:
    return recorddict_to_proto(content).SerializeToString(deterministic=True)


def from_bytes(data: bytes) -> RecordDict:
    proto = Proto()
    proto.ParseFromString(data)
    return recorddict_from_proto(proto)
