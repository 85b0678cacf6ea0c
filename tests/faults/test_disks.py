"""Disks that are full, on either side: what was there stays, what was asked is done when there is space again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import SECOND, THIRD, Site
from invariants import check

from zkapex.errors import StorageError
from zkapex.server.store.registry import Registry

KIB = 1024


def can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    probe = Path(f"/tmp/zkapex-mount-{os.getpid()}")
    probe.mkdir()
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", probe], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", probe], check=True)
        return True
    finally:
        probe.rmdir()


pytestmark = pytest.mark.skipif(not can_mount(), reason="a file system can be mounted by root only")


@contextmanager
def full(folder: Path, left_kib: int, moved: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The folder on a file system of its own that has only so much space left."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,size={size + 16384 * KIB}", "tmpfs", folder], check=True)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        moved()
        filler = folder / "filler"
        free = shutil.disk_usage(folder).free
        filler.write_bytes(bytes(max(0, free - left_kib * KIB)))
        yield
        filler.unlink()
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()
        aside.rename(folder)
        moved()


def go_on(site: Site) -> None:
    site.campaign(SECOND)
    assert site.campaign() == []
    check(site, over=True)
    site.campaign(THIRD)
    check(site, over=True)


@pytest.mark.slow
@pytest.mark.parametrize("left", [8, 0, 16, 24, 40, 60, 80])
def test_a_device_whose_disk_is_full_is_asked_again(site: Site, left: int) -> None:
    """A request takes a device of this size between 80 and 160 KiB: it gets further with every one of these."""
    with full(site.state(0), left, lambda: site.moved(0)):
        site.campaign(SECOND)
        check(site, over=False)
        with site.registry() as registry:
            (client,) = (one for one in registry.clients() if one.client_id == site.client_id(0))
            assert client.status == "unreachable"
    go_on(site)


@pytest.mark.slow
def test_a_device_that_has_just_enough_space_does_what_it_is_asked(site: Site) -> None:
    enough = {"halo2": 160, "transparent": 4096}[site.settings["backend"]]
    with full(site.state(0), enough, lambda: site.moved(0)):
        site.campaign(SECOND)
        assert check(site, over=True)[SECOND][site.client_id(0)] == "proved"
    go_on(site)


@pytest.mark.parametrize("left", [pytest.param(kib, marks=pytest.mark.slow) for kib in (0, 8, 40, 80, 160, 320, 640)])
def test_a_server_whose_disk_is_full_goes_on_later(site: Site, left: int) -> None:
    """Everything of the server but the devices: its registry, its log, receipts and models."""
    devices = site.folder / "devices"
    aside = site.folder.with_name("devices")
    devices.rename(aside)
    with full(site.folder, left):
        (site.folder / "devices").symlink_to(aside)
        with pytest.raises(StorageError) as caught:
            site.campaign(SECOND)
        assert "full" in caught.value.explain() or "space" in caught.value.explain(), caught.value.explain()
        (site.folder / "devices").unlink()
    aside.rename(devices)
    check(site, over=False)
    go_on(site)


@pytest.mark.parametrize("left", [0, 8, 24, 40])
def test_a_registry_that_has_no_room_for_its_log_says_that_the_disk_is_full(tmp_path: Path, left: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with Registry(folder / "registry.sqlite", "small") as registry:
        kept = registry.verify_trail()
    with full(folder, left), pytest.raises(StorageError, match="cannot grow") as caught:
        _invite(folder / "registry.sqlite")
    assert caught.value.why == "the disk is full"
    assert caught.value.retryable
    with Registry(folder / "registry.sqlite", "small") as registry:
        registry.verify_trail(kept)


def _invite(path: Path) -> None:
    with Registry(path, "small") as registry:
        for _ in range(100):
            registry.invite()
