"""Runs that are expensive enough to be shared by several test modules.

Nothing here is imported before a fixture needs it: tests of the verifier run where there is no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from federation import Federation

TORCH = find_spec("torch") is not None
LONG = (
    "simulation/test_demo", "project/test_new", "server/test_run", "simulation/test_evaluate", "server/test_life_cycle",
    "simulation/test_launch", "deployment/test_operations", "faults/test_kills", "faults/test_backups",
    "server/test_one_federation", "server/test_targets", "server/test_coordinator", "simulation/test_federation",
    "outside/test_operator_from_outside", "server/test_transparent", "proofs/test_chunk", "test_docs", "soak/test_soak",
)  # fmt: skip
"""Files that take most of the time, a minute each or so: whichever came last would leave all workers but one idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; whole files stay together, and in their order."""
    rank = {Path(f"{name}.py"): at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(Path(__file__).parent), len(rank)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread_each() -> Iterator[None]:
    """As in a run, here and in every program that is started: several threads of torch would only take turns."""
    if TORCH:
        import torch

        torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True, scope="module")
def _provers_are_near(request: pytest.FixtureRequest) -> Iterator[None]:
    """Devices prove in the test's process, but where processes are the subject: `near` says why."""
    if TORCH and not {"proofs", "faults"} & set(request.path.parts):
        from near import proving

        with proving(here=True):
            yield
    else:
        yield


@pytest.fixture(autouse=True, scope="session")
def _nothing_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data of the user's, and what earlier tests left in the cache of features, decide nothing. Keys are kept."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ZKAPEX_DATA", "ZKAPEX_MODEL"):
            patch.delenv(name, raising=False)
        if TORCH:
            from zkapex.simulation.data import features

            folder, cache_root = tmp_path_factory.mktemp("features"), features.cache_root
            given = os.environ.get("ZKAPEX_CACHE")
            patch.setattr(
                features, "cache_root", lambda: folder if os.environ.get("ZKAPEX_CACHE") == given else cache_root()
            )
        yield


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A finished run of two honest clients and one for every way to cheat, in this order. Not to be changed."""
    from federation import CHEATERS, HALO2, Federation, mixed
    from filelock import FileLock
    from near import proving

    # One for all workers: whoever comes second goes on with a run that is finished, which takes next to nothing.
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    federation = Federation(shared / "market" / "run", clients=2 + len(CHEATERS), device=mixed, settings=HALO2)
    with FileLock(shared / "market.lock"), proving(here=False):
        federation.serve()
    return federation


@pytest.fixture(scope="session")
def result(market: Federation) -> dict[str, Any]:
    """What the finished run says happened."""
    return market.result()


@pytest.fixture(scope="session")
def receipt(market: Federation, result: dict[str, Any]) -> Path:
    """Folder of an honest client's receipt."""
    path: str = market.row(result, 0)["receipt"]
    return market.folder / path
