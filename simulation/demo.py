"""The demo: one simulated federation from training to receipts, beside an oracle that was retrained without the data.

The protocol runs in Flower; this module starts it, follows it, trains the oracle, and sums up. Its folder::

    demo.json           settings, and whether it finished
    result.json         the ServerApp's account; summary.json: what `zkapex demo --json` prints
    receipts/<client>/  key.pub     receipts with their proofs, and the key they are signed with
    models/             the global model and every client's, before and after
    plot.png            accuracy before, on the way, after, and of the oracle
    provider/ devices/  state of the provider and of the simulated devices
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zkapex.circuits.profiles import CURVATURES, KINDS
from zkapex.client.personalise import FitSettings
from zkapex.errors import InputError, StorageError
from zkapex.server.run import AUDITS, check_operator
from zkapex.server.storage import load_json, save_text
from zkapex.simulation.adversaries import CHEATS, check_cheat
from zkapex.simulation.digits import scenario
from zkapex.simulation.held import Request
from zkapex.simulation.launch import installed_app, run_flower, settings_of
from zkapex.simulation.oracle import evaluate, mean, oracle
from zkapex.simulation.plots import plot_accuracy

MARKER, SUMMARY = "demo.json", "summary.json"
STATES = ("before", "masked", "after")
DATA_SETS = ("forget", "retain", "personal")
ARTEFACTS = (
    "result.json", SUMMARY, "receipts", "key.pub", "models", "plot.png", "provider", "devices", "flower",
    "events.jsonl", "global-unlearned.npz", "oracle.json", MARKER,
)  # fmt: skip


@dataclass(frozen=True)
class DemoSettings:
    """What the demo can be told.

    Attributes
    ----------
    clients : int
    dishonest : int
        How many of them cheat.
    cheat : str
        How, see `zkapex.simulation.adversaries.CHEATS`.
    delete : str
        ``class``, ``client`` or ``samples``.
    forget_class : int
        The digit to forget.
    holder : int
        The client that holds what is to be forgotten and chooses mask and guard; -1 for the provider.
    forget_samples : int
        How many of the holder's samples to forget.
    seed : int
    operator, curvature : str
        What is done to the weights, see ``docs/operators.md``.
    audit : str
        ``full`` or ``sampled``.
    audit_detect, audit_cheating : float
        A sampled audit finds out a client that leaves this fraction of its touched chunks undone with this probability.
    prove_curvature : bool
        Whether clients prove what their curvature was made of.
    """

    clients: int = 4
    dishonest: int = 1
    cheat: str = "half"
    delete: str = "class"
    forget_class: int = 3
    holder: int = -1
    forget_samples: int = 30
    seed: int = 0
    operator: str = "guarded-group-obs"
    curvature: str = "kfac"
    audit: str = "full"
    audit_detect: float = 0.99
    audit_cheating: float = 0.01
    prove_curvature: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.clients <= 60:
            raise InputError(f"--clients is {self.clients}", fix="choose a number from 1 to 60")
        if not 0 <= self.dishonest <= self.clients:
            raise InputError(f"--dishonest is {self.dishonest}", fix=f"choose a number from 0 to {self.clients}")
        if self.cheat not in CHEATS:
            raise InputError(f"--cheat is {self.cheat!r}", fix=f"choose one of {', '.join(CHEATS)}")
        for name, choices in (("operator", KINDS), ("curvature", CURVATURES)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} is {getattr(self, name)!r}", fix=f"choose one of {', '.join(choices)}")
        check_operator(self.operator, self.curvature, prove_curvature=self.prove_curvature)
        if self.dishonest:
            check_cheat(self.cheat, self.operator)
        if self.dishonest and self.cheat == "replay" and self.dishonest == self.clients:
            raise InputError("somebody must be honest for others to replay their proofs", fix="lower --dishonest")
        self.request.check(self.clients)
        if self.holder >= 0 and self.operator == "dampening":
            raise InputError(
                "a client that chooses the mask cannot choose the factors of dampening", fix="leave --holder out"
            )
        if not 0 <= self.seed < 2**20:
            raise InputError(f"--seed is {self.seed}", fix=f"choose a number from 0 to {2**20 - 1}")
        if self.audit not in AUDITS:
            raise InputError(f"--audit is {self.audit!r}", fix=f"choose {' or '.join(AUDITS)}")
        for name in ("audit_detect", "audit_cheating"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}", fix="choose a number above 0, and at most 1"
                )

    @property
    def request(self) -> Request:
        """What is to be forgotten, and who holds it."""
        return Request(self.delete, self.forget_class, self.holder, self.forget_samples)


def run_demo(
    settings: DemoSettings, out: Path, *, resume: bool, fresh: bool, on_event: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run the demo in `out`, or go on with an interrupted one; returns the summary.

    Raises
    ------
    InputError
        `out` holds something else, or an interrupted demo and neither `resume` nor `fresh` is set, or one of other
        settings.
    Error
        Whatever stopped the run.
    """
    if resume and fresh:
        raise InputError("--resume and --fresh exclude each other", fix="leave one of them out")
    try:
        _prepare(settings, out, resume=resume, fresh=fresh)
    except OSError as e:
        raise StorageError(f"cannot use {out}", why=str(e), fix="choose another --out") from e
    run_config: dict[str, str | int | float | bool] = {
        "clients": settings.clients,
        "dishonest": settings.dishonest,
        "cheat": settings.cheat,
        "delete": settings.delete,
        "forget-class": settings.forget_class,
        "holder": settings.holder,
        "forget-samples": settings.forget_samples,
        "seed": settings.seed,
        "operator": settings.operator,
        "curvature": settings.curvature,
        "audit": settings.audit,
        "audit-detect": settings.audit_detect,
        "audit-cheating": settings.audit_cheating,
        "prove-curvature": settings.prove_curvature,
    }
    result_path = out / "result.json"
    if not result_path.exists():
        run_flower(installed_app(), run_config, settings.clients, out, on_event)
    result = load_json(result_path)
    on_event({"event": "oracle.started"})
    reference = _oracle(settings, out)
    on_event({"event": "oracle.done"})
    summary = summarise(result, reference, settings)
    _copy_global_models(out)
    try:
        plot_accuracy(summary, out / "plot.png")
    except OSError as e:
        raise StorageError(f"cannot write {out / 'plot.png'}", why=str(e), fix="free disk space and resume") from e
    save_text(out / SUMMARY, json.dumps(summary, indent=1))
    _mark(settings, out, finished=True)
    return summary


