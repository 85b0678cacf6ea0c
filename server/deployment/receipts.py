"""The receipts that a server has issued, as operators ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zkapex.errors import InputError, ProtocolError, StorageError
from zkapex.proofs.messages import ModelManifest
from zkapex.proofs.receipts.bundle import RECEIPT_FILE
from zkapex.server.deployment.reading import snapshot
from zkapex.server.deployment.settings import Place


@dataclass(frozen=True)
class Issued:
    """A receipt.

    Attributes
    ----------
    request_id, client_id : str
    verdict : str
    reason : str
    folder : Path
    """

    request_id: str
    client_id: str
    verdict: str
    reason: str
    folder: Path


def own_string(federation: Path) -> str | None:
    """SHA-256 of the reference string of a federation whose operators named one, and so rely on it.

    Raises
    ------
    StorageError
        The federation's manifest cannot be read, or is damaged.
    """
    path = federation / "provider" / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = ModelManifest.from_bytes(path.read_bytes())
    except (OSError, ProtocolError) as error:
        raise StorageError(f"{path} could not be read", why=str(error), fix="restore it from a backup") from error
    return manifest.srs_digest if manifest.srs_origin == "imported" else None


def receipts(place: Place, request_id: str = "", client: str = "") -> list[Issued]:
    """All receipts, or those of a request, or of the client whose id begins so."""
    found = []
    for one in snapshot(place).requests:
        folder = place.federation / "receipts" / one.request_id / one.client_id[:16]
        wanted = (not request_id or one.request_id == request_id) and one.client_id.startswith(client)
        if wanted and one.verdict is not None and (folder / RECEIPT_FILE).exists():
            found.append(Issued(one.request_id, one.client_id, one.verdict, one.reason, folder))
    return found


def receipt(place: Place, request_id: str, client: str) -> Issued:
    """One receipt.

    Raises
    ------
    InputError
        There is none, or more than one.
    """
    found = receipts(place, request_id, client)
    if len(found) != 1:
        raise InputError(
            f"there are {len(found)} receipts of request {request_id} for clients called {client!r}",
            fix="see zkapex server receipts list, and give more of the client's id",
        )
    return found[0]
