"""Methods x seeds of a scenario, run centrally on clients simulated in this process: no messages, no proofs.

The mathematics is that of the protocol, on the quantised weights that would be proved. The folder::

    evaluation.json                   what is evaluated; another scenario or setting needs another folder
    seeds/0/*.npz, plan.json          what all methods of a seed share, see `zkapex.simulation.evaluation.preparation`
    seeds/0/methods/<method>.json     one method's numbers, written when it is done
    results.json, table.md, *.png     see `zkapex.simulation.evaluation.report.report`

An evaluation that is started again goes on with what is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from zkapex.errors import InputError, StorageError
from zkapex.simulation.data.hub import HubData
from zkapex.simulation.evaluation.baselines import METHODS, Method, methods_called
from zkapex.simulation.evaluation.metrics import CURVES, METRICS, measure
from zkapex.simulation.evaluation.preparation import Prepared, prepare
from zkapex.simulation.evaluation.provenance import digest_of, source_commit
from zkapex.simulation.evaluation.report.report import assemble, write_report
from zkapex.simulation.evaluation.seeds import OnEvent, check, run_seeds
from zkapex.simulation.scenarios import ScenarioConfig, Sources
from zkapex.simulation.scenarios.base import NO_SETTINGS
from zkapex.storage import load_json, save_text

MARKER, FORMAT = "evaluation.json", 1


def evaluate(
    config: ScenarioConfig,
    seeds: int,
    out: Path,
    *,
    sources: Sources = Sources(),  # noqa: B008 - frozen
    methods: Sequence[str] = (),
    jobs: int = 1,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Evaluate on seeds 0 to ``seeds - 1``, write the report, and return the contents of ``results.json``.

    Parameters
    ----------
    config : ScenarioConfig
    seeds : int
    out : Path
    sources : Sources, optional
        What a scenario reads.
    methods : sequence of str
        Names of methods, all of the scenario's by default. The original model and the oracle always take part: the
        others are measured against them.
    jobs : int, optional
        Seeds at a time, each in a process of its own.
    on_event : callable
        Told of every stage and result.

    Raises
    ------
    InputError
        A value makes no sense, or `out` holds something else.
    StorageError
        `out` cannot be written, or a file in it is damaged.
    """
    check(seeds, jobs)
    chosen = methods_called([*methods, "original", "retrain"] if methods else config.methods)
    foreign = [method.name for method in chosen if method.name not in config.methods]
    if foreign:
        raise InputError(f"{config.name} has no {foreign[0]}", fix=f"choose from {', '.join(config.methods)}")
    config.check(sources)
    sources = replace(sources, on_stage=lambda stage: on_event({"event": "stage", "stage": stage, "seed": 0}))
    config.make(0, sources)  # what is wrong with the data is said before anything is written
    _claim(config, sources, out)
    commit = source_commit()
    on_event({"event": "start", "seeds": seeds, "methods": len(chosen)})
    names = tuple(method.name for method in chosen)
    one = partial(evaluate_seed, config, replace(sources, on_stage=_quiet), names, out, commit)
    run_seeds(one, range(seeds), jobs, on_event, lambda seed: not _missing(out / "seeds" / str(seed), names))
    results = assemble(config.name, config.title, _load(config, seeds, out, chosen))
    write_report(results, out)
    return results


def evaluate_seed(
    config: ScenarioConfig,
    sources: Sources,
    methods: Sequence[str],
    out: Path,
    commit: str,
    seed: int,
    on_event: OnEvent,
) -> None:
    """One seed of `evaluate`, what is missing of it."""
    folder = out / "seeds" / str(seed)
    todo = _missing(folder, methods)
    for _ in range(len(methods) - len(todo)):
        on_event({"event": "kept", "seed": seed})
    if not todo:
        return
    bench = config.make(seed, sources)
    prepared = prepare(config, bench, seed, folder, on_event)
    for name in todo:
        on_event({"event": "method", "method": name, "seed": seed})
        result = run_method(METHODS[name], prepared)
        head = {"format": FORMAT, "scenario": config.name, "seed": seed, "method": name}
        plan = {"plan": prepared.plan_facts(), "stages": dict(prepared.seconds), "note": bench.note}
        whole = {**head, "commit": commit, **result, **plan}
        path = _result_path(folder, name)
        path.parent.mkdir(exist_ok=True)
        save_text(path, json.dumps(whole, indent=1))
        on_event({"event": "result", "method": name, "seed": seed, **result["metrics"]})


