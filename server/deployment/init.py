"""Everything that a server needs, made once: ``zkapex server init``."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from zkapex.errors import InputError
from zkapex.host.bundle import bundle_digest
from zkapex.host.files import make_private, write_private
from zkapex.host.guard import install_guard
from zkapex.proofs.records.signing import load_or_create_private_key, save_public_key
from zkapex.server.deployment.authority import check_certificate, new_authority, new_server_certificate
from zkapex.server.deployment.settings import Place, ServerSettings, save
from zkapex.server.federation.settings import DECISIVE
from zkapex.transport.app import installed_app, settings_of

CONNECTION = "zkapex"
_SECRET_BYTES = 32
_GUARDED = "flwr-serverapp"


@dataclass(frozen=True)
class OwnCertificate:
    """A certificate that the operator brings.

    Attributes
    ----------
    certificate, key, authority : Path
        PEM files; the authority's is what devices trust.
    """

    certificate: Path
    key: Path
    authority: Path


def create_server(root: Path, settings: ServerSettings, own: OwnCertificate | None = None) -> Place:
    """Make a server's folder: certificates, the provider's key, secrets, the guard, configuration.

    Raises
    ------
    InputError
        There is a server in the folder already, or the operator's certificate is not one for this host.
    StorageError
        The folder cannot be written.
    """
    place, settings = Place(root.resolve()), pinned(settings)
    if place.configuration.exists():
        raise InputError(f"there is a server in {root} already", fix="choose another folder")
    for folder in (
        place.root,
        place.link,
        place.gate,
        place.provider,
        place.operator,
        place.logs,
        place.requests,
        place.campaigns,
    ):
        make_private(folder)
    for folder in (place.link / "home", place.provider / "home", place.federation / "provider"):
        make_private(folder)
    _certificates(place, settings, own)
    secret = secrets.token_bytes(_SECRET_BYTES)
    write_private(place.link / "secret", secret)
    write_private(place.provider / "secret", secret)
    key = load_or_create_private_key(place.federation / "provider" / "key.pem")
    save_public_key(key.public_key(), place.federation / "key.pub")
    (place.federation / "key.pub").chmod(0o600)
    renew_guard(place, settings)
    connect(place, settings)
    save(place.root, settings)  # last: a folder without it is not a server's, and is made anew
    return place


def pinned(settings: ServerSettings) -> ServerSettings:
    """The configuration with today's defaults of what must never change: a later release may have other defaults."""
    names = (name.replace("_", "-") for name in DECISIVE)
    defaults = settings_of(installed_app())
    return settings.model_copy(update={"run": {**{name: defaults[name] for name in names}, **settings.run}})


def renew_guard(place: Place, settings: ServerSettings) -> None:
    """Pin what the installed release and the configuration say, as after an upgrade."""
    install_guard(place.guard, (bundle_digest(), *settings.bundles), _GUARDED)


def connect(place: Place, settings: ServerSettings) -> None:
    """Tell Flower's own commands, for the operator's use on this machine, where the SuperLink is."""
    connection = {
        "address": f"127.0.0.1:{settings.link.port}",
        "root-certificates": str(place.link / "ca.pem"),
        "insecure": False,
    }
    config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
    write_private(place.operator / "config.toml", tomli_w.dumps(config).encode())


def renew_certificate(place: Place, settings: ServerSettings) -> None:
    """A new key and certificate of the server under the same authority.

    Raises
    ------
    InputError
        The authority's key is not in the folder.
    """
    try:
        authority_key, authority = (place.authority / "ca.key").read_bytes(), (place.authority / "ca.pem").read_bytes()
    except OSError as error:
        raise InputError(
            "the authority's key is not here", why=str(error), fix=f"bring it back into {place.authority}"
        ) from None
    key, certificate = new_server_certificate(authority_key, authority, _hosts(settings))
    _install(place, key, certificate, authority)


def _certificates(place: Place, settings: ServerSettings, own: OwnCertificate | None) -> None:
    if own is None:
        make_private(place.authority)
        authority_key, authority = new_authority(settings.host)
        write_private(place.authority / "ca.key", authority_key)
        write_private(place.authority / "ca.pem", authority)
        key, certificate = new_server_certificate(authority_key, authority, _hosts(settings))
        _install(place, key, certificate, authority)
        return
    try:
        certificate, key, authority = (path.read_bytes() for path in (own.certificate, own.key, own.authority))
    except OSError as error:
        raise InputError("the server's certificate cannot be read", why=str(error)) from None
    check_certificate(certificate, key, settings.host)
    _install(place, key, certificate, authority)


def _install(place: Place, key: bytes, certificate: bytes, authority: bytes) -> None:
    for folder in (place.link, place.gate):
        write_private(folder / "server.key", key)
        write_private(folder / "server.pem", certificate)
        write_private(folder / "ca.pem", authority)
    write_private(place.provider / "ca.pem", authority)


def _hosts(settings: ServerSettings) -> tuple[str, ...]:
    return settings.host, "localhost", "127.0.0.1", socket.gethostname()
