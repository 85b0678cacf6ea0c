"""What a device can say of itself: whether its processes answer, and what it has answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zkapex.client.deployment.settings import DeviceSettings, Place
from zkapex.client.state.cipher import find_secret, open_state
from zkapex.client.state.key import KEY, device_key
from zkapex.client.state.memory import ENROLMENT, RESPONSE
from zkapex.client.state.vault import Vault
from zkapex.host.health import serving
from zkapex.proofs.records.signing import key_id

_RECEIPT = "receipt.json"


def device_status(place: Place, settings: DeviceSettings) -> dict[str, Any]:
    """Facts for an operator; none of them secret.

    Raises
    ------
    InputError, StorageError
        The state cannot be opened.
    """
    secret = find_secret(Path(settings.key_file) if settings.key_file else None, place.root / "state.key")
    vault = Vault(place.state, open_state(place.state, secret))
    requests = sorted(path.name for path in (place.state / "requests").glob("*") if path.is_dir())
    answered = [name for name in requests if vault.inner("requests", name).has(RESPONSE)]
    return {
        "server": settings.server,
        "client": key_id(device_key(vault).public_key()) if vault.has(KEY) else None,
        "running": serving(settings.health_port),
        "enrolled": vault.inner("enrolment").has(ENROLMENT),
        "answered": answered,
        "receipted": [name for name in answered if vault.inner("requests", name).has(_RECEIPT)],
        "state_bytes": sum(path.stat().st_size for path in place.state.rglob("*") if path.is_file()),
    }
