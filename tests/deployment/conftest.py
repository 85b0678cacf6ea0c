"""Devices of a test's own process derive the key of their state quickly; those that are programs take their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_derivation(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fifth of a second for every message otherwise: `Here` opens a device's folder anew each time."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(request.module, "Here"):
            from zkapex.client.state import cipher

            patch.setattr(cipher, "_SCRYPT", {**cipher._SCRYPT, "n": 2**8})
        yield
