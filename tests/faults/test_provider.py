"""A provider, or whoever has its key, that asks for what would bring deleted weights back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from faults import FIRST, SECOND, Site
from invariants import check
from life import MASKS, left

from zkapex.server.requests import opening


def test_a_device_refuses_what_does_not_keep_its_zeros(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed and well formed, but the mask leaves out what the first request deleted in a chunk that it touches."""
    monkeypatch.setattr(opening, "require_kept", lambda *_, **__: None)  # whoever has the key runs other code
    with site.service() as service:
        grid = site.grid()
        service.join(grid)
        service.plan(grid, SECOND)
        bad = replace(service._deletion(SECOND), masks=MASKS[SECOND])
        service._coordinator(grid).open(bad)
        service.distribute(grid, SECOND)
    with site.registry() as registry:
        request = registry.request(site.client_id(0), SECOND)
    assert request is not None
    assert request.verdict == "failed"
    assert "would bring back what an earlier one removed" in request.reason
    assert not site.vault(0).inner("requests", SECOND).has("response.json")
    assert left(site.deployed(0), MASKS[FIRST]) == left(site.committed(0), MASKS[FIRST]) == 0
    check(site, over=False)
