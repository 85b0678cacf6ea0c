from __future__ import annotations

import json
from pathlib import Path

import line_app
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID

from zkapex.errors import InputError
from zkapex.transport.grid import Fate, InProcessGrid, run_config_of_app, run_in_process


def counting_app() -> ClientApp:
    """A ClientApp that counts its calls in the state that Flower keeps, and refuses to count to four."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        calls = int(str(context.state.config_records["calls"]["n"])) + 1 if "calls" in context.state else 1
        context.state["calls"] = ConfigRecord({"n": calls})
        if calls == 4:
            raise ValueError("four is too many")
        reply = ConfigRecord({"n": calls, "partition": context.node_config["partition-id"]})
        return Message(RecordDict({"reply": reply}), reply_to=message)

    return app


def ask(grid: InProcessGrid, *nodes: int, timeout: float | None = 1.0) -> list[Message]:
    messages = [Message(RecordDict(), node, "query.count") for node in nodes]
    return list(grid.send_and_receive(messages, timeout=timeout))


@pytest.fixture
def grid() -> InProcessGrid:
    return InProcessGrid(counting_app(), 3, {})


def test_a_whole_app_runs_on_it(tmp_path: Path) -> None:
    config: dict[str, str | int | float | bool] = {"work-dir": str(tmp_path), "rounds": 4, "dimension": 4, "fail": ""}
    run_in_process(line_app.server, InProcessGrid(line_app.client, 3, config), config)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["run.started", "trained", *["evaluated", "refused"] * 3, "run.completed"]
    assert all(event["loss"] < 0.1 for event in events if event["event"] == "evaluated")
    assert all("a line cannot enrol" in event["reason"] for event in events if event["event"] == "refused")


def test_settings_are_those_of_the_app() -> None:
    with pytest.raises(InputError) as caught:
        run_config_of_app({"no-such-setting": 1})
    assert "no-such-setting" in caught.value.why


def test_every_node_has_its_own_partition_and_state(grid: InProcessGrid) -> None:
    nodes = list(grid.get_node_ids())
    replies = ask(grid, *nodes, nodes[0])
    assert [dict(reply.content["reply"]) for reply in replies] == [
        {"n": 1, "partition": 0},
        {"n": 1, "partition": 1},
        {"n": 1, "partition": 2},
        {"n": 2, "partition": 0},
    ]
    assert [reply.metadata.src_node_id for reply in replies] == [*nodes, nodes[0]]


def test_a_restarted_node_has_lost_its_state(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    ask(grid, node, node)
    grid.restart_node(node)
    assert ask(grid, node)[0].content["reply"]["n"] == 1


def test_an_exception_is_an_error_reply_from_the_node(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    reply = ask(grid, *[node] * 4)[3]
    assert reply.has_error()
    assert reply.error.code == 2
    assert "four is too many" in (reply.error.reason or "")
    assert reply.metadata.src_node_id == node


def test_an_unknown_query_is_an_error_reply(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    [reply] = grid.send_and_receive([Message(RecordDict(), node, "query.unheard")])
    assert reply.error.code == 2


def test_an_unknown_node_is_reported_by_the_superlink(grid: InProcessGrid) -> None:
    [reply] = ask(grid, 12345)
    assert reply.error.code == 3
    assert reply.metadata.src_node_id == SUPERLINK_NODE_ID
    assert reply.metadata.reply_to_message_id == grid.sent[0].metadata.message_id


def test_a_lost_reply_is_missing_although_the_node_has_acted(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    grid.network = lambda _: Fate.REPLY_LOST
    assert ask(grid, node) == []
    grid.network = lambda _: Fate.DELIVERED
    assert ask(grid, node)[0].content["reply"]["n"] == 2


def test_a_lost_request_never_arrives(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    grid.network = lambda _: Fate.REQUEST_LOST
    assert ask(grid, node) == []
    assert [reply.error.code for reply in ask(grid, node, timeout=None)] == [4]
    grid.network = lambda _: Fate.DELIVERED
    assert ask(grid, node)[0].content["reply"]["n"] == 1


def test_a_node_that_is_down_is_reported_by_the_superlink(grid: InProcessGrid) -> None:
    first, second, _ = grid.get_node_ids()
    grid.network = lambda message: Fate.NODE_DOWN if message.metadata.dst_node_id == first else Fate.DELIVERED
    down, up = ask(grid, first, second)
    assert down.error.code == 5
    assert down.metadata.src_node_id == SUPERLINK_NODE_ID
    assert up.has_content()


def test_a_reply_is_handed_out_once(grid: InProcessGrid) -> None:
    node = next(iter(grid.get_node_ids()))
    ids = list(grid.push_messages([Message(RecordDict(), node, "query.count")]))
    assert [reply.has_content() for reply in grid.pull_messages(ids)] == [True]
    assert [reply.error.code for reply in grid.pull_messages(ids)] == [3]


def test_what_a_node_gets_is_a_copy() -> None:
    app = ClientApp()

    @app.query("spoil")
    def spoil(message: Message, context: Context) -> Message:
        message.content.config_records["config"]["word"] = "spoiled"
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(app, 1, {})
    content = RecordDict({"config": ConfigRecord({"word": "clean"}), "arrays": ArrayRecord([np.zeros(2)])})
    [node] = grid.get_node_ids()
    [reply] = grid.send_and_receive([Message(content, node, "query.spoil")])
    assert content["config"]["word"] == "clean"
    assert reply.content["config"]["word"] == "spoiled"
