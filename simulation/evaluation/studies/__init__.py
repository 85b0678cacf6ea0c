"""Studies: evaluations that do not compare methods on one deletion, but follow the operator through something else.

A study measures one seed at a time. The folder::

    evaluation.json          what is evaluated; another study or setting needs another folder
    seeds/0/*.npz, *.json    what is kept of a seed on the way, so that it goes on where it was
    seeds/0/result.json      one seed's numbers, written when they are complete
    results.json, table.md, study.png    see `zkapex.simulation.evaluation.report.study`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from zkapex.errors import InputError, StorageError
from zkapex.simulation import scenarios
from zkapex.simulation.evaluation.evaluate import claim
from zkapex.simulation.evaluation.provenance import source_commit
from zkapex.simulation.evaluation.report.study import FORMAT, write_study
from zkapex.simulation.evaluation.seeds import OnEvent, check, run_seeds
from zkapex.simulation.evaluation.studies.concentration import ConcentrationStudy
from zkapex.simulation.evaluation.studies.directions import DirectionsStudy
from zkapex.simulation.evaluation.studies.margins import MarginsStudy
from zkapex.simulation.evaluation.studies.scorers import ScorerStudy
from zkapex.simulation.evaluation.studies.sequence import SequenceStudy
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.scenarios import ScenarioConfig
from zkapex.simulation.scenarios.base import NO_SETTINGS
from zkapex.simulation.scenarios.digits import DIGITS
from zkapex.storage import load_json, save_text


class Study(Protocol):
    """What can be run by `run_study`: a frozen dataclass whose fields decide its numbers."""

    @property
    def name(self) -> str:
        """On the command line and in results."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def kind(self) -> str:
        """How results are shown: `directions`, `sequence`, `concentration`, `scorers` or `margins`."""
        ...

    def run(self, seed: int, folder: Path, on_event: OnEvent) -> dict[str, Any]:
        """Numbers of one seed, for JSON; what takes long is kept in the folder on the way."""
        ...


DIGITS_SEQUENCE = SequenceStudy(
    name="digits-sequence",
    title="scikit-learn's handwritten digits: ten deletion requests in a row",
    base=replace(
        DIGITS,
        proxies=2,
        search_retain=300,
        space=replace(DIGITS.space, fractions=(0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08)),
    ),
)
DIGITS_CHUNKS = ConcentrationStudy(
    name="digits-chunks",
    title="scikit-learn's handwritten digits, a model of 64 chunks: fewer chunks, cheaper proofs",
    base=replace(
        DIGITS,
        model=ViTConfig(dim=64, hidden=256),
        proxies=2,
        search_retain=300,
        search_forget=100,
        space=replace(
            DIGITS.space, least=0.01, fractions=(0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15)
        ),
    ),
)
DIGITS_SCORERS = ScorerStudy(
    name="digits-scorers",
    title="scikit-learn's handwritten digits: one digit deleted with the masks of every scorer",
    base=DIGITS,
    fraction=DIGITS.space.least,
)
DIGITS_DIRECTIONS = DirectionsStudy(
    name="digits-directions",
    title="scikit-learn's handwritten digits: ten deletion requests in a row by targets, and attacks on all of them",
    base=replace(DIGITS, proxies=2, search_retain=300),
)
DIGITS_KLOM = MarginsStudy(
    name="digits-klom",
    title="scikit-learn's handwritten digits: one digit deleted from models of many trainings, compared with oracles",
    base=DIGITS,
)
STUDIES: Mapping[str, Study] = MappingProxyType(
    {study.name: study for study in (DIGITS_DIRECTIONS, DIGITS_SEQUENCE, DIGITS_CHUNKS, DIGITS_SCORERS, DIGITS_KLOM)}
)
"""Every study."""


def what_is_called(name: str) -> ScenarioConfig | Study:
    """The scenario or study of that name.

    Raises
    ------
    InputError
        There is none.
    """
    known: dict[str, ScenarioConfig | Study] = {**scenarios.SCENARIOS, **STUDIES}
    if name not in known:
        raise InputError(f"there is no scenario {name!r}", fix=f"choose one of {', '.join(known)}")
    return known[name]


def run_study(
    study: Study, seeds: int, out: Path, on_event: OnEvent = lambda event: None, jobs: int = 1
) -> dict[str, Any]:
    """Run a study on seeds 0 to ``seeds - 1``, write the report, and return the contents of ``results.json``.

    Parameters
    ----------
    study : Study
    seeds : int
    out : Path
    on_event : callable
    jobs : int, optional
        Seeds at a time, each in a process of its own.

    Raises
    ------
    InputError
        A value makes no sense, or `out` holds something else.
    StorageError
        `out` cannot be written, or a file in it is damaged.
    """
    check(seeds, jobs)
    claim(out, {"format": FORMAT, "study": study.name, "settings": _settings(study)})
    on_event({"event": "start", "seeds": seeds, "methods": 1})
    one = partial(study_seed, study, out, source_commit())
    run_seeds(one, range(seeds), jobs, on_event, lambda seed: _result_path(out, seed).exists())
    runs = []
    for seed in range(seeds):
        path = _result_path(out, seed)
        run = load_json(path)
        if not isinstance(run, dict) or run.get("study") != study.name or run.get("seed") != seed:
            raise StorageError(f"{path} is damaged", fix="delete it and run again")
        runs.append(run)
    results = {
        "format": FORMAT, "kind": study.kind, "scenario": study.name, "title": study.title,
        "commits": sorted({run["commit"] for run in runs}), "seeds": runs,
    }  # fmt: skip
    write_study(results, out)
    return results


def study_seed(study: Study, out: Path, commit: str, seed: int, on_event: OnEvent) -> None:
    """One seed of `run_study`, if it is not done."""
    path = _result_path(out, seed)
    if path.exists():
        on_event({"event": "kept", "seed": seed})
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot use {path.parent}", why=str(e), fix="choose another --out") from e
    measured = study.run(seed, path.parent, on_event)
    save_text(path, json.dumps({"study": study.name, "seed": seed, "commit": commit, **measured}, indent=1))
    on_event({"event": "seed", "seed": seed})


def _result_path(out: Path, seed: int) -> Path:
    return out / "seeds" / str(seed) / "result.json"


def _settings(study: Study) -> Mapping[str, Any]:
    settings = asdict(study)  # type: ignore[call-overload]
    for name in NO_SETTINGS:
        settings["base"].pop(name)
    return dict(settings)
