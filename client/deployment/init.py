"""A device's folder, made once: ``zkapex device init``; and deleted for good: ``zkapex device wipe``."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from zkapex.client.deployment.settings import DeviceSettings, Place, save
from zkapex.client.state.cipher import find_secret, open_state
from zkapex.client.state.trust import SERVER_KEY
from zkapex.client.state.vault import Vault
from zkapex.errors import InputError
from zkapex.host.bundle import bundle_digest
from zkapex.host.files import make_private, write_private
from zkapex.host.guard import install_guard
from zkapex.proofs.records.signing import load_public_key, public_key_hex

_GUARDED = "flwr-clientapp"


def create_device(root: Path, settings: DeviceSettings, authority: Path, provider_key: Path) -> Place:
    """Make a device's folder: keys, the provider's key in its place, the guard, encrypted state, configuration.

    Raises
    ------
    InputError
        There is a device in the folder already, or a file is not what it should be.
    StorageError
        The folder cannot be written.
    """
    place = Place(root.resolve())
    if place.configuration.exists():
        raise InputError(f"there is a device in {root} already", fix="choose another folder, or wipe it")
    try:
        pem = authority.read_bytes()
        x509.load_pem_x509_certificate(pem)
    except (OSError, ValueError) as error:
        raise InputError(f"{authority} holds no certificate", why=str(error)[:200]) from None
    pinned = public_key_hex(load_public_key(provider_key))
    for folder in (place.root, place.homes / "link", place.homes / "apps", place.logs):
        make_private(folder)
    write_private(place.authority, pem)
    if not place.node_key.exists():
        _make_node_key(place)
    write_private(place.secret, secrets.token_bytes(32))
    own = place.root / "state.key"
    if not settings.key_file and not os.environ.get("CREDENTIALS_DIRECTORY") and not own.exists():
        write_private(own, secrets.token_bytes(32))
    secret = find_secret(Path(settings.key_file) if settings.key_file else None, own)
    Vault(place.state, open_state(place.state, secret)).put(SERVER_KEY, pinned.encode())
    renew_guard(place, settings)
    save(place.root, settings)
    return place


def renew_guard(place: Place, settings: DeviceSettings) -> None:
    """Pin what the installed release and the configuration say, as after an upgrade."""
    install_guard(place.guard, (bundle_digest(), *settings.bundles), _GUARDED)


def trust_key(place: Place, settings: DeviceSettings, provider_key: Path) -> str:
    """Follow another key of the provider; its hexadecimal form.

    Raises
    ------
    InputError
        The file holds no public key, or the state cannot be opened.
    """
    pinned = public_key_hex(load_public_key(provider_key))
    secret = find_secret(Path(settings.key_file) if settings.key_file else None, place.root / "state.key")
    Vault(place.state, open_state(place.state, secret)).put(SERVER_KEY, pinned.encode())
    return pinned


def renew_node_key(place: Place) -> Path:
    """A new key by which Flower knows the device; the file of its public half. What the device is as a client stays."""
    _make_node_key(place)
    return place.node_key.with_suffix(".pub")


def wipe_device(root: Path) -> None:
    """Delete a device: keys first, so that what is left of the rest, anywhere on the disk, cannot be read.

    Raises
    ------
    InputError
        There is no device in the folder.
    """
    place = Place(root)
    if not place.configuration.exists():
        raise InputError(f"{root} is no device's folder")
    for path in (place.root / "state.key", place.state / "format.json", place.node_key, place.secret):
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(secrets.token_bytes(size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
    shutil.rmtree(place.root)


def _make_node_key(place: Place) -> None:
    """Flower reads keys of its nodes in OpenSSH's format only."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(place.node_key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_private(place.node_key.with_suffix(".pub"), public + b" zkapex\n")
