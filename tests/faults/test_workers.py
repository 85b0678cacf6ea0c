"""SIGKILL for the processes that prove and that verify: their work is done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from faults import SECOND, THIRD, Site
from invariants import check

from zkapex.errors import SaltsSpentError

pytestmark = pytest.mark.parametrize("finished", ["halo2"], indirect=True)
"""The other backend's prover is done before anybody could hunt it."""


@contextmanager
def hunted(kind: str, times: int) -> Iterator[list[int]]:
    """So many worker processes of a kind below this one are killed as soon as they have begun to work."""
    over, killed = threading.Event(), []

    def hunt() -> None:
        while not over.is_set() and len(killed) < times:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.pid in killed or "zkapex.proofs.jobs.service" not in process.cmdline():
                        continue
                    if kind in process.cmdline() and process.cpu_times().user > 0.3 and len(killed) < times:
                        process.kill()
                        killed.append(process.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 20])
def test_workers_that_prove(site: Site, times: int) -> None:
    """Every attempt opens commitments, finished or not: whose salts that has used up enrols anew, and is not blamed."""
    with hunted("prove", times) as killed:
        site.campaign(SECOND)
    assert killed
    check(site, over=False)
    site.campaign(SECOND)
    site.campaign(THIRD)
    verdicts = check(site, over=True, may_fail=[SECOND] if times > 1 else [])
    honest = {site.client_id(index) for index in site.honest()}
    with site.service() as service:
        for request in service.registry.requests(SECOND):
            if request.client_id in honest and verdicts[SECOND][request.client_id] != "proved":
                assert SaltsSpentError.SENTENCE in request.reason


@pytest.mark.slow
def test_workers_that_verify(finished: Site, tmp_path: Path) -> None:
    site = finished.copy(tmp_path / "site", settings={"verify-workers": 1})
    with hunted("verify", 1) as killed:
        site.campaign(SECOND)
    assert killed
    site.campaign(THIRD)
    check(site, over=True)
