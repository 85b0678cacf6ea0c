from __future__ import annotations

import pytest
import torch

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples, Shift, client_shift, digits_scenario, proxy_shift


def key(examples: Examples) -> set[bytes]:
    return {x.numpy().tobytes() for x in examples.inputs}


def test_the_scenario_is_a_function_of_the_seed() -> None:
    a, b, c = (digits_scenario(seed=s) for s in (0, 0, 1))
    assert torch.equal(a.clients[2].personal.inputs, b.clients[2].personal.inputs)
    assert not torch.equal(a.clients[2].personal.inputs, c.clients[2].personal.inputs)


@pytest.mark.parametrize("clients", [1, 4, 7])
def test_partitions_are_disjoint_and_unseen_by_the_tests(clients: int) -> None:
    s = digits_scenario(clients, forget_class=5, seed=0)
    parts = [c.train for c in s.clients]
    assert len({len(p.labels) for p in parts}) == 1
    assert sum(len(p.labels) for p in parts) == len(s.forget_set.labels) + len(s.retain_set.labels)
    seen = key(s.forget_set) | key(s.retain_set)
    assert sum(len(key(p)) for p in parts) == len(seen)
    assert not seen & (key(s.forget_test) | key(s.retain_test))


def test_only_training_and_forget_data_hold_the_forget_class() -> None:
    s = digits_scenario(forget_class=8, seed=3)
    assert set(s.forget_set.labels.tolist()) == set(s.forget_test.labels.tolist()) == {8}
    for examples in (s.retain_set, s.retain_test, *(e for c in s.clients for e in (c.personal, c.personal_test))):
        assert 8 not in examples.labels
        assert len(set(examples.labels.tolist())) == 9
    assert all(8 in c.train.labels for c in s.clients)


def test_personal_data_is_the_partition_seen_through_the_clients_own_shift() -> None:
    s = digits_scenario(seed=0)
    for client in s.clients:
        again = client.shift(client.train.without(s.forget_class))
        assert torch.equal(client.personal.inputs, again.inputs)
        assert torch.equal(client.personal.labels, again.labels)
    everybody = [client_shift(i) for i in range(30)]
    assert len({shift.degrees for shift in everybody}) == 30
    assert not {(x.contrast, x.degrees) for x in everybody} & {
        (x.contrast, x.degrees) for x in map(proxy_shift, range(9))
    }


def test_shift_rotates_and_changes_brightness() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 0, 1] = 1.0
    example = Examples(image, torch.tensor([1]))
    assert torch.allclose(Shift(0.0)(example).inputs, image, atol=1e-6)
    assert torch.allclose(Shift(180.0)(example).inputs, image.flip(2, 3), atol=1e-5)
    assert torch.allclose(Shift(0.0, -1.0, 1.0)(example).inputs, 1 - image, atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"clients": 0}, {"clients": 500}, {"forget_class": 10}, {"test_fraction": 0.0}, {"test_fraction": 1.0}],
)
def test_impossible_scenarios_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError):
        digits_scenario(**arguments)
