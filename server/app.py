"""The ServerApp that Flower runs for a provider: the environment names who the provider is, the run says what to do."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from zkapex.errors import InputError
from zkapex.server.events import COMPLETED, EventLog
from zkapex.server.federation.provider import Provider
from zkapex.server.federation.settings import RunSettings
from zkapex.server.service import run

PROVIDER_VARIABLE: Final = "ZKAPEX_PROVIDER"
"""Environment variable of the server naming its provider as ``module:factory``."""

ProviderFactory = Callable[[Context], Provider]
"""Makes the provider of a run; ``Context`` holds ``run_config``."""


def make_server_app(provider_factory: ProviderFactory) -> ServerApp:
    """The ServerApp that carries out a run with the provider the factory makes."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        work_dir = Path(str(context.run_config["work-dir"]))
        with EventLog(work_dir) as events:
            events.emit("run.started", settings=dict(context.run_config))
            settings = RunSettings.from_config(context.run_config)
            run(grid, provider_factory(context), settings, work_dir, events)
            events.emit(COMPLETED)

    return server_app


def provider_of_this_server(context: Context) -> Provider:
    """Make the provider that this server's environment names.

    Raises
    ------
    InputError
        :data:`PROVIDER_VARIABLE` is not set or does not name a factory.
    """
    reference = os.environ.get(PROVIDER_VARIABLE, "")
    module, _, name = reference.partition(":")
    try:
        factory: ProviderFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{PROVIDER_VARIABLE}={reference!r} does not name this server's provider",
            why=str(error),
            fix=f"set {PROVIDER_VARIABLE}=module:factory in the environment of the SuperLink",
        ) from None
    return factory(context)


app = make_server_app(provider_of_this_server)
