"""JSON Schemas of what is signed for others: ``python -m zkapex.proofs.receipts.schemas docs/predicates``.

Each is that of a whole in-toto statement, made from the class that reads it: no page promises another format. What a
schema cannot say, such as that numbers are those of the receipts, is checked by the classes and said on the pages.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zkapex.proofs.keys.keyset import Keyset
from zkapex.proofs.receipts.receipt import Statement
from zkapex.proofs.receipts.report import Report
from zkapex.proofs.receipts.status import ReceiptStatus
from zkapex.proofs.receipts.v1 import StatementV1
from zkapex.proofs.records.record import Record

MODELS: Mapping[str, type[Record]] = MappingProxyType(
    {
        "deletion-receipt-v1": StatementV1,
        "deletion-receipt-v2": Statement,
        "deletion-report-v1": Report,
        "keyset-v1": Keyset,
        "receipt-status-v1": ReceiptStatus,
    }
)
"""What is signed, by the name of its page."""


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of `MODELS`."""
    model = MODELS[name]
    kind = model.model_fields["predicate_type"].default
    made = model.model_json_schema(by_alias=True, mode="validation")
    _plain(made)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"in-toto Statement v1 with the predicate {kind}",
        **made,
    }


def _plain(part: Any) -> None:
    """Take out what is about this package's classes and release, and a pattern that JSON Schema's dialect lacks."""
    if isinstance(part, dict):
        for name in ("title", "default"):
            if not isinstance(part.get(name), dict) or name == "default":
                part.pop(name, None)
        if part.get("pattern") == r"^[^\p{C}]+$":
            part["$comment"] = "one line, no control or invisible characters"
            del part["pattern"]
        for value in part.values():
            _plain(value)
    elif isinstance(part, list):
        for value in part:
            _plain(value)


def text(name: str) -> str:
    """The schema as a file."""
    return json.dumps(schema(name), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in MODELS:
        (Path(sys.argv[1]) / f"{name}.schema.json").write_text(text(name), encoding="utf-8")