def summarise(result: dict[str, Any], reference: dict[str, float], settings: DemoSettings) -> dict[str, Any]:
    """What `zkapex demo --json` prints: clients, mean accuracy of those that were proved, the oracle, the plan."""
    proposal = result.get("proposal")
    left = proposal["holder"] if proposal and settings.delete == "client" else None
    # A client that was proved may yet have told nothing, or not all, about its accuracy. One that leaves has no oracle.
    honest = [
        client
        for client in result["clients"]
        if client["verdict"] == "proved"
        and client.get("client_id", "") != left
        and all(set(client["accuracy"].get(s, ())) >= set(DATA_SETS) for s in STATES)
    ]
    accuracy = {
        state: {
            data: sum(client["accuracy"][state][data] for client in honest) / len(honest) if honest else None
            for data in DATA_SETS
        }
        for state in STATES
    }
    return {
        "settings": asdict(settings),
        "forgotten": settings.request.words(),
        "clients": result["clients"],
        "not_enrolled": result.get("not_enrolled", []),
        "accuracy": accuracy,
        "oracle": reference,
        "global": result["global"],
        "plan": result["plan"],
        "proposal": proposal,
        "request_id": result["request_id"],
    }


def _prepare(settings: DemoSettings, out: Path, *, resume: bool, fresh: bool) -> None:
    marker = out / MARKER
    if marker.exists():
        try:
            kept = json.loads(marker.read_text())
            earlier, finished = DemoSettings(**kept["settings"]), bool(kept["finished"])
        except (ValueError, KeyError, TypeError, InputError) as e:
            if fresh:
                _remove(out)
                _mark(settings, out, finished=False)
                return
            raise StorageError(f"{marker} is damaged", why=str(e), fix="choose another --out, or --fresh") from e
        if resume:
            if earlier != settings:
                raise InputError(
                    f"the demo in {out} has other settings",
                    why=f"it was started with {asdict(earlier)}",
                    fix="resume it with the same options, or choose another --out",
                )
            return
        if not finished and not fresh:
            raise InputError(
                f"an interrupted demo is in {out}",
                fix="add --resume to go on with it, --fresh to start over, or choose another --out",
            )
        _remove(out)
    elif out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder", fix="choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no demo", fix="choose another --out")
    elif resume:
        raise InputError(f"there is no demo in {out} to resume", fix="leave --resume out")
    out.mkdir(parents=True, exist_ok=True)
    _mark(settings, out, finished=False)


def _mark(settings: DemoSettings, out: Path, *, finished: bool) -> None:
    save_text(out / MARKER, json.dumps({"settings": asdict(settings), "finished": finished}))


def _remove(out: Path) -> None:
    """Delete an earlier demo's artefacts, and nothing else that may be in its folder."""
    for name in ARTEFACTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _oracle(settings: DemoSettings, out: Path) -> dict[str, float]:
    path = out / "oracle.json"
    if not path.exists():
        world = scenario(settings.clients, settings.request, settings.seed)
        config = settings_of(installed_app())
        personal = FitSettings(int(config["personal-epochs"]), float(config["personal-lr"]))
        torch.set_num_threads(1)
        models = oracle(world, settings.seed, personal_settings=personal)
        rows = [
            evaluate(model, world, client)
            for index, (model, client) in enumerate(zip(models, world.clients, strict=True))
            if not (settings.delete == "client" and index == settings.holder)
        ]
        save_text(path, json.dumps(mean(rows)))
    reference: dict[str, float] = load_json(path)
    return reference


def _copy_global_models(out: Path) -> None:
    models = out / "models"
    try:
        models.mkdir(exist_ok=True)
        shutil.copyfile(out / "provider" / "global.npz", models / "global-before.npz")
        shutil.copyfile(out / "global-unlearned.npz", models / "global-after.npz")
    except OSError as e:
        raise StorageError(f"cannot write to {models}", why=str(e), fix="free disk space and resume") from e
