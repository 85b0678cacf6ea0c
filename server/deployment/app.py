"""The ServerApp of a deployed server: its own configuration says what it is, nothing that came with a run does."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from zkapex.errors import InputError
from zkapex.server.deployment.campaign import campaign
from zkapex.server.deployment.programs import FOLDER_VARIABLE
from zkapex.server.deployment.settings import Place, load

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One campaign of the server that this process belongs to.

    Raises
    ------
    InputError
        This process belongs to none.
    """
    root = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if not root.is_absolute():
        raise InputError(f"{FOLDER_VARIABLE} does not name this server's folder", fix="start it by zkapex server run")
    campaign(grid, Place(root), load(root), str(context.run_config.get("campaign", "")))
