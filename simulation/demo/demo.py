"""The demo: one simulated federation from training to receipts, beside an oracle that was retrained without the data.

The protocol runs in Flower; this module starts it, follows it, trains the oracle, and sums up. Its folder::

    demo.json           settings, and whether it finished
    result.json         the ServerApp's account; summary.json: what `zkapex demo --json` prints
    receipts/<request>/<client>/    receipts with their proofs, and in key.pub the key they are signed with
    models/             the global model and every client's, before and after, and their oracles
    plot.png            accuracy before, on the way, after, and of the oracle
    provider/ devices/  state of the provider and of the simulated devices
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zkapex.errors import InputError, StorageError
from zkapex.server.federation.settings import RunSettings
from zkapex.simulation.demo.attack import LeftBehind, after_attack, attack, left_behind, oracle_file
from zkapex.simulation.demo.settings import DemoSettings
from zkapex.simulation.evaluation.preparation import oracle_models
from zkapex.simulation.evaluation.provenance import source_commit
from zkapex.simulation.evaluation.report.plots import plot_accuracy
from zkapex.simulation.federation.federation import (
    DATA_SETS,
    MAX_REQUESTS,
    federation_of,
    forget_benches,
    later_class,
    sources_digests,
)
from zkapex.simulation.federation.launch import run_flower
from zkapex.simulation.models.training import accuracy
from zkapex.storage import load_json, save_arrays, save_text
from zkapex.transport.app import installed_app, run_config_of

MARKER, SUMMARY = "demo.json", "summary.json"
STATES, TUNED = ("before", "masked", "after"), "tuned"
ARTEFACTS = (
    "result.json", "results", SUMMARY, "receipts", "key.pub", "models", "plot.png", "provider", "devices", "flower",
    "events.jsonl", *(f"global-request-{number}.npz" for number in range(1, MAX_REQUESTS + 1)), "oracle.json", MARKER,
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """What the oracle is.

    Attributes
    ----------
    forgotten : str
        What it has never seen.
    accuracy : mapping of str to float
        Mean over clients of accuracy on ``forget``, ``retain`` and ``personal``.
    """

    forgotten: str
    accuracy: Mapping[str, float]


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
    if not (out / SUMMARY).exists():
        _check(settings, on_event)
    try:
        _prepare(settings, out, resume=resume, fresh=fresh)
    except OSError as e:
        raise StorageError(f"cannot use {out}", why=str(e), fix="choose another --out") from e
    result_path = out / "result.json"
    if not _complete(result_path, settings):
        run_flower(installed_app(), settings.run_config, settings.clients, out, on_event)
    result = load_json(result_path)
    on_event({"event": "oracle.started"})
    reference = _oracle(settings, out)
    on_event({"event": "oracle.done"})
    summary = summarise(result, reference, settings)
    summary["attacked"] = _attacked(settings, out) if summary["accuracy"]["after"]["forget"] is not None else None
    _copy_global_models(out, settings.request_ids[-1])
    try:
        plot_accuracy(summary, out / "plot.png")
    except OSError as e:
        raise StorageError(f"cannot write {out / 'plot.png'}", why=str(e), fix="free disk space and resume") from e
    save_text(out / SUMMARY, json.dumps(summary, indent=1))
    _mark(settings, out, finished=True)
    return summary


def _complete(path: Path, settings: DemoSettings) -> bool:
    """Whether a run has ended with a result of every request."""
    if not path.exists():
        return False
    found = {one["request_id"] for one in load_json(path).get("requests", [])}
    return found >= set(settings.request_ids)


def attack_demo(out: Path, on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """What `zkapex.simulation.demo.attack.attack` does to what a finished demo left in `out`.

    Raises
    ------
    InputError
        There is no finished demo, or one of another release.
    """
    if not (out / SUMMARY).exists():
        raise InputError(f"there is no finished demo in {out}", fix="run zkapex demo first")
    try:
        settings = DemoSettings(**load_json(out / MARKER)["settings"])
    except (KeyError, TypeError) as e:
        raise StorageError(f"{out / MARKER} is damaged", why=str(e), fix="run the demo again") from e
    return attack(_left_behind(settings, out), on_event)


def _left_behind(settings: DemoSettings, out: Path) -> tuple[LeftBehind, ...]:
    federation = federation_of(run_config_of(installed_app(), settings.run_config))
    return left_behind(out, federation, settings.dishonest)


def _attacked(settings: DemoSettings, out: Path) -> dict[str, float]:
    return after_attack(_left_behind(settings, out))


def _check(settings: DemoSettings, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Return only if the run could start; what is wrong is said before anything is written."""
    run_config = run_config_of(installed_app(), settings.run_config)
    RunSettings.from_config(run_config)
    on_event({"event": "data.started"})
    federation_of(run_config)
    forget_benches()


