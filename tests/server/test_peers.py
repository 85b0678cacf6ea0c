"""Asking many nodes: every node gets one answer, whatever becomes of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from federation import step_of
from flwr.app import ConfigRecord, Context, Message, RecordDict

from zkapex.client.app import Agent, make_client_app
from zkapex.errors import ProverError
from zkapex.transport.grid import Fate, InProcessGrid, Network, reliable
from zkapex.transport.peers import Answer, Peers, Trouble, wait_s

Act = Callable[[int], RecordDict]


def peers(nodes: int, act: Act, network: Network = reliable) -> tuple[Peers, Counter[int]]:
    """Peers of a grid whose devices answer with `act`, and how often each was heard."""
    heard: Counter[int] = Counter()

    def factory(context: Context) -> Agent:
        index = int(context.node_config["partition-id"])

        class Device:
            def train(self, content: RecordDict) -> RecordDict:
                raise AssertionError

            def answer(self, query: str, content: RecordDict) -> RecordDict:
                heard[index] += 1
                return act(index)

        return Device()

    return Peers(InProcessGrid(make_client_app(factory), nodes, {}, network), timeout_s=0.2), heard


def says(index: int) -> RecordDict:
    return RecordDict({"index": ConfigRecord({"is": index})})


def ask(some: Peers, attempts: int = 3) -> tuple[list[Answer], list[int]]:
    """The answers in the order of the nodes' numbers, and the order in which they were reported."""
    reported: list[int] = []
    nodes = some.nodes()
    answers = some.ask(
        "prove", {node: RecordDict() for node in nodes}, attempts, lambda node, answer: reported.append(node)
    )
    assert sorted(reported) == sorted(answers) == nodes, "every node is reported once"
    return [answers[node] for node in nodes], reported


def test_everybody_answers() -> None:
    some, heard = peers(3, says)
    answers, _ = ask(some)
    assert {answer["index"]["is"] for answer in answers if isinstance(answer, RecordDict)} == {0, 1, 2}
    assert set(heard.values()) == {1}


def test_nobody_to_ask() -> None:
    some, _ = peers(1, says)
    assert some.ask("prove", {}) == {}


@pytest.mark.parametrize("fate", [Fate.REQUEST_LOST, Fate.REPLY_LOST, Fate.NODE_DOWN])
@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_node_is_asked_three_times(fate: Fate, losses: int) -> None:
    met: Counter[int] = Counter()

    def network(message: Message) -> Fate:
        assert step_of(message) == "prove"
        met[message.metadata.dst_node_id] += 1
        return fate if met[message.metadata.dst_node_id] <= losses else Fate.DELIVERED

    some, _ = peers(2, says, network)
    answers, _ = ask(some)
    assert set(met.values()) == {min(losses + 1, 3)}
    for answer in answers:
        if losses < 3:
            assert isinstance(answer, RecordDict)
        else:
            assert isinstance(answer, Trouble)
            assert not answer.reachable
            assert answer.reason


def test_an_error_of_the_device_is_not_an_absence() -> None:
    def fails(index: int) -> RecordDict:
        if index:
            raise ProverError("no\nmemory " + "x" * 1000)
        return says(index)

    some, heard = peers(2, fails)
    answers, _ = ask(some)
    (trouble,) = [answer for answer in answers if isinstance(answer, Trouble)]
    assert trouble.reachable
    assert "no memory" in trouble.reason
    assert len(trouble.reason) <= 500
    assert heard == {0: 1, 1: 3}


def test_a_node_that_has_left_is_an_absence() -> None:
    some, _ = peers(1, says)
    answers = some.ask("prove", {12345: RecordDict()}, attempts=1)
    (answer,) = answers.values()
    assert isinstance(answer, Trouble)
    assert not answer.reachable


def test_the_longer_nothing_comes_the_less_often_it_is_looked_for() -> None:
    """A look costs a SuperLink more than a device's silence is worth; nobody waits a tenth longer than it took."""
    silent = [0.0, 0.5, 1.0, 5.0, 15.0, 20.0, 600.0]
    assert [round(wait_s(one), 3) for one in silent] == [0.1, 0.1, 0.1, 0.5, 1.5, 2.0, 2.0]
    looks, clock = 0, 0.0
    while clock < 600:
        looks, clock = looks + 1, clock + wait_s(clock)
    assert looks < 400, "ten a second would be 6000"
