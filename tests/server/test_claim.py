"""A folder belongs to one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from federation import Federation, refused

from zkapex.errors import InputError, StorageError
from zkapex.server.federation.claim import claim
from zkapex.server.federation.settings import DECISIVE, RunSettings
from zkapex.transport.grid import run_config_of_app


def settings(**other: Any) -> RunSettings:
    return RunSettings.from_config(
        run_config_of_app({"operator": "guarded-group-obs", **{name.replace("_", "-"): v for name, v in other.items()}})
    )


OTHER = {
    "rounds": 6, "personal_epochs": 3, "personal_lr": 0.5, "profile": "edge", "operator": "mask-only",
    "curvature": "block-fisher", "guard_rank": 1, "seed": 9, "prove_curvature": True, "backend": "transparent",
}  # fmt: skip


@pytest.mark.parametrize("name", DECISIVE)
def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    provider = Federation(tmp_path).provider
    claim(tmp_path / "run.json", provider, settings())
    claim(tmp_path / "run.json", provider, settings(timeout_s=7, batch=1))
    before = (tmp_path / "run.json").read_bytes()
    error = refused(lambda: claim(tmp_path / "run.json", provider, settings(**{name: OTHER[name]})), InputError)
    assert name.replace("_", "-") in error.why
    assert (tmp_path / "run.json").read_bytes() == before


def test_another_federations_run_is_not_gone_on_with(tmp_path: Path) -> None:
    provider = Federation(tmp_path).provider
    claim(tmp_path / "run.json", provider, settings())
    provider.federation = "another"
    assert "federation" in refused(lambda: claim(tmp_path / "run.json", provider, settings()), InputError).why


@pytest.mark.parametrize(("text", "kind"), [("[]", InputError), ("{", StorageError)])
def test_a_damaged_mark(tmp_path: Path, text: str, kind: type[InputError]) -> None:
    (tmp_path / "run.json").write_text(text)
    refused(lambda: claim(tmp_path / "run.json", Federation(tmp_path).provider, settings()), kind)
