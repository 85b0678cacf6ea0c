"""The Flower app of a simulation: the product's own ServerApp and ClientApp over a scenario."""

from __future__ import annotations

from zkapex.client.app import make_client_app
from zkapex.server.app import make_server_app
from zkapex.simulation.federation.device import agent
from zkapex.simulation.federation.provider import provider

server = make_server_app(provider)
client = make_client_app(agent)
