"""Attacks on what a demo left behind, by somebody who holds receipts and unlearned models and nothing else.

Mask, directions and what was prescribed along them are read from a receipt, weights from ``models/client-*-after.npz``.
The demo lends what an outsider does not have, and only to judge by: examples of what was forgotten and of what was
kept, and the oracle's models, on which the same is tried. Few-shot attackers hold k of those examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from zkapex.errors import InputError, ProtocolError, StorageError
from zkapex.proofs.receipts.bundle import read_bundle
from zkapex.simulation.data.digits import Examples, concatenate
from zkapex.simulation.evaluation.metrics import deleted_label
from zkapex.simulation.evaluation.metrics.kshot import SHOTS, kshot
from zkapex.simulation.evaluation.metrics.leakage import guessed_labels
from zkapex.simulation.evaluation.metrics.undo import LOSSES, Attempt, Public, best, carried_out, undo
from zkapex.simulation.federation.federation import DATA_SETS, SimulatedFederation
from zkapex.simulation.models.training import accuracy
from zkapex.storage import load_arrays
from zkapex.unlearning.operators import Terms

_CAP = 500
"""Examples of each kind that are judged by, at most."""


@dataclass(frozen=True)
class LeftBehind:
    """What a demo left behind of one of its requests, after the last of them.

    Attributes
    ----------
    request : str
        Its id.
    public : Public
        From a receipt of the last request, which repeats what earlier ones prescribed.
    unlearned, oracle : tuple of nn.Module
        Of the clients that proved, in the same order.
    clients : tuple of int
        Their numbers.
    federation, asked : SimulatedFederation
        Whose examples are judged by: as it is after the last request, and as this one found it.
    """

    request: str
    public: Public
    unlearned: tuple[nn.Module, ...]
    oracle: tuple[nn.Module, ...]
    clients: tuple[int, ...]
    federation: SimulatedFederation
    asked: SimulatedFederation

    @property
    def forget(self) -> Examples:
        """Examples of what was forgotten."""
        return _first(self.asked.world.forget_set)

    @property
    def retain(self) -> Examples:
        """Examples of what was kept."""
        return _first(self.federation.world.retain_set)

    def kept_by(self, client: int) -> Examples:
        """What a client may train on beside the examples that an attacker holds."""
        data = self.federation.world.clients[client]
        return concatenate(data.personal, data.retained)


def oracle_file(index: int) -> str:
    """Name of a client's oracle in the demo's folder of models."""
    return f"oracle-{index:03d}.npz"


def left_behind(out: Path, federation: SimulatedFederation, dishonest: int) -> tuple[LeftBehind, ...]:
    """Read what a demo left in its folder after the last of its requests, of each of them.

    Raises
    ------
    InputError
        No client proved anything, or a model is not there.
    """
    public = None
    first, last = federation.ids[0], federation.ids[-1]
    asked = {one: federation.for_request(one) for one in federation.ids}
    federation = asked[last]
    models = out / "models"
    after = models if last == first else models / last
    for folder in sorted((out / "receipts" / last).glob("*")):
        bundle = read_bundle(folder)
        if bundle.receipt.outcome.verdict == "proved":
            manifest = bundle.dossier.instance.manifest
            exponents = {layer.name: layer.exponent for layer in manifest.layers}
            public = Public.of(Terms.of(bundle.dossier.instance), exponents, manifest.block_width)
            break
    if public is None:
        raise InputError(f"no receipt in {out} says that a deletion was proved", fix="attack a demo that finished")
    honest = [
        index
        for index in range(len(federation.world.clients) - dishonest)
        if index != federation.leaves and (after / f"client-{index:03d}-after.npz").exists()
    ]
    build = lambda: federation.config.build(federation.bench, federation.seed)  # noqa: E731
    unlearned = [_model(build, _deployed(after, index)) for index in honest]
    oracle = [_model(build, models / oracle_file(index)) for index in honest]
    return tuple(
        LeftBehind(one, public, tuple(unlearned), tuple(oracle), tuple(honest), federation, asked[one]) for one in asked
    )


def _deployed(folder: Path, index: int) -> Path:
    """What a client runs: its model after the deletion or, if it has trained on since, after that."""
    tuned = folder / f"client-{index:03d}-tuned.npz"
    return tuned if tuned.exists() else folder / f"client-{index:03d}-after.npz"


def attack(
    left: Sequence[LeftBehind], on_event: Callable[[dict[str, Any]], None] = lambda event: None
) -> dict[str, Any]:
    """Every attack on every client's unlearned model and on its oracle: what `zkapex attack --json` ends with."""
    torch.set_num_threads(1)
    rows, requests = [], []
    for one in left:
        found = []
        for place, client in enumerate(one.clients):
            row: dict[str, Any] = {"request": one.request, "client": client}
            for prefix, models in (("", one.unlearned), ("oracle_", one.oracle)):
                on_event({"event": "attack", "request": one.request, "client": client, "oracle": bool(prefix)})
                row |= {prefix + name: value for name, value in _attacked(one, models, place).items()}
            found.append(row)
        rows += found
        forgotten = one.asked.bench.forgotten
        requests.append({"request": one.request, "forgotten": forgotten, "told": told(one), **_summed(found)})
    return {"clients": rows, "requests": requests, **_summed(rows)}


