"""What the demo prints at its end names every client, every node that is none, and how the clients were audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zkapex.cli.demo import show

ACCURACY = {"forget": 0.5, "retain": 0.5, "personal": None}
COST = {"prove_cpu_s": 1.0, "prover_peak_rss_mb": 100.0, "proof_bytes": 3000, "verify_s": 0.1}
FULL = {"mode": "full", "count": None, "cheating": None, "detection": None}
SAMPLED = {"mode": "sampled", "count": 2, "cheating": 0.3, "detection": 0.607}


def summary(
    audit: dict[str, Any], not_enrolled: list[dict[str, str]], operator: str = "guarded-group-obs"
) -> dict[str, Any]:
    client = {
        "id": "0123456789abcdef", "verdict": "proved", "reason": None, "chunks": 8, "chunks_proved": 2,
        "receipt": "receipts/0123456789abcdef", "audit": audit, **COST,
    }  # fmt: skip
    accuracy = dict.fromkeys(("before", "masked", "after"), ACCURACY)
    settings = {"operator": operator}
    return {
        "settings": settings, "clients": [client], "accuracy": accuracy, "oracle": ACCURACY,
        "not_enrolled": not_enrolled, "proposal": None, "forgotten": "the digit 3", "requests": [],
    }  # fmt: skip


def told(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    show(found, Path("out"))
    return " ".join(capsys.readouterr().out.split())


def test_a_node_that_did_not_enrol_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    outsider = {"node": "98765432109876543210", "reason": "enrol: the client could not enrol ([bold]battery[/])"}
    text = told(summary(FULL, [outsider]), capsys)
    assert "node 9876543210987654 did not enrol" in text
    assert "enrol: the client could not enrol ([bold]battery[/])" in text
    assert "drawn at random" not in text
    assert "did not enrol" not in told(summary(FULL, []), capsys)


def test_a_sampled_audit_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(summary(SAMPLED, []), capsys)
    assert "2 of 8" in text
    assert "whoever leaves 30 % of them undone is found out with probability 60.7 %" in text


@pytest.mark.parametrize(
    ("operator", "rows", "claim", "disclaimer"),
    [
        ("guarded-group-obs", {"mask alone", "after compensation"}, "guarded Group-OBS repair", "committed curvature"),
        ("mask-only", {"after: masked weights zero"}, "whatever the others are", "anything to do with earlier ones"),
        ("dampening", {"masked weights zeroed instead", "after: dampened"}, "factors and rounded", "chosen well"),
    ],
)
def test_the_report_speaks_of_the_operator_that_ran(
    operator: str, rows: set[str], claim: str, disclaimer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(summary(FULL, [], operator), capsys)
    everything = {"mask alone", "after compensation", "after: masked weights zero", "after: dampened"}
    assert {row for row in everything | rows if row in text} == rows
    assert claim in text
    assert disclaimer in text
