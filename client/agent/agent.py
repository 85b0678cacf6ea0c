"""The device's side of the protocol: answers each message, keeps its state on disk, trusts nothing it is sent.

Every step is a module of its own beside this one; `STEPS` says which. Every answer may be asked for again after a crash
on either side: a step that was done is answered from disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from filelock import FileLock, Timeout
from flwr.app import RecordDict

from zkapex.client.agent.enrol import enrol
from zkapex.client.agent.evaluate import evaluate
from zkapex.client.agent.identify import identify
from zkapex.client.agent.personalise import personalise
from zkapex.client.agent.proposal import Planner
from zkapex.client.agent.propose import propose
from zkapex.client.agent.prove import prove
from zkapex.client.agent.receipt import receipt
from zkapex.client.agent.train import train
from zkapex.client.agent.tune import tune
from zkapex.client.agent.unlearn import unlearn
from zkapex.client.state.cipher import Cipher
from zkapex.client.state.holdings import Change, Holdings
from zkapex.client.state.key import device_key
from zkapex.client.state.memory import Memory
from zkapex.client.state.salts import SaltLedger
from zkapex.client.state.trust import Trust
from zkapex.client.state.vault import Vault
from zkapex.client.task import Forgets, ManyRequests, Task
from zkapex.errors import ProtocolError, StorageError
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.records.signing import key_id
from zkapex.unlearning.accelerator import CPU, torch_device
from zkapex.unlearning.operators import operator

Step = Callable[["DeviceAgent", RecordDict], RecordDict]

STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "identify": identify,
        "personalise": personalise,
        "enrol": enrol,
        "propose": propose,
        "unlearn": unlearn,
        "prove": prove,
        "evaluate": evaluate,
        "receipt": receipt,
        "tune": tune,
    }
)
"""What a device does when it is asked, by the name of the step; training is a message of Flower's own."""

LOCK, LOCK_TIMEOUT_S = ".agent.lock", 3600.0


def utc_now() -> datetime:
    """The clock, as it is unless a test injects another."""
    return datetime.now(UTC)


class DeviceAgent:
    """Carries out the protocol for one device.

    Parameters
    ----------
    folder : Path
        The device's state; created when missing.
    task : Task
        Model and private data.
    workers : int, optional
        Proving processes; default one per core.
    clock : callable
        Returns the time, timezone-aware UTC.
    planner : Planner, optional
        Chooses the mask if this device holds what is to be forgotten; without one it cannot be asked to.
    device : str
        What the repair is solved on, as torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    cipher : Cipher, optional
        Encrypts the state.

    Raises
    ------
    InputError
        This machine has no such device.
    """

    steps: ClassVar[Mapping[str, Step]] = STEPS

    def __init__(
        self,
        folder: Path,
        task: Task,
        workers: int | None = None,
        clock: Callable[[], datetime] = utc_now,
        planner: Planner | None = None,
        device: str = CPU,
        cipher: Cipher | None = None,
    ) -> None:
        torch_device(device)
        self.vault = Vault(folder, cipher)
        self.vault.create()
        self.task = task
        self.workers = workers
        self.clock = clock
        self.planner = planner
        self.device = device
        self.key = device_key(self.vault)
        self.client_id = key_id(self.key.public_key())
        self.memory = Memory(self.vault, self.key, task.build_model)
        self.trust = Trust(self.vault)

    def train(self, content: RecordDict) -> RecordDict:
        """One round of federated training."""
        return train(self, content)

    def answer(self, query: str, content: RecordDict) -> RecordDict:
        """Carry out one step, alone in the device's folder; see `STEPS`.

        Raises
        ------
        ProtocolError
            There is no such step.
        StorageError
            Another process has been at work on the folder for an hour.
        """
        step = self.steps.get(query)
        if step is None:
            raise ProtocolError(f"this release knows no step {query!r}", fix="update the device")
        try:
            with FileLock(self.vault.folder / LOCK, timeout=LOCK_TIMEOUT_S, mode=0o600):
                self.memory.recover()
                self.memory.expire(self.clock())
                return step(self, content)
        except Timeout as e:
            raise StorageError(f"another process works in {self.vault.folder}", fix="stop it") from e

    def task_of(self, request_id: str) -> Task:
        """The task, as far as it is about one request."""
        return self.task.for_request(request_id) if isinstance(self.task, ManyRequests) else self.task

    @property
    def present_task(self) -> Task:
        """The task with the data that are still there: without what requests this device has carried out deleted."""
        ids = self.memory.carried_out()
        return self.task.without(ids) if ids and isinstance(self.task, Forgets) else self.task

    # -- what a misbehaving device would do differently; the simulation's adversaries override it ----------------------

    def held_zero(self) -> dict[str, torch.Tensor]:
        """What personalisation leaves at zero."""
        return self.memory.held_zero()

    def change(self, holdings: Holdings, instance: Instance, name: str) -> Change:
        """The exact operator on the committed weights."""
        weights, mu = operator(name, self.device).apply(holdings, instance)
        return Change.create(weights, mu, instance.touched)

    def prove_chunks(
        self, engine: Engine, instance: Instance, holdings: Holdings, change: Change, folders: Mapping[int, Path]
    ) -> None:
        """Leave a proof in the folder of every chunk."""
        ledger = SaltLedger(self.vault)
        opened = {folder: engine.opened_by(instance, holdings, change, chunk) for chunk, folder in folders.items()}
        ledger.require([vectors for vectors, _ in opened.values()], [what for _, what in opened.values()])
        for chunk, folder in folders.items():
            Vault(folder).create()
            engine.write_job(folder, instance, holdings, change, chunk)
        engine.prove_jobs(list(folders.values()), self.workers, lambda folder: ledger.spend(*opened[folder]))