def _summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over rows, and the attack that brought back most."""
    mean: dict[str, Any] = {}
    for name, value in rows[0].items():
        if isinstance(value, float):
            mean[name] = fmean(row[name] for row in rows)
        elif name.endswith("kshot_forget_acc"):
            mean[name] = {str(shots): fmean(row[name][str(shots)] for row in rows) for shots in SHOTS}
    strongest = max(rows, key=lambda row: row["undone_forget_acc"])
    return {"mean": mean, "best_attack": strongest["undone_by"]}


def told(left: LeftBehind) -> dict[str, int] | None:
    """What the receipt alone says about which class was deleted: the place of the right one among so many guesses.

    None if nothing can be guessed: no class was deleted, or nothing is prescribed of the head.
    """
    label = deleted_label(left.forget, left.retain)
    guesses = guessed_labels(left.public)
    if label is None or not guesses:
        return None
    return {"place": guesses.index(label) + 1, "of": len(guesses)}


def after_attack(left: Sequence[LeftBehind]) -> dict[str, float]:
    """Mean accuracy after the best attempt without data at `LOSSES`[0], as a demo's table has it."""
    rows = []
    for one in left:
        for place, client in enumerate(one.clients):
            others = [model for index, model in enumerate(one.unlearned) if index != place]
            chosen = best(_tried(one, one.unlearned, place), LOSSES[0])
            label = deleted_label(one.forget, one.retain)
            model = carried_out(one.unlearned[place], others, one.public, label, chosen)
            judged = {**one.federation.judged(client), "forget": one.asked.judged(client)["forget"]}
            rows.append({name: accuracy(model, judged[name]) for name in DATA_SETS})
    return {name: fmean(row[name] for row in rows) for name in DATA_SETS}


def _tried(left: LeftBehind, models: Sequence[nn.Module], place: int) -> list[Attempt]:
    others = [one for index, one in enumerate(models) if index != place]
    return undo(models[place], others, left.public, left.forget, left.retain, deleted_label(left.forget, left.retain))


def _attacked(left: LeftBehind, models: Sequence[nn.Module], place: int) -> Mapping[str, Any]:
    tried, client, federation = _tried(left, models, place), left.clients[place], left.federation
    chosen = best(tried, LOSSES[0])
    seed = federation.seed * 100 + client
    return {
        "forget_acc": tried[0].forget,
        "retain_acc": tried[0].retain,
        "undone_forget_acc": chosen.forget,
        "undone_forget_acc_5": best(tried, LOSSES[1]).forget,
        "undone_by": chosen.name,
        "undone_retain_acc": chosen.retain,
        "kshot_forget_acc": kshot(models[place], left.forget, left.kept_by(client), seed, federation.config.few_shot),
    }


def _model(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    if not path.exists():
        raise InputError(
            f"{path} is not there", why="an attack needs the demo's models", fix="run the demo again with this release"
        )
    model = build()
    try:
        state = {name: torch.from_numpy(value) for name, value in load_arrays(path).items()}
        model.load_state_dict({**model.state_dict(), **state})
    except (RuntimeError, TypeError, ProtocolError) as e:
        raise StorageError(f"{path} is damaged", why=str(e)[:300], fix="run the demo again") from e
    return model.eval()


def _first(examples: Examples) -> Examples:
    order = torch.randperm(len(examples.labels), generator=torch.Generator().manual_seed(0))
    return examples.take(order[:_CAP])
