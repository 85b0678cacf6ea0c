"""The Flower app of a simulation: the product's own ServerApp and ClientApp over the digits scenario."""

from __future__ import annotations

from zkapex.client.app import make_client_app
from zkapex.server.app import make_server_app
from zkapex.simulation.digits import agent, provider

server = make_server_app(provider)
client = make_client_app(agent)
