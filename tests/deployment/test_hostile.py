"""Somebody submits a bundle with code that reads keys: it runs nowhere, and devices say so."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from deployed import Deployed, wait_for
from flwr.cli.build import build_fab_from_files

from zkapex.server.deployment.link import SuperLink
from zkapex.server.deployment.settings import Place, load

PROJECT = """
[project]
name = "zkapex-deployed"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "zkapex"
[tool.flwr.app.components]
serverapp = "evil:server"
clientapp = "evil:client"
[tool.flwr.app.config]
"""
CODE = """
import glob, pathlib
pathlib.Path("{marker}").write_text("".join(open(name).read() for name in glob.glob("{root}/*/node.key")))
from flwr.serverapp import ServerApp
from flwr.clientapp import ClientApp
server, client = ServerApp(), ClientApp()
@server.main()
def main(grid, context): pass
"""


def bundle(marker: Path, root: Path) -> bytes:
    """It has our bundle's name and version, and code."""
    code = CODE.format(marker=marker, root=root).encode()
    return build_fab_from_files({"pyproject.toml": PROJECT.encode(), "evil.py": code})[0]


@pytest.mark.slow
def test_a_hostile_bundle_runs_nowhere(tmp_path: Path) -> None:
    with Deployed(tmp_path) as here:
        settings = load(here.server)
        marker = tmp_path / "stolen"
        with SuperLink(settings.link.port, Place(here.server).link / "ca.pem") as link:
            run = link.submit({}, bundle(marker, tmp_path))
            wait_for(lambda: link.state(run).over, 120, "the end of the run")
            state = link.state(run)
        assert state.sub_status == "failed"
        assert "a bundle was refused" in state.details
        assert not marker.exists()
        assert not list((here.server / "provider" / "home").rglob("evil.py")), "nothing of it was unpacked"
        context = ssl.create_default_context(cafile=str(here.ca))
        for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/fleet/../control/list-runs"):
            assert httpx.post(f"https://{here.address}{path}", verify=context).status_code == 403
