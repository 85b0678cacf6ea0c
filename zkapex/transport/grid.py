"""An in-process Flower grid: the real ServerApp against the real ClientApp, without SuperLink, Ray or processes.

Replies, missing replies and error replies are those of Flower 1.42: an exception in the ClientApp is error code 2 from
the node; a message the SuperLink does not know (any more) is code 3, a reply that expired is code 4 and a node that
stopped answering is code 5, and those three come from the SuperLink's own node ID, so that only ``reply_to_message_id``
tells which message they answer. Every message passes through Flower's serialisation, in both directions.

What goes wrong on the way is decided by a :data:`Network`, one :class:`Fate` for each message.
"""

from __future__ import annotations

import enum
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import ClientAppException
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from zkapex.transport.app import installed_app, run_config_of

_RUN_ID: Final = 1
_TASK_ID: Final = 1


class Fate(enum.Enum):
    """What becomes of one message to a node."""

    DELIVERED = enum.auto()
    """The node gets it and its reply arrives."""

    REQUEST_LOST = enum.auto()
    """The node never gets it: no reply within the timeout (without one: code 4 when the message has expired)."""

    REPLY_LOST = enum.auto()
    """The node gets it and acts, but its reply does not arrive: what idempotence is for."""

    NODE_DOWN = enum.auto()
    """The node has stopped reporting to the SuperLink: code 5."""


Network = Callable[[Message], Fate]


def reliable(_: Message) -> Fate:
    """The network on which every message arrives."""
    return Fate.DELIVERED


def run_config_of_app(overrides: Mapping[str, str | int | float | bool]) -> UserConfig:
    """The settings of a run of the installed app, see `zkapex.transport.app.run_config_of`."""
    return dict(run_config_of(installed_app(), overrides))


class InProcessGrid(Grid):
    """Flower's grid over ClientApps called directly, one after the other.

    Parameters
    ----------
    client_app : ClientApp
        The app every node runs. Its ``Context`` (with ``state``) is kept per node.
    num_supernodes : int
        Number of nodes; node ``i`` has ``partition-id = i`` in its ``node_config``.
    run_config : UserConfig
        Settings of the run, see :func:`run_config_of_app`.
    network : Network
        Decides the fate of every message to a known node.
    """

    def __init__(
        self, client_app: ClientApp, num_supernodes: int, run_config: UserConfig, network: Network = reliable
    ) -> None:
        self.network = network
        self.sent: list[Message] = []
        """Every message that was pushed, in order, whatever became of it."""
        self._client_app = client_app
        self._run = Run.create_empty(_RUN_ID)
        self._replies: dict[str, Message | None] = {}
        # As the SuperLink's: large and without meaning, but the same in every test.
        identities = random.Random(num_supernodes)  # noqa: S311
        self._contexts = {
            (node := identities.getrandbits(63)): Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={PARTITION_ID_KEY: partition, NUM_PARTITIONS_KEY: num_supernodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for partition in range(num_supernodes)
        }
        # The constructor of Message takes the sender's identity from here.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN_ID, SUPERLINK_NODE_ID, _TASK_ID

    def restart_node(self, node_id: int) -> None:
        """Forget a node's ``Context.state``, as when its SuperNode is started anew. What is on its disk stays."""
        self._contexts[node_id].state = RecordDict()

    def set_run(self, run: Run) -> None:
        """Set the run; the grid makes one of its own, so nobody needs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message; Flower has deprecated this in favour of the constructor of ``Message``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """IDs of all nodes in the order of their partitions, reachable or not: Flower notices late."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver the messages, one after the other, and keep the replies."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self.sent.append(message)
            ids.append(message.metadata.message_id)
            self._replies[message.metadata.message_id] = self._deliver(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out, once, the replies that have arrived."""
        replies = []
        for message_id in list(message_ids):
            if message_id not in self._replies:
                replies.append(_superlink_error(message_id, ErrorCode.MESSAGE_UNAVAILABLE, "Message Unavailable"))
            elif (reply := self._replies[message_id]) is not None:
                del self._replies[message_id]
                replies.append(reply)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies; with a timeout, those that are missing are just not among them.

        Nothing waits: a lost message is known to be lost at once. Without a timeout Flower waits until the message has
        expired, and reports that as code 4.
        """
        ids = list(self.push_messages(messages))
        replies = list(self.pull_messages(ids))
        if timeout is None:
            answered = {reply.metadata.reply_to_message_id for reply in replies}
            reason = "Reply Message Unavailable"
            expired = [message_id for message_id in ids if message_id not in answered]
            replies += [_superlink_error(one, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason) for one in expired]
        return replies

    def _deliver(self, message: Message) -> Message | None:
        message_id = message.metadata.message_id
        context = self._contexts.get(message.metadata.dst_node_id)
        if context is None:
            return _superlink_error(message_id, ErrorCode.MESSAGE_UNAVAILABLE, "Message Unavailable")
        fate = self.network(message)
        if fate is Fate.NODE_DOWN:
            return _superlink_error(message_id, ErrorCode.NODE_UNAVAILABLE, "Node Unavailable")
        if fate is Fate.REQUEST_LOST:
            return None
        received = Message(_copy(message.content), message.metadata.dst_node_id, message.metadata.message_type)
        received.__dict__["_metadata"] = message.metadata
        try:
            reply = self._client_app(received, context)
        except Exception as error:  # the node reports whatever its app raises
            # The words of flwr.simulation.ray_transport.ray_actor and of the simulation's worker.
            raised = ClientAppException(str(error))
            failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(raised)}:<'{raised}'>")
            reply = Message(failure, reply_to=message)
        else:
            reply.content = _copy(reply.content)
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return None if fate is Fate.REPLY_LOST else reply


def run_in_process(
    server_app: ServerApp, grid: InProcessGrid, run_config: Mapping[str, str | int | float | bool]
) -> None:
    """Run a ServerApp to its end on the grid, with the same ``run_config`` the grid's clients have."""
    context = Context(
        run_id=_RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )
    server_app(grid, context)


def _copy(content: RecordDict) -> RecordDict:
    """The content as it comes out at the other end of a connection."""
    return recorddict_from_proto(recorddict_to_proto(content))


def _superlink_error(message_id: str, code: int, reason: str) -> Message:
    """An error reply that the SuperLink makes up itself."""
    unknown = Message(RecordDict(), SUPERLINK_NODE_ID, "system")
    unknown.metadata.__dict__["_message_id"] = message_id
    return Message(Error(code, f"Error: {reason}"), reply_to=unknown)
