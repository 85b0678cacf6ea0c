"""The pages about deployment and operation are carried out, command by command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer.main
from machines import FAKETIME, SMALL, Command, Machines, commands_of

from zkapex.cli import command_line
from zkapex.proofs.receipts.chain import verify_chain
from zkapex.proofs.records.signing import load_public_key

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("deployment.md", "operations.md")


def zkapex_lines() -> Iterator[Command]:
    for page in PAGES:
        yield from (command for command in commands_of(DOCS / page) if command.text.startswith("zkapex "))


def test_every_command_of_the_pages_exists_with_its_options() -> None:
    lines = list(zkapex_lines())
    assert len(lines) > 40
    for line in lines:
        words = shlex.split(line.text.partition(">")[0])[1:]
        command = typer.main.get_command(command_line())
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        words = [word for word in words if word != "&"]
        with command.make_context(None, words, resilient_parsing=False) as context:
            assert context.command is command, line.text


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("instead", "state", "apart"),
    [(SMALL, "proved", None), (SMALL, "proved", False), ({}, "enrolled", None)],
    ids=["small", "loopback", "digits"],
)
def test_the_pages_lead_from_empty_machines_to_chained_receipts(
    tmp_path: Path, instead: Mapping[str, str], state: str, apart: bool | None
) -> None:
    """With a perceptron of the tests, and as they stand; where there is libfaketime, 15 days pass between requests.

    Each machine is in a network namespace of its own where these may be made; once all share the loopback interface.

    As they stand, devices train on after a deletion and enrol what comes of it; of the perceptron, weights are masked.
    """
    with Machines(tmp_path, instead, apart) as machines:
        machines.follow(DOCS / "deployment.md")
        federation = tmp_path / "server" / "zkapex" / "provider" / "federation"
        chains = verify_chain(federation / "receipts", [load_public_key(federation / "key.pub")])
        assert len(chains) == 2
        for chain in chains:
            receipts = [one.bundle.receipt for one in chain.receipts]
            assert [one.outcome.verdict for one in receipts] == ["proved", "proved"]
            assert [one.facts.request_id for one in receipts] == ["forget-threes", "forget-fives"]
            if FAKETIME.exists():
                assert (receipts[1].outcome.issued_at - receipts[0].outcome.issued_at).days >= 14
        for said in machines.output("device status")[-2:]:
            assert "forget-fives, forget-threes" in said, "each device has its receipts"
        machines.follow(DOCS / "operations.md")
        (metrics,) = machines.output("grep -E")
        assert f'zkapex_clients{{state="{state}"}} 2' in metrics
        assert "zkapex_up 1" in metrics
        assert "device.retired" in machines.output("audit-trail $DIR")[-1]
        assert not (tmp_path / "first" / "device").exists()
        assert not machines.unused
