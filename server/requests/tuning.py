"""After a deletion: clients that proved it train on, with what was deleted held."""

from __future__ import annotations

import json
import secrets
from typing import Final

from zkapex.proofs.messages import TuneReply
from zkapex.server.federation.roster import Roster
from zkapex.server.federation.settings import RunSettings
from zkapex.server.requests.due import TUNED
from zkapex.server.requests.past import Past
from zkapex.storage import load_json, save_text

TUNES: Final = "tune.json"
"""In a request's own folder: the nonces of those that were asked, so that whoever is asked again is asked the same."""


def tune(roster: Roster, past: Past, settings: RunSettings, request_id: str, wanted: set[str]) -> dict[str, TuneReply]:
    """Ask clients to train on after a request; all that have answered so far, by client id, also kept in its folder.

    Parameters
    ----------
    wanted : set of str
        Who is still to be asked.
    """
    folder, known = past.order.folder(request_id), past.tuned(request_id)
    path = folder.own / TUNES
    nonces: dict[str, str] = load_json(path) if path.exists() else {}
    nonces |= {client_id: secrets.token_hex(32) for client_id in sorted(wanted - nonces.keys())}
    save_text(path, json.dumps(nonces))
    asked = {client_id: nonces[client_id] for client_id in wanted}
    known |= roster.tune(request_id, asked, settings.tune_epochs, settings.tune_lr, settings.seed)
    save_text(folder.own / TUNED, json.dumps({one: json.loads(reply.to_bytes()) for one, reply in known.items()}))
    return known