def summarise(result: dict[str, Any], reference: Reference, settings: DemoSettings) -> dict[str, Any]:
    """What `zkapex demo --json` prints: of the last request and of each, clients and mean accuracy; oracle and plan."""
    proposal = result.get("proposal")
    left = proposal["holder"] if proposal and settings.delete == "client" else None
    every = result.get("requests", [result])
    return {
        "settings": settings.shareable,
        "commit": source_commit(),
        "forgotten": reference.forgotten,
        "clients": result["clients"],
        "not_enrolled": result.get("not_enrolled", []),
        "accuracy": _means(result["clients"], left),
        "oracle": dict(reference.accuracy),
        "global": result["global"],
        "plan": result["plan"],
        "proposal": proposal,
        "request_id": result["request_id"],
        "requests": [
            {
                "request_id": one["request_id"],
                "forgotten": reference.forgotten
                if len(every) == 1
                else f"the digit {later_class(settings.forget_class, number)}",
                "clients": one["clients"],
                "accuracy": _means(one["clients"], left),
                "global": one["global"],
                "plan": one["plan"],
            }
            for number, one in enumerate(every)
        ],
    }


def _means(clients: list[dict[str, Any]], left: str | None) -> dict[str, dict[str, float | None]]:
    """Mean accuracy of the clients that were proved and told all of it, but for one that leaves: it has no oracle."""
    honest = [
        client
        for client in clients
        if client["verdict"] == "proved"
        and client.get("client_id", "") != left
        and all(set(client["accuracy"].get(state, {})) >= set(DATA_SETS) for state in STATES)
    ]
    trained_on = [set(client["accuracy"].get(TUNED, {})) >= set(DATA_SETS) for client in honest]
    states = (*STATES, TUNED) if honest and all(trained_on) else STATES
    return {
        state: {
            data: sum(client["accuracy"][state][data] for client in honest) / len(honest) if honest else None
            for data in DATA_SETS
        }
        for state in states
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
            if not finished and kept.get("sources", {}) != sources_digests(settings.run_config):
                raise InputError(
                    f"data or model have changed since the demo in {out} was started",
                    fix="bring the former ones, or start it again with --fresh",
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
    # Only an interrupted demo is gone on with: what a finished one was made of is not read again.
    sources = {} if finished else sources_digests(settings.run_config)
    save_text(out / MARKER, json.dumps({"settings": asdict(settings), "sources": sources, "finished": finished}))


def _remove(out: Path) -> None:
    """Delete an earlier demo's artefacts, and nothing else that may be in its folder."""
    for name in ARTEFACTS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _oracle(settings: DemoSettings, out: Path) -> Reference:
    path = out / "oracle.json"
    if not path.exists():
        torch.set_num_threads(1)
        federation = federation_of(run_config_of(installed_app(), settings.run_config))
        federation = federation.for_request(settings.request_ids[-1])
        models = oracle_models(federation.config, federation.bench, federation.seed, federation.leaves)
        (out / "models").mkdir(exist_ok=True)
        for index, model in enumerate(models):
            state = {name: value.numpy() for name, value in model.state_dict().items()}
            save_arrays(out / "models" / oracle_file(index), state)
        rows = [
            {name: accuracy(model, examples) for name, examples in federation.judged(index).items()}
            for index, model in enumerate(models)
            if index != federation.leaves
        ]
        mean = {name: sum(row[name] for row in rows) / len(rows) for name in DATA_SETS}
        save_text(path, json.dumps(asdict(Reference(federation.bench.forgotten, mean))))
    try:
        return Reference(**load_json(path))
    except TypeError as e:
        raise StorageError(f"{path} is damaged", why=str(e), fix="delete it, and resume") from e


def _copy_global_models(out: Path, last: str) -> None:
    models = out / "models"
    try:
        models.mkdir(exist_ok=True)
        shutil.copyfile(out / "provider" / "global.npz", models / "global-before.npz")
        shutil.copyfile(out / f"global-{last}.npz", models / "global-after.npz")
    except OSError as e:
        raise StorageError(f"cannot write to {models}", why=str(e), fix="free disk space and resume") from e
