from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from limits import refuses
from writers import arrays, writers

from zkapex.errors import InputError
from zkapex.simulation.scenarios import SCENARIOS, Sources, mnist_writers, scenario_config


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "writers.npz"
    np.savez(path, **arrays())
    return path


def test_clients_are_writers_and_nobody_is_on_two_sides(file: Path) -> None:
    bench = mnist_writers.MNIST_WRITERS.make(1, Sources(file))
    world = bench.world
    assert world.forget_class == 8
    parts = [writers(client.train.inputs) for client in world.clients]
    assert [len(part) for part in parts] == [16] * 4
    members = set().union(*parts)
    assert len(members) == 64
    assert not members & writers(bench.non_members.inputs)
    assert min(writers(bench.test.inputs)) >= 1000
    assert writers(world.forget_test.inputs) <= members
    assert set(bench.non_members.labels.tolist()) == set(world.forget_set.labels.tolist()) == {8}
    assert 8 not in {*bench.test.labels.tolist(), *world.retain_set.labels.tolist()}
    for client in world.clients:
        assert 8 not in {*client.personal.labels.tolist(), *client.personal_test.labels.tolist()}
        assert len(client.train.labels) == 256


def test_the_data_is_a_function_of_the_seed(file: Path) -> None:
    one, same, other = (mnist_writers.MNIST_WRITERS.make(seed, Sources(file)).world for seed in (0, 0, 3))
    assert torch.equal(one.retain_set.inputs, same.retain_set.inputs)
    assert not torch.equal(one.retain_set.inputs, other.retain_set.inputs)


def test_without_the_file_it_says_what_to_bring(tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent.npz"):
        with pytest.raises(InputError) as error:
            mnist_writers.MNIST_WRITERS.make(0, Sources(path))
        assert "--data" in error.value.fix
        assert "ZKAPEX_DATA" in error.value.fix


def drop(found: dict[str, Any]) -> None:
    del found["writer_test"]


def crop(found: dict[str, Any]) -> None:
    found["x_train"] = found["x_train"][:, :20]


def scale(found: dict[str, Any]) -> None:
    found["x_train"] = found["x_train"] / 255


def shorten(found: dict[str, Any]) -> None:
    found["hsf_train"] = found["hsf_train"][1:]


def mislabel(found: dict[str, Any]) -> None:
    found["y_test"] = found["y_test"] + 1


def few(found: dict[str, Any]) -> None:
    found["writer_train"] = found["writer_train"] % 100


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (drop, "writer_test"),
        (crop, "28, 28"),
        (scale, "uint8"),
        (shorten, "long"),
        (mislabel, "no digits"),
        (few, "100 writers"),
    ],
)
def test_a_file_that_is_something_else_is_refused(damage: Any, what: str, tmp_path: Path) -> None:
    found = arrays()
    damage(found)
    np.savez(tmp_path / "bad.npz", **found)
    with pytest.raises(InputError, match=what):
        mnist_writers.MNIST_WRITERS.make(0, Sources(tmp_path / "bad.npz"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable"):
        mnist_writers.MNIST_WRITERS.make(0, Sources(tmp_path / "bad.npz"))


def test_scenarios_by_name() -> None:
    assert [scenario_config(name).name for name in SCENARIOS] == list(SCENARIOS)
    assert "mnist-writers" in SCENARIOS
    with pytest.raises(InputError, match="no scenario 'letters'"):
        scenario_config("letters")


def test_digits_needs_no_file_and_forgets_another_digit_every_seed() -> None:
    benches = [scenario_config("digits").make(seed, Sources()) for seed in range(3)]
    assert [bench.world.forget_class for bench in benches] == [3, 8, 5]
    assert all(len(bench.world.clients) == 4 for bench in benches)


def made(tmp_path: Path, seed: int = 0, **changes: Any) -> None:
    np.savez(tmp_path / "w.npz", **{**arrays(), **changes})
    mnist_writers.MNIST_WRITERS.make(seed, Sources(tmp_path / "w.npz"))


def test_data_without_the_digit_to_forget_are_refused_before_training(tmp_path: Path) -> None:
    labels = arrays()["y_train"]
    error = refuses("writers-no-digit", lambda: made(tmp_path, y_train=np.where(labels == 3, 4, labels)))
    assert "digit 3" in error.what
    assert str(tmp_path / "w.npz") in error.what
    made(tmp_path, seed=1, y_train=np.where(labels == 3, 4, labels))


def test_a_client_with_nothing_but_that_digit_is_refused(tmp_path: Path) -> None:
    labels = arrays()["y_train"]
    refuses("writers-one-digit", lambda: made(tmp_path, y_train=np.full_like(labels, 3)))


def test_labels_with_fractions_are_refused(tmp_path: Path) -> None:
    labels = arrays()["y_train"]
    refuses("writers-fractions", lambda: made(tmp_path, y_train=labels + 0.5))
