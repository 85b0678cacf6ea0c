"""The context element changes with everything a proof must be bound to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkapex.proofs.chunk.context import BN254_SCALAR_FIELD, context_element

BASE: dict[str, Any] = {
    "request_id": "r1",
    "client_id": "aa" * 32,
    "manifest_digest": "bb" * 32,
    "layer": "blocks.0.fc1",
    "block": 1,
    "band": 2,
    "circuit_digest": "cc" * 32,
    "nonce": "dd" * 32,
}


@pytest.mark.parametrize("field", BASE)
def test_every_field_counts(field: str) -> None:
    value = BASE[field]
    changed = BASE | {field: value + 1 if isinstance(value, int) else value + "0"}
    assert context_element(**changed) != context_element(**BASE)


def test_fields_do_not_run_into_each_other() -> None:
    shifted = BASE | {"request_id": "r1a", "client_id": "a" * 63}
    assert context_element(**shifted) != context_element(**BASE)
    assert context_element(**BASE | {"block": 2, "band": 1}) != context_element(**BASE)


@given(st.text(max_size=10), st.integers(0, 2**40))
def test_it_is_a_field_element(nonce: str, block: int) -> None:
    element = context_element(**BASE | {"nonce": nonce, "block": block})
    assert 0 <= element < BN254_SCALAR_FIELD


def test_it_is_stable() -> None:
    """Receipts outlive releases: the value of a given context must never change."""
    assert context_element(**BASE) == STABLE


STABLE = 18023848360864028760580014922901966051501493871972432679444146359745341938093
