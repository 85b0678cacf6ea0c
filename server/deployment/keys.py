"""The provider's keys: the one it signs with today, and the public halves of those it had before."""

from __future__ import annotations

from pathlib import Path

from zkapex.errors import IllegalTransitionError, InputError
from zkapex.host.files import make_private, sync_folder, write_private
from zkapex.proofs.records.signing import key_id, load_or_create_private_key, load_public_key, save_public_key
from zkapex.server.deployment.reading import registry_of
from zkapex.server.deployment.settings import Place, ServerSettings
from zkapex.server.federation.lock import one_writer


def public_keys(place: Place) -> list[Path]:
    """Files of the public keys whose receipts are the provider's: today's first."""
    return [place.federation / "key.pub", *sorted((place.federation / "keys").glob("*.pub"))]


def rotate_key(place: Place, settings: ServerSettings) -> Path:
    """Sign with a new key from now on; the file of its public half, which devices need before the next campaign.

    Raises
    ------
    IllegalTransitionError
        Requests are under way, which devices would not recognise under another key.
    ProtocolError
        A campaign is under way.
    """
    provider = place.federation / "provider"
    with one_writer(provider):
        try:
            with registry_of(place, settings) as registry:
                waiting = registry.unfinished()
        except InputError:
            waiting = ()  # nobody has enrolled yet
        if waiting:
            raise IllegalTransitionError(
                "the provider's key cannot be changed now",
                why=f"{len(waiting)} requests are under way, {waiting[0].request_id} for one, and signed with it",
                fix="wait until they are over",
            )
        public, fresh = place.federation / "key.pub", provider / "key.new.pem"
        old = public.read_bytes()
        make_private(place.federation / "keys")
        write_private(place.federation / "keys" / f"{key_id(load_public_key(public))[:16]}.pub", old)
        key = load_or_create_private_key(fresh)
        fresh.replace(provider / "key.pem")
        sync_folder(provider)
        half = provider / "key.new.pub"
        half.unlink(missing_ok=True)
        save_public_key(key.public_key(), half)
        write_private(public, half.read_bytes())
        half.unlink()
    return public
