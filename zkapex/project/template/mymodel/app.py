"""Both sides as a Flower app, to try them on one machine. A deployment names `task.py` and `provider.py` instead."""

from pathlib import Path

from flwr.app import Context
from mymodel.provider import Provider
from mymodel.task import Task

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import make_client_app
from zkapex.client.holder import plan_for_holder
from zkapex.server.app import make_server_app


def make_provider(context: Context) -> Provider:
    """The provider of a run."""
    return Provider(context.run_config)


def make_agent(context: Context) -> DeviceAgent:
    """One device of a run: its number comes from Flower, its state is a folder."""
    index = int(context.node_config["partition-id"])
    folder = Path(str(context.run_config["work-dir"])) / "devices" / f"{index:03d}"
    mine = Task(index, int(context.run_config["forget-class"]))
    return DeviceAgent(folder, mine, workers=1, planner=plan_for_holder)


server = make_server_app(make_provider)
client = make_client_app(make_agent)
