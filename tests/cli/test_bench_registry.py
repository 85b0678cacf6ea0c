"""`zkapex bench registry`: what an accepted proof costs the registry does not depend on the model's size."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import databases
import pytest
from typer.testing import CliRunner

from zkapex.cli import command_line
from zkapex.costs.registry import CHUNKS, Walk, _begin, bench_registry
from zkapex.errors import InputError
from zkapex.server.store.registry import Registry


@pytest.fixture(scope="module")
def server() -> Iterator[databases.Server]:
    if databases.programs() is None:
        pytest.skip(databases.WHY_NOT)
    with databases.postgresql("fsync=off") as running:
        yield running


def test_it_prints_milliseconds_by_database_and_size(server: databases.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert CHUNKS == (1024, 4096, 12288)
    monkeypatch.setattr("zkapex.costs.registry.CHUNKS", (8, 1030))  # to prepare the large ones takes a while
    command = ["bench", "registry", "--proofs", "3", "--database", server.database()]
    done = CliRunner().invoke(command_line(), [*command, "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["proofs"] == 3
    assert set(figures["ms_per_accepted_proof"]) == {"sqlite", "postgresql"}
    for by_chunks in figures["ms_per_accepted_proof"].values():
        assert set(by_chunks) == {"8", "1030"}
        assert all(ms > 0 for ms in by_chunks.values())
    assert "1030 chunks" in CliRunner().invoke(command_line(), command).stdout


def test_a_database_can_be_measured_again(server: databases.Server) -> None:
    place = server.database()
    for _ in range(2):
        figures = bench_registry(2, place, [8, 16])
        assert set(figures["ms_per_accepted_proof"]["postgresql"]) == {"8", "16"}
    with Registry(place, "benchmark") as registry:
        assert len(registry.clients()) == 4
        assert sorted(len(request.proofs) for request in registry.requests()) == [2, 2, 2, 2]


def test_more_proofs_than_chunks_are_refused() -> None:
    with pytest.raises(InputError, match="9 proofs"):
        bench_registry(9, None, [8])


def test_a_proof_costs_as_much_processor_time_at_twelve_times_the_chunks(tmp_path: Path) -> None:
    """Processor time, which what else the machine does hardly changes; a second try, as that is not nothing."""

    def cpu_s(walk: Walk, first: int) -> float:
        start = time.process_time()
        walk.accept(range(first, first + 20))
        return time.process_time() - start

    with Registry(tmp_path / "r.sqlite", "benchmark") as registry:
        small, large = _begin(registry, 512), _begin(registry, 6144)
        walks = (small, large)
        best = {512: float("inf"), 6144: float("inf")}
        for turn in range(6):
            for walk in walks:
                best[walk.n_chunks] = min(best[walk.n_chunks], cpu_s(walk, 20 * turn))
    assert best[6144] < 1.5 * best[512]
