"""The ClientApp that Flower runs on a device: routes each message to the device's agent.

Flower routes by message type: ``train`` is a round of federated training, every other step of the protocol is a query
(``query.enrol``, ``query.unlearn``, ...). All of them end in one :class:`Agent`, which holds the device's data, and its
keys and state on disk. Flower's own ``Context.state`` is not used: it is lost when a SuperNode restarts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Final, Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from zkapex.errors import Error, InputError

AGENT_VARIABLE: Final = "ZKAPEX_AGENT"
"""Environment variable of the *device* naming its agent as ``module:factory``. A server cannot set it."""

QUERIES: Final = ("identify", "personalise", "enrol", "propose", "unlearn", "prove", "evaluate", "receipt", "tune")
"""Steps of the protocol beyond training; the message type of each is ``query.<step>``."""


class Agent(Protocol):
    """What a device does when the server asks."""

    def train(self, content: RecordDict) -> RecordDict:
        """Train the global model on the device's data and return weights and metrics as FedAvg expects them."""
        ...

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """Carry out one step of the protocol (one of :data:`QUERIES`) and return the reply."""
        ...


AgentFactory = Callable[[Context], Agent]
"""Makes the agent for one message; ``Context`` holds ``node_config`` and ``run_config``. State lives on disk."""


class DeviceError(Exception):
    """What a device reports when it cannot carry out a step."""


def described(error: Error) -> str:
    """An error in one line that a server can read: its class, what, why and fix."""
    why = f" ({error.why})" if error.why else ""
    fix = f" [{error.fix}]" if error.fix else ""
    return " ".join(f"{type(error).__name__}: {error.what}{why}{fix}".split())


def make_client_app(agent_factory: AgentFactory) -> ClientApp:
    """Make the ClientApp of a device.

    An exception from the agent becomes Flower's error reply (code 2) whose reason carries its text, and of an error of
    zkapex its class, why and fix.
    """
    client_app = ClientApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(agent_factory(context).train(message.content), reply_to=message)

    def register(query: str) -> None:
        @client_app.query(query)
        def answer(message: Message, context: Context) -> Message:
            try:
                return Message(agent_factory(context).answer(query, message.content), reply_to=message)
            except Error as error:
                raise DeviceError(described(error)) from error

    for query in QUERIES:
        register(query)
    return client_app


def agent_of_this_device(context: Context) -> Agent:
    """Make the agent that this device's environment names.

    Raises
    ------
    InputError
        :data:`AGENT_VARIABLE` is not set or does not name a factory.
    """
    reference = os.environ.get(AGENT_VARIABLE, "")
    module, _, name = reference.partition(":")
    try:
        factory: AgentFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{AGENT_VARIABLE}={reference!r} does not name this device's agent",
            why=str(error),
            fix=f"set {AGENT_VARIABLE}=module:factory in the environment of the SuperNode",
        ) from None
    return factory(context)


app = make_client_app(agent_of_this_device)
