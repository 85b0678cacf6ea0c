"""Somebody submits a bundle with code that reads keys: it runs nowhere, and devices say so."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import httpx
import pytest
from deployed import Deployed, wait_for
from flwr.cli.build import build_fab_from_files

from zkapex.host.files import open_to_others
from zkapex.server.deployment.link import SuperLink
from zkapex.server.deployment.settings import Place, load, save

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
import glob, pathlib, sys
root = pathlib.Path("{root}")
stolen = "".join(open(name).read() for name in glob.glob(str(root / "*" / "node.key")))
(root / ("stolen-by-" + pathlib.Path(sys.argv[0]).name)).write_text(stolen)
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp
from flwr.clientapp import ClientApp
server, client = ServerApp(), ClientApp()
@server.main()
def main(grid, context):
    asked = [Message(RecordDict(), node, "query.identify") for node in grid.get_node_ids()]
    answers = list(grid.send_and_receive(asked, timeout=120))
    said = [answer.error.reason if answer.has_error() else "it answered" for answer in answers]
    (root / "said").write_text("\\n".join(str(one) for one in said))
@client.query("identify")
def answer(message, context):
    return Message(RecordDict(), reply_to=message)
"""


def bundle(root: Path) -> bytes:
    """It has our bundle's name and version, and code."""
    return build_fab_from_files({"pyproject.toml": PROJECT.encode(), "evil.py": CODE.format(root=root).encode()})[0]


def ended(here: Deployed, content: bytes, seconds: float) -> tuple[str, str]:
    """How a run of a bundle ends, and what is said of it."""
    settings = load(here.server)
    with SuperLink(settings.link.port, Place(here.server).link / "ca.pem") as link:
        run = link.submit({}, content)
        wait_for(lambda: link.state(run).over, seconds, "the end of the run")
        state = link.state(run)
    return state.sub_status, state.details


@pytest.mark.slow
def test_a_hostile_bundle_runs_on_no_server(tmp_path: Path) -> None:
    with Deployed(tmp_path) as here:
        status, details = ended(here, bundle(tmp_path), 120)
        assert status == "failed"
        assert "a bundle was refused" in details + here.log(here.server, "superexec")
        assert not list(tmp_path.glob("stolen-by-*"))
        assert not list((here.server / "provider" / "home").rglob("evil.py")), "nothing of it was unpacked"
        context = ssl.create_default_context(cafile=str(here.ca))
        for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/fleet/../control/list-runs"):
            assert httpx.post(f"https://{here.address}{path}", verify=context).status_code == 403
        assert "gate.refused" in here.log(here.server, "gate")
        # Whatever Flower creates, too, its database among it.
        assert (here.server / "link" / "state.db").exists()
        assert open_to_others(here.server) == open_to_others(here.devices[0]) == []


@pytest.mark.slow
def test_a_device_runs_no_bundle_that_it_has_not_pinned_even_if_the_server_does(tmp_path: Path) -> None:
    """A provider that is hostile, or was taken over: its own code runs on its server, and nowhere else."""
    content = bundle(tmp_path)
    here = Deployed(tmp_path)
    pinned = load(here.server).model_copy(update={"bundles": (hashlib.sha256(content).hexdigest(),)})
    save(here.server, pinned)
    with here:
        status, details = ended(here, content, 240)
        assert status == "completed", details
        assert "a bundle was refused" in (tmp_path / "said").read_text()
        assert [path.name for path in tmp_path.glob("stolen-by-*")] == ["stolen-by-flwr-serverapp"]
        assert not list((here.devices[0] / "home").rglob("evil.py")), "nothing of it was unpacked"
