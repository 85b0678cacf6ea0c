"""The ClientApp of a deployed device: its own configuration says what it is, nothing that came with a run does."""

from __future__ import annotations

import importlib
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context

from zkapex.client.agent.agent import DeviceAgent
from zkapex.client.app import Agent, make_client_app
from zkapex.client.deployment.journal import Journalled
from zkapex.client.deployment.resources import may_work
from zkapex.client.deployment.settings import FOLDER_VARIABLE, Place, load
from zkapex.client.holder import plan_for_holder
from zkapex.client.state.cipher import find_secret, open_state
from zkapex.client.task import Task
from zkapex.errors import InputError
from zkapex.host.journal import Journal

TaskFactory = Callable[[Mapping[str, str | int | float | bool]], Task]
"""Makes model and data of a device from the options in its configuration."""


def agent_of_folder(root: Path) -> DeviceAgent:
    """The agent of the device in a folder.

    Raises
    ------
    InputError
        There is no device, its key is not here, or its configuration names no task.
    StorageError
        Its state is damaged.
    """
    place, settings = Place(root), load(root)
    secret = find_secret(Path(settings.key_file) if settings.key_file else None, place.root / "state.key")
    cipher = open_state(place.state, secret)
    return DeviceAgent(
        place.state, task_of(settings.task)(settings.options), settings.max_cpu or None,
        planner=plan_for_holder, cipher=cipher,
    )  # fmt: skip


def task_of(reference: str) -> TaskFactory:
    """The factory that a configuration names as ``module:factory``.

    Raises
    ------
    InputError
        There is none of this name.
    """
    module, _, name = reference.partition(":")
    try:
        factory: TaskFactory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{reference} names no task of this device", why=str(error), fix="correct task in device.toml"
        ) from None
    return factory


def deployed_agent(_: Context) -> Agent:
    """The agent of this process's device, within the limits of its configuration; it keeps a journal."""
    root = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if not root.is_absolute():
        raise InputError(f"{FOLDER_VARIABLE} does not name this device's folder", fix="start it by zkapex device run")
    settings = load(root)
    may_work(settings.windows)
    os.nice(max(0, 10 - os.getpriority(os.PRIO_PROCESS, 0)))
    if settings.max_memory_mb:
        limit = settings.max_memory_mb * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if settings.max_cpu:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.max_cpu])
    agent = agent_of_folder(root)
    return Journalled(agent, Journal(Place(root).logs / "device.jsonl"), agent.client_id)


app = make_client_app(deployed_agent)
