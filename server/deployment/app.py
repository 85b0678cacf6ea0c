"""The ServerApp of a deployed server: one campaign. What it does follows from the server's own folder.

A campaign asks whoever is online for whatever is due, and ends. It may be killed at any moment, and the next one goes
on; two at a time are refused by the federation's lock.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from zkapex.errors import InputError
from zkapex.server.deployment.campaign import campaign
from zkapex.server.deployment.programs import FOLDER_VARIABLE
from zkapex.server.deployment.settings import Place, load
from zkapex.server.federation.provider import Provider

Options = Mapping[str, str | int | float | bool]
ProviderFactory = Callable[[Options, Callable[[str], Options]], Provider]
"""Makes the provider, from the options in the server's configuration and what an operator's request says, by its id."""

CAMPAIGN: Final = "campaign"


def provider_of(reference: str) -> ProviderFactory:
    """The factory that a configuration names as ``module:factory``.

    Raises
    ------
    InputError
        There is none of this name.
    """
    module, _, name = reference.partition(":")
    try:
        factory: ProviderFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{reference} names no provider of this server", why=str(error), fix="correct provider in zkapex.toml"
        ) from None
    return factory


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One campaign of the server whose folder this process's environment names."""
    root = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if not root.is_absolute():
        raise InputError(f"{FOLDER_VARIABLE} does not name this server's folder", fix="start it by zkapex server run")
    settings = load(root)
    campaign(grid, Place(root), settings, provider_of(settings.provider), str(context.run_config.get(CAMPAIGN, "")))
