"""What a server's and a device's folder hold, who may read it, and what is refused."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from zkapex.client.deployment.init import create_device, wipe_device
from zkapex.client.deployment.resources import inside, may_work
from zkapex.client.deployment.settings import DeviceSettings
from zkapex.client.deployment.settings import checked as checked_device
from zkapex.errors import IllegalTransitionError, InputError, ResourceError
from zkapex.host.files import open_to_others
from zkapex.host.values import parsed_options
from zkapex.server.deployment.authority import check_certificate, new_authority, new_server_certificate
from zkapex.server.deployment.init import OwnCertificate, create_server, pinned, renew_certificate
from zkapex.server.deployment.programs import programs
from zkapex.server.deployment.requests import Order, OrderBook
from zkapex.server.deployment.settings import Place, ServerSettings, checked, load

SETTINGS = ServerSettings(host="fl.example.org", provider="a.b:c")
DEVICE = DeviceSettings(server="fl.example.org:9092", task="a.b:c")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return create_server(tmp_path / "server", SETTINGS)


def test_everything_of_a_server_is_its_owner_s_only(place: Place) -> None:
    assert open_to_others(place.root) == []
    assert load(place.root) == pinned(SETTINGS)
    assert pinned(SETTINGS).run["rounds"] == 5, "another default of a later release changes nothing here"
    with pytest.raises(InputError, match="already"):
        create_server(place.root, SETTINGS)


def test_no_secret_is_in_any_argument(place: Place) -> None:
    secrets = [(place.link / "secret").read_bytes(), (place.link / "server.key").read_bytes()]
    for program in programs(place, SETTINGS):
        said = " ".join([*program.command, *program.environment.values()]).encode()
        assert not any(secret in said or secret.hex().encode() in said for secret in secrets)


def test_only_campaigns_know_where_the_provider_s_key_is(place: Place) -> None:
    found = {program.name: program for program in programs(place, SETTINGS)}
    assert str(place.root) not in found["link"].environment.values()
    assert found["superexec"].environment["ZKAPEX_SERVER"] == str(place.root)
    assert found["superexec"].environment["PATH"].startswith(str(place.guard))
    assert found["link"].command[found["link"].command.index("--host") + 1] == "127.0.0.1"


def test_the_certificate_holds_for_the_host_and_is_renewed_under_the_same_authority(place: Place) -> None:
    context = ssl.create_default_context(cafile=str(place.link / "ca.pem"))
    assert len(context.get_ca_certs()) == 1
    first = (place.gate / "server.pem").read_bytes()
    check_certificate(first, (place.gate / "server.key").read_bytes(), "fl.example.org")
    check_certificate(first, (place.gate / "server.key").read_bytes(), "127.0.0.1")
    with pytest.raises(InputError, match="not for other"):
        check_certificate(first, (place.gate / "server.key").read_bytes(), "other.example.org")
    renew_certificate(place, SETTINGS)
    assert (place.gate / "server.pem").read_bytes() == (place.link / "server.pem").read_bytes() != first
    (place.authority / "ca.key").unlink()
    with pytest.raises(InputError, match="authority's key is not here"):
        renew_certificate(place, SETTINGS)


def test_a_certificate_of_the_operator_s_own_is_looked_at(tmp_path: Path) -> None:
    authority_key, authority = new_authority("mine")
    long_ago = datetime.now(UTC) - timedelta(days=500)
    for host, now, what in (
        ("fl.example.org", None, ""),
        ("x.org", None, "not for"),
        ("fl.example.org", long_ago, "today"),
    ):
        key, certificate = new_server_certificate(authority_key, authority, (host,), now)
        for name, data in (("key", key), ("pem", certificate), ("ca", authority)):
            (tmp_path / name).write_bytes(data)
        own = OwnCertificate(tmp_path / "pem", tmp_path / "key", tmp_path / "ca")
        if what:
            with pytest.raises(InputError, match=what):
                create_server(tmp_path / f"{host}{what}", SETTINGS, own)
        else:
            assert not create_server(tmp_path / "good", SETTINGS, own).authority.exists()


@pytest.mark.parametrize(
    "values",
    [
        {"host": "h", "provider": "a:b", "gate": {"port": 0}},
        {"host": "h", "provider": "no factory"},
        {"host": "h", "provider": "a:b", "unknown": 1},
        {"host": "h", "provider": "a:b", "bundles": ["abc"]},
        {"provider": "a:b"},
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match="not understood"):
        checked(values, "test")


def test_a_device_pins_the_provider_before_it_runs_and_can_be_deleted(place: Place, tmp_path: Path) -> None:
    root = tmp_path / "device"
    made = create_device(root, DEVICE, place.link / "ca.pem", place.federation / "key.pub")
    assert open_to_others(root) == []
    assert made.node_key.with_suffix(".pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in made.state.rglob("*") if path.is_file())
    with pytest.raises(InputError, match="already"):
        create_device(root, DEVICE, place.link / "ca.pem", place.federation / "key.pub")
    wipe_device(root)
    assert not root.exists()
    with pytest.raises(InputError, match="no device"):
        wipe_device(root)


def test_a_device_needs_a_certificate_and_a_key_that_are_such(place: Place, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(InputError, match="no certificate"):
        create_device(tmp_path / "d", DEVICE, tmp_path / "junk", place.federation / "key.pub")
    with pytest.raises(InputError):
        create_device(tmp_path / "e", DEVICE, place.link / "ca.pem", tmp_path / "junk")
    for server in ("host", "a b:1", "host:port"):
        with pytest.raises(InputError, match="not understood"):
            checked_device({"server": server, "task": "a:b"}, "test")


def test_windows_of_the_day() -> None:
    assert inside((), time(3))
    assert inside(("22:00-06:00",), time(23, 59))
    assert inside(("22:00-06:00",), time(5, 59))
    assert not inside(("22:00-06:00",), time(6))
    assert inside(("01:00-02:00", "12:00-13:00"), time(12))
    assert not inside(("12:00-13:00",), time(13))
    with pytest.raises(ResourceError, match="does not work at this time"):
        may_work(("12:00-13:00",), datetime(2026, 1, 1, 14, tzinfo=UTC))


def test_orders_are_kept_and_cancelled_only_before_devices_are_asked(tmp_path: Path) -> None:
    book = OrderBook(tmp_path)
    order = Order(
        "r-1", {"forget-class": 3}, "gdpr-17-erasure", "", "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
    )
    book.create(order)
    assert book.all() == [order]
    assert book.about("r-1") == {"forget-class": 3}
    assert book.about("other") == {}
    with pytest.raises(InputError, match="already"):
        book.create(order)
    with pytest.raises(IllegalTransitionError, match="no longer"):
        book.cancel("r-1", sent=True)
    book.cancel("r-1", sent=False)
    assert not book.get("r-1").open
    for bad in ("../key", "R", ""):
        with pytest.raises(InputError, match="no id"):
            book.get(bad)


def test_options_are_typed() -> None:
    assert parsed_options(["a=1", "b=true", "c=x=y", "d=0.5"]) == {"a": 1, "b": True, "c": "x=y", "d": 0.5}
    with pytest.raises(InputError):
        parsed_options(["a"])
