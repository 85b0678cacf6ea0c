"""Old backups that are restored: of a device, and of the server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faults import FIRST, SECOND, THIRD, Site
from invariants import check
from life import MASKS, left

from zkapex.errors import VerificationError


@pytest.mark.slow
def test_a_device_that_is_restored_from_before_a_request(site: Site, tmp_path: Path) -> None:
    """It serves again what the request deleted, until it is next heard from: then it has to put the zeros back."""
    shutil.copytree(site.state(0), tmp_path / "backup")
    site.campaign(SECOND)
    check(site, over=True)
    shutil.rmtree(site.state(0))
    shutil.copytree(tmp_path / "backup", site.state(0))
    assert left(site.deployed(0), MASKS[SECOND]) > 0
    assert site.campaign() == []
    for masks in (MASKS[FIRST], MASKS[SECOND]):
        assert left(site.deployed(0), masks) == left(site.committed(0), masks) == 0
    verdicts_before = check(site, over=False)
    site.campaign(THIRD)
    verdicts = check(site, over=False)
    assert verdicts[THIRD][site.client_id(0)] == "proved"
    assert verdicts[SECOND] == verdicts_before[SECOND]


@pytest.mark.slow
def test_a_device_that_is_restored_from_the_middle_of_a_request(site: Site, tmp_path: Path) -> None:
    with site.service() as service:
        grid = site.grid()
        service.join(grid)
        service.plan(grid, SECOND)
        service.open(grid, SECOND)
        service.distribute(grid, SECOND)
    site.asked = (*site.asked, SECOND)
    shutil.copytree(site.state(0), tmp_path / "backup")
    site.campaign()
    check(site, over=True)
    shutil.rmtree(site.state(0))
    shutil.copytree(tmp_path / "backup", site.state(0))
    site.campaign(THIRD)
    verdicts = check(site, over=False)
    # What was copied has forgotten openings, of which the transparent backend has none to spare: it enrols again first.
    copied = site.settings["backend"] == "transparent"
    assert verdicts[THIRD][site.client_id(0)] == ("failed" if copied else "proved")
    assert site.campaign() == []


def test_a_server_that_is_restored_from_before_a_request(site: Site, tmp_path: Path) -> None:
    """Devices have done what it no longer knows of. Its trail is shorter than the head somebody noted."""
    server = tmp_path / "backup"
    shutil.copytree(site.folder, server, ignore=shutil.ignore_patterns("devices"))
    site.campaign(SECOND)
    check(site, over=True)
    with site.registry() as registry:
        head = registry.verify_trail()
    for path in site.folder.iterdir():
        if path.name != "devices":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(server, site.folder, dirs_exist_ok=True)
    with site.registry() as registry, pytest.raises(VerificationError):
        registry.verify_trail(head)
    site.campaign(SECOND)
    site.campaign()
    check(site, over=False)
    for index in site.honest():
        assert left(site.deployed(index), MASKS[SECOND]) == 0
    site.campaign(THIRD)
    verdicts = check(site, over=True, may_fail=[SECOND])
    assert {verdicts[THIRD][site.client_id(index)] for index in site.honest()} == {"proved"}


@pytest.mark.slow
def test_a_device_that_is_restored_from_before_its_last_two_enrolments(finished: Site, tmp_path: Path) -> None:
    """The numbers of its enrolments are behind: whenever it is asked it counts on, until it has caught up."""
    site = finished.copy(tmp_path / "site", settings={"personalise-between": True})
    shutil.copytree(site.state(0), tmp_path / "backup")
    site.campaign(SECOND)
    site.campaign(THIRD)
    check(site, over=True)
    shutil.rmtree(site.state(0))
    shutil.copytree(tmp_path / "backup", site.state(0))
    for _ in range(4):
        if site.campaign() == []:
            break
    check(site, over=False)
    for masks in MASKS.values():
        assert left(site.deployed(0), masks) == left(site.committed(0), masks) == 0