def _quiet(stage: str) -> None:
    """Of what all seeds share there is nothing to tell: it was made before the first of them."""


def run_method(method: Method, prepared: Prepared) -> dict[str, Any]:
    """Numbers of one method on one seed: of every client, and their mean.

    ``seconds`` is what the deletion took, all clients one after the other, with the provider's part.
    """
    models, start = [], time.perf_counter()
    for case in prepared.cases:
        models.append(case.deployment.deploy(method.unlearn(case)))
    spent = prepared.seconds.get(method.stage or "", 0.0) + time.perf_counter() - start
    rows = [
        measure(model, [one for one in models if one is not model], case, client, prepared.yardstick, method.name)
        for model, case, client in zip(models, prepared.cases, prepared.bench.world.clients, strict=True)
    ]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in METRICS if name != "seconds"}
    curves = {
        name: {shots: sum(row[name][shots] for row in rows) / len(rows) for shots in rows[0][name]} for name in CURVES
    }
    return {"metrics": {**mean, **curves, "seconds": spent}, "clients": rows}


def _claim(config: ScenarioConfig, sources: Sources, out: Path) -> None:
    """Mark the folder as one of this evaluation; refuse one of another."""
    settings = {k: v for k, v in asdict(config).items() if k not in NO_SETTINGS}
    marker = {
        "format": FORMAT,
        "scenario": config.name,
        "settings": settings,
        "methods": {name: _parameters(method) for name, method in METHODS.items()},
        "data_sha256": digest_of(sources.data) if config.needs_data and isinstance(sources.data, Path) else None,
        "model": (digest_of(Path(sources.model)) or sources.model) if config.needs_model and sources.model else None,
    }
    if isinstance(sources.data, HubData):
        marker["data"] = [item.facts() for item in sources.data.items]
    if sources.classes is not None:
        marker["classes"] = sources.classes
    if sources.pixels is not None:
        marker["pixels"] = sources.pixels
    claim(out, marker)


def claim(out: Path, marker: Mapping[str, Any]) -> None:
    """Mark a folder as one of the evaluation that a marker describes; refuse one of another.

    Raises
    ------
    InputError
        The folder holds something else.
    StorageError
        It cannot be used.
    """
    text = json.dumps(marker, indent=1)
    try:
        path = out / MARKER
        if path.exists():
            if load_json(path) != json.loads(text):
                raise InputError(
                    f"{out} holds another evaluation",
                    why="of another scenario, data file or release",
                    fix="choose another --out",
                )
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} is not an empty folder, and holds no evaluation", fix="choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        save_text(path, text)
    except OSError as e:
        raise StorageError(f"cannot use {out}", why=str(e), fix="choose another --out") from e


def _parameters(method: Method) -> dict[str, Any]:
    return {k: v for k, v in vars(method).items() if k not in ("name", "label", "source", "stage")}


def _missing(folder: Path, methods: Sequence[str]) -> list[str]:
    return [name for name in methods if not _result_path(folder, name).exists()]


def _result_path(folder: Path, method: str) -> Path:
    return folder / "methods" / f"{method}.json"


def _load(config: ScenarioConfig, seeds: int, out: Path, methods: Sequence[Method]) -> list[dict[str, Any]]:
    runs = []
    for seed in range(seeds):
        for method in methods:
            path = _result_path(out / "seeds" / str(seed), method.name)
            run = load_json(path)
            if not isinstance(run, dict) or set(run.get("metrics", ())) != {*METRICS, *CURVES}:
                raise StorageError(f"{path} is damaged", fix="delete it and run again")
            if run.get("scenario") != config.name:
                raise StorageError(f"{path} belongs to another scenario", fix="delete it and run again")
            runs.append(run)
    return runs
