"""The stages of an evaluation on disk: each is done once; after an interruption it goes on with the next."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from zkapex.errors import StorageError
from zkapex.server.requests.plan import StoredPlan, load_plan
from zkapex.simulation.evaluation.metrics.membership import Shadows, Signals
from zkapex.storage import load_arrays, load_json, save_arrays, save_text

OnEvent = Callable[[dict[str, Any]], None]


class Shelf:
    """Results of stages, made once and kept on disk with the time they took."""

    def __init__(self, build: Callable[[int], nn.Module], seed: int, folder: Path, on_event: OnEvent) -> None:
        self._build, self._seed, self._folder, self._on_event = build, seed, folder, on_event
        self.seconds: dict[str, float] = {}

    def arrays(
        self, stage: str, make: Callable[[], dict[str, npt.NDArray[np.generic]]]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays of a stage. Raises StorageError if its file is damaged."""
        path = self._folder / f"{stage}.npz"
        if not path.exists():
            self._on_event({"event": "stage", "stage": stage, "seed": self._seed})
            start = time.perf_counter()
            made = make()
            save_arrays(path, {**made, "seconds": np.array(time.perf_counter() - start)})
        found = load_arrays(path)
        if "seconds" not in found:
            raise StorageError(f"{path} is damaged", fix="delete it and run again")
        self.seconds[stage] = float(found.pop("seconds"))
        return found

    def models(self, stage: str, make: Callable[[], Sequence[nn.Module]]) -> list[nn.Module]:
        """Models of a stage, in order. Raises StorageError if its file is damaged.

        Only what training changed is kept: most of a pretrained model may be frozen.
        """
        fresh = self._build(self._seed)

        def states() -> dict[str, npt.NDArray[np.generic]]:
            start, made = fresh.state_dict(), make()
            changed = {
                f"{index}/{name}": value.numpy()
                for index, model in enumerate(made)
                for name, value in model.state_dict().items()
                if not torch.equal(value, start[name])
            }
            return {**changed, "models": np.array(len(made))}

        found = self.arrays(stage, states)
        models: list[nn.Module] = []
        path = self._folder / f"{stage}.npz"
        try:
            for index in range(int(found.pop("models"))):
                model, prefix = copy.deepcopy(fresh), f"{index}/"
                state = {n.removeprefix(prefix): torch.from_numpy(a) for n, a in found.items() if n.startswith(prefix)}
                model.load_state_dict({**model.state_dict(), **state})
                models.append(model.eval())
        except (KeyError, RuntimeError) as e:
            raise StorageError(f"{path} is damaged", why=str(e)[:300], fix="delete it and run again") from e
        return models

    def shadows(self, make: Callable[[], Shadows]) -> Shadows:
        """Shadow models' signals. Raises StorageError if their file is damaged."""

        def arrays() -> dict[str, npt.NDArray[np.generic]]:
            made = make()
            return {**vars(made.signals), "trained_on": made.trained_on}

        found = self.arrays("shadows", arrays)
        try:
            odds, likelihood = (found[name].astype(np.float64) for name in ("log_odds", "log_likelihood"))
            return Shadows(Signals(odds, likelihood), found["trained_on"].astype(np.bool_))
        except KeyError as e:
            path = self._folder / "shadows.npz"
            raise StorageError(f"{path} is damaged", why=f"it lacks {e}", fix="delete it and run again") from e

    def plan(self, make: Callable[[], StoredPlan], stage: str = "plan") -> StoredPlan:
        """The plan of a stage: other than ``plan`` in a folder of that name. Raises StorageError if it is damaged."""
        path = self._folder / f"{stage}-seconds.json"
        folder = self._folder if stage == "plan" else self._folder / stage
        if not path.exists():
            self._on_event({"event": "stage", "stage": stage, "seed": self._seed})
            start = time.perf_counter()
            make()
            save_text(path, str(time.perf_counter() - start))
        self.seconds[stage] = float(load_json(path))
        plan = load_plan(folder)
        if plan is None:
            raise StorageError(f"the plan in {folder} is gone", fix=f"delete {path} and run again")
        return plan
