"""What may keep a device from taking part, looked at before it runs, each with the way to mend it."""

from __future__ import annotations

import email.utils
import shutil
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from zkapex.client.deployment.settings import DeviceSettings, Place
from zkapex.client.state.cipher import find_secret, open_state
from zkapex.client.state.trust import SERVER_KEY
from zkapex.client.state.vault import Vault
from zkapex.errors import Error
from zkapex.host.bundle import bundle_digest
from zkapex.host.files import open_to_others
from zkapex.host.guard import PINS, read_pins

EARLIEST_S, LATEST_S = -5.0, 300.0
"""How much older than the server's time a device's may be, and how much newer it may not: Flower's window."""
DISK_BYTES: Final = 2 * 2**30
MEMORY_BYTES: Final = 2**30
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
    good : bool
    found : str
    fix : str
        Empty if it is good.
    """

    what: str
    good: bool
    found: str
    fix: str = ""


def check_device(place: Place, settings: DeviceSettings, now: Callable[[], datetime] | None = None) -> list[Finding]:
    """Look at everything that can be looked at without running; nothing is changed."""
    clock = now or (lambda: datetime.now(UTC))
    looks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("certificate", lambda: _certificate(place, settings)),
        ("clock", lambda: _clock(place, settings, clock)),
        ("permissions", lambda: _permissions(place)),
        ("node key", lambda: _node_key(place)),
        ("provider's key", lambda: _provider_key(place, settings)),
        ("bundle", lambda: _bundle(place)),
        ("versions", _versions),
        ("disk", lambda: _disk(place)),
        ("memory", _memory),
    )
    findings = []
    for what, look in looks:
        try:
            findings.append(look())
        except Error as error:
            found = f"{error.what}: {error.why}" if error.why else error.what
            findings.append(Finding(what, False, found, error.fix or "see what it says"))
    return findings


def _certificate(place: Place, settings: DeviceSettings) -> Finding:
    host, port = settings.address
    context = ssl.create_default_context(cafile=str(place.authority))
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            found = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Finding(
            "certificate", False, error.verify_message, "use the ca.pem of this server, or correct the clock"
        )
    except OSError as error:
        return Finding("certificate", False, f"{settings.server}: {error}", "is the server up, and its port open?")
    return Finding("certificate", True, f"of {host}, until {found.get('notAfter', '?')}")


def _clock(place: Place, settings: DeviceSettings, clock: Callable[[], datetime]) -> Finding:
    context = ssl.create_default_context(cafile=str(place.authority))
    try:
        answer = httpx.get(f"https://{settings.server}/health", verify=context, timeout=_TIMEOUT_S, trust_env=False)
        here = clock()
        there = email.utils.parsedate_to_datetime(answer.headers["date"])
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Finding("clock", False, f"the server's time is not known: {error}", "is the server up?")
    age = (there - here).total_seconds()
    if not EARLIEST_S < age < LATEST_S:
        return Finding(
            "clock", False, f"{age:+.0f} s from the server's", "synchronise the clock: timedatectl set-ntp true"
        )
    return Finding("clock", True, f"{age:+.0f} s from the server's")


def _permissions(place: Place) -> Finding:
    others = [path for path in open_to_others(place.root) if "home" not in path.relative_to(place.root).parts[:1]]
    if others:
        return Finding("permissions", False, f"others may read {others[0]}", f"chmod -R go= {place.root}")
    return Finding("permissions", True, "only the owner may read it")


def _node_key(place: Place) -> Finding:
    try:
        key = load_ssh_private_key(place.node_key.read_bytes(), None)
    except (OSError, ValueError) as error:
        return Finding("node key", False, str(error)[:200], "make the device anew")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return Finding("node key", False, "not on an elliptic curve", "ssh-keygen -t ecdsa -b 384 -f node.key")
    return Finding("node key", True, f"{key.curve.name}; register {place.node_key.with_suffix('.pub')} on the server")


def _provider_key(place: Place, settings: DeviceSettings) -> Finding:
    secret = find_secret(Path(settings.key_file) if settings.key_file else None, place.root / "state.key")
    vault = Vault(place.state, open_state(place.state, secret))
    if not vault.has(SERVER_KEY):
        return Finding("provider's key", False, "none is pinned", "put the provider's key on the device before it runs")
    return Finding("provider's key", True, vault.get(SERVER_KEY).decode().strip()[:16])


def _bundle(place: Place) -> Finding:
    digest = bundle_digest()
    if digest not in read_pins(place.guard / PINS):
        return Finding("bundle", False, "this release's bundle is not pinned", "zkapex device run pins it anew")
    return Finding("bundle", True, digest[:16])


def _versions() -> Finding:
    return Finding("versions", True, f"zkapex {metadata.version('zkapex')}, flwr {metadata.version('flwr')}")


def _disk(place: Place) -> Finding:
    free = shutil.disk_usage(place.root).free
    good = free >= DISK_BYTES
    return Finding("disk", good, f"{free / 1e9:.1f} GB free", "" if good else f"free {DISK_BYTES / 1e9:.1f} GB")


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    good = free >= MEMORY_BYTES
    fix = "" if good else "close other programs, or use a smaller profile"
    return Finding("memory", good, f"{free / 1e9:.1f} GB available", fix)
