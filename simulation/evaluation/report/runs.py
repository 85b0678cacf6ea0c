"""What runs of Flower came to, for the page of results: from ``results/runs/*.json``, summaries of ``zkapex demo``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zkapex.circuits.operators import declared
from zkapex.errors import InputError
from zkapex.proofs.receipts.sayings import percent
from zkapex.simulation.federation.federation import DATA_SETS
from zkapex.storage import load_json

OPERATOR = "guarded-group-obs"
SHOWN = {"seed": 0, "dishonest": 1, "cheat": "half", "operator": OPERATOR}
"""What all runs on the page have in common."""
STATES = {"before": "before", **declared(OPERATOR).words.marks}
KEYS = {"settings", "commit", "forgotten", "clients", "accuracy", "oracle"}

INTRODUCTION = """\
The same scenarios through Flower's own runtime, from training to receipts, with every proof made and verified: what
`zkapex demo --scenario NAME --json` came to at seed 0. The last client cheats: it does half of what was asked.
Accuracy in per cent is that of the others, of integers as they were proved, as their devices count it on examples
nobody trained on; where no class is deleted, `forget` is what is deleted itself. Personalised models differ a little
from those of the tables above ([adr/0020](adr/0020-scenarios-as-files.md)), the examples they are judged on more."""


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Every committed summary, with the ``name`` of its file.

    Raises
    ------
    InputError
        One is no summary of a finished demo, or of one with other settings than the page is about.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        one = load_json(path)
        if not isinstance(one, dict) or not set(one) >= KEYS or not set(one["accuracy"]) >= set(STATES):
            raise InputError(f"{path} is no summary.json of this release", fix="run zkapex demo again")
        other = {name: one["settings"].get(name) for name, value in SHOWN.items() if one["settings"].get(name) != value}
        if other or "scenario" not in one["settings"]:
            raise InputError(f"{path} is a run with {other}", why=f"those on the page have {SHOWN}", fix="run it so")
        found.append({"name": path.stem, **one})
    return found


def section(runs: Sequence[Mapping[str, Any]]) -> str:
    """The section of ``docs/results.md``."""
    accuracy = ["| scenario | forgotten | | " + " | ".join(DATA_SETS) + " |", "| --- | --- | --- |" + " ---: |" * 3]
    cost = [
        "| scenario | proved | found out | chunks proved | prove CPU s | peak MB | proof KB | verify CPU s | commit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for run in runs:
        accuracy += _accuracy(run)
        cost.append(_cost(run))
    sampled = [run for run in runs if run["settings"]["audit"] == "sampled"]
    parts = ["## Through Flower, with proofs\n", INTRODUCTION + "\n", "\n".join(accuracy) + "\n"]
    parts.append("Of each client that proved, the mean:\n")
    parts.append("\n".join(cost) + "\n")
    for run in sampled:
        settings = run["settings"]
        parts.append(
            f"In `{run['name']}` the chunks were drawn at random: whoever leaves "
            f"{percent(settings['audit_cheating'])} of them undone is found out with probability "
            f"{percent(settings['audit_detect'])}, at least.\n"
        )
    return "\n".join(parts)


def _accuracy(run: Mapping[str, Any]) -> list[str]:
    rows = {label: run["accuracy"][state] for state, label in STATES.items()} | {"oracle": run["oracle"]}
    lines: list[str] = []
    for label, values in rows.items():
        scenario, forgotten = (f"`{run['name']}`", run["forgotten"]) if not lines else ("", "")
        cells = " | ".join("-" if values[data] is None else f"{100 * values[data]:.1f}" for data in DATA_SETS)
        lines.append(f"| {scenario} | {forgotten} | {label} | {cells} |")
    return lines


def _cost(run: Mapping[str, Any]) -> str:
    proved = [client for client in run["clients"] if client["verdict"] == "proved"]
    if not proved:
        raise InputError(f"nobody proved anything in the run of {run['name']}")

    def mean(key: str) -> float:
        return sum(float(client[key]) for client in proved) / len(proved)

    caught = sum(client["verdict"] == "quarantined" for client in run["clients"])
    cells = [
        f"`{run['name']}`",
        f"{len(proved)} of {len(run['clients'])}",
        str(caught),
        f"{mean('chunks_proved'):.0f} of {mean('chunks'):.0f}",
        f"{mean('prove_cpu_s'):.0f}",
        f"{mean('prover_peak_rss_mb'):.0f}",
        f"{mean('proof_bytes') / 1e3:.0f}",
        f"{mean('verify_s'):.1f}",
        f"`{run['commit']}`",
    ]
    return "| " + " | ".join(cells) + " |"
