"""Both trails of a server as one: what operators did, and what happened to clients and requests."""

from __future__ import annotations

from dataclasses import dataclass

from zkapex.errors import InputError
from zkapex.server.deployment.acts import acts
from zkapex.server.deployment.reading import registry_of
from zkapex.server.deployment.settings import Place


@dataclass(frozen=True)
class Entry:
    """A line of a trail.

    Attributes
    ----------
    at : str
        ISO 8601, UTC.
    who : str
        An operator, or ``protocol``.
    event, client, request, detail : str
    """

    at: str
    who: str
    event: str
    client: str
    request: str
    detail: str


@dataclass(frozen=True)
class End:
    """Where a trail ends: how many lines it has, and the digest of the last one."""

    trail: str
    lines: int
    digest: str


def entries(place: Place, client: str = "") -> list[Entry]:
    """Everything, or what is about the client whose id begins so; the oldest first.

    Raises
    ------
    VerificationError
        A line was changed or removed.
    """
    found = [
        Entry(
            one.at, one.who, one.what, one.subject if one.what.startswith("client.") else "",
            one.subject if one.what.startswith("request.") else "", _told(one.what, one.subject, one.reason),
        )
        for one in acts(place)
    ]  # fmt: skip
    try:
        with registry_of(place) as registry:
            registry.verify_trail()
            found += [
                Entry(
                    one.at.isoformat(timespec="seconds"), "protocol", one.event, one.client_id, one.request_id or "",
                    one.detail,
                )
                for one in registry.transitions()
            ]  # fmt: skip
    except InputError:
        pass  # nobody has enrolled yet
    chosen = [one for one in found if not client or one.client.startswith(client)]
    return sorted(chosen, key=lambda one: one.at)


def heads(place: Place) -> list[End]:
    """Where both trails end, after they were checked from their beginnings.

    Raises
    ------
    VerificationError
        A line was changed or removed.
    """
    done = acts(place)
    found = [End("operators", len(done), done[-1].digest if done else "")]
    try:
        with registry_of(place) as registry:
            head = registry.verify_trail()
            found.append(End("registry", head.serial, head.digest))
    except InputError:
        pass
    return found


def _told(what: str, subject: str, reason: str) -> str:
    named = what.startswith(("client.", "request."))
    return reason if named else f"{subject}: {reason}" if reason else subject
