"""The guard refuses bundles that are not pinned before anything of them is unpacked, and all other tasks."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from zkapex.errors import InputError, ProtocolError
from zkapex.host.bundle import bundle_bytes, bundle_digest
from zkapex.host.guard import GUARDED, PINS, REFUSED, _guard, check_bundle, install_guard, read_pins


def test_the_bundle_is_the_same_every_time_and_the_one_that_is_out_in_the_world() -> None:
    """Devices of other releases pin this very digest: a change of it is a decision, not an accident."""
    assert bundle_bytes() == bundle_bytes()
    assert bundle_digest() == "2f84f52a58437b918447ed66893ae198c7a63668d8f27cbf7f17fdcf8c4a5e0c"


def test_only_a_pinned_bundle_under_its_own_digest_passes() -> None:
    content = bundle_bytes()
    check_bundle(content, bundle_digest(), (bundle_digest(),))
    with pytest.raises(ProtocolError, match="refused"):
        check_bundle(content + b"\0", None, (bundle_digest(),))
    with pytest.raises(ProtocolError, match="another bundle's digest"):
        check_bundle(content, "0" * 64, (bundle_digest(),))


@pytest.mark.parametrize("program", [*REFUSED, "flwr-serverapp"])
def test_programs_that_run_other_tasks_refuse(tmp_path: Path, program: str) -> None:
    """They are those that Flower finds first on PATH, and end at once."""
    install_guard(tmp_path / "guard", (bundle_digest(),), "flwr-clientapp")
    done = subprocess.run(
        [program, "--token", "x"], env={**os.environ, "PATH": str(tmp_path / "guard")}, capture_output=True
    )
    assert done.returncode == ProtocolError.exit_code, done.stderr
    assert b"runs nothing on this machine" in done.stderr


def test_software_that_a_bundle_names_is_not_installed(tmp_path: Path) -> None:
    install_guard(tmp_path / "guard", (bundle_digest(),), "flwr-clientapp")
    command = [str(tmp_path / "guard" / "flwr-clientapp"), "--allow-runtime-dependency-installation"]
    assert subprocess.run(command, capture_output=True).returncode == ProtocolError.exit_code


@pytest.mark.parametrize("text", ["", "\n", "abc\n", "0" * 63])
def test_without_pins_nothing_runs(tmp_path: Path, text: str) -> None:
    (tmp_path / PINS).write_text(text)
    with pytest.raises(InputError):
        read_pins(tmp_path / PINS)
    with pytest.raises(InputError):
        read_pins(tmp_path / "missing")


def flower(unpacked: list[bytes]) -> Any:
    """What the guard takes hold of in Flower's programs."""
    module: Any = ModuleType("program")
    module.fab_from_proto = lambda proto: proto
    module.install_from_fab = lambda content, **_: unpacked.append(content)
    module.get_load_client_app_fn = lambda **_: lambda *which: which
    return module


def test_nothing_of_a_foreign_bundle_is_unpacked() -> None:
    unpacked: list[bytes] = []
    module = flower(unpacked)
    _guard(module, (bundle_digest(),))
    evil = b"PK evil"
    module.fab_from_proto(SimpleNamespace(content=evil, hash_str=hashlib.sha256(evil).hexdigest()))
    with pytest.raises(ProtocolError, match="refused"):
        module.install_from_fab(evil, skip_prompt=True)
    with pytest.raises(ProtocolError, match="refused"):
        module.install_from_fab("/tmp/evil.fab", skip_prompt=True)
    assert not unpacked


def test_a_pinned_bundle_is_loaded_under_its_own_name_only() -> None:
    unpacked: list[bytes] = []
    module = flower(unpacked)
    _guard(module, (bundle_digest(),))
    content = bundle_bytes()
    module.fab_from_proto(SimpleNamespace(content=content, hash_str=bundle_digest()))
    module.install_from_fab(content, skip_prompt=True)
    load = module.get_load_client_app_fn(multi_app=True)
    own = ("zkapex/zkapex-deployed", "1.0.0", bundle_digest())
    assert load(*own) == own
    for other in (("a/../../../tmp", *own[1:]), (own[0], "2", own[2]), (*own[:2], "0" * 64)):
        with pytest.raises(ProtocolError, match="another name"):
            load(*other)
    assert unpacked == [content]


def test_a_release_of_flower_s_that_cannot_be_guarded_runs_nothing() -> None:
    with pytest.raises(InputError, match="cannot be guarded"):
        _guard(ModuleType("program"), (bundle_digest(),))


def test_the_installed_flower_has_what_the_guard_takes_hold_of() -> None:
    clients = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    servers = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    for module in (clients, servers):
        assert callable(module.fab_from_proto)
        assert callable(module.install_from_fab)
    assert callable(clients.get_load_client_app_fn)


def test_flower_starts_no_program_that_the_guard_does_not_know() -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    assert set(TASK_TYPE_TO_COMMAND.values()) <= set(GUARDED) | set(REFUSED)
