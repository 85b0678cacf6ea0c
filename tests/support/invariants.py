"""The one checker of what must hold in a federation, whatever happened to it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from faults import Site, cipher_of
from life import MASKS, left, needles

from zkapex.client.state.cipher import is_sealed
from zkapex.proofs.receipts.bundle import RECEIPT_FILE
from zkapex.proofs.receipts.chain import find_receipts, verify_chain
from zkapex.proofs.records.record import sha256_hex
from zkapex.proofs.records.signing import load_public_key
from zkapex.server.protocol.states import ClientStatus, RequestStatus
from zkapex.server.requests.folder import DELIVERED

Weights = Mapping[str, np.ndarray]


def check(site: Site, *, over: bool, may_fail: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Raise AssertionError unless everything holds that must, whatever happened to the site.

    Always: the audit trail is whole; commitments chain; no receipt is without verified proofs; nothing is done that is
    not; what was deleted is gone from every device, and from its disk once the request is settled there; no honest
    client is quarantined; no cheat is proved.

    Parameters
    ----------
    over : bool
        The faults are over and what was due has been done. Then no request is lost: every honest client has a receipt
        for every request that was made, and has taken it, and nothing is due.
    may_fail : iterable of str
        Requests that may have ended without proof, though not without a receipt that says so.

    Returns
    -------
    dict
        Verdicts by request and client.
    """
    honest = {site.client_id(index): index for index in site.honest()}
    cheats = {site.client_id(index) for index in site.cheats}
    issued: dict[tuple[str, str], str] = {}
    verdicts: dict[str, dict[str, str]] = {}
    with site.registry() as registry:
        registry.verify_trail()
        for client in registry.clients():
            if client.client_id in honest:
                assert client.status is not ClientStatus.QUARANTINED, f"an honest client: {client.reason}"
        for request in registry.requests():
            if request.verdict is not None:
                verdicts.setdefault(request.request_id, {})[request.client_id] = request.verdict
            if request.verdict == "proved":
                assert request.client_id not in cheats or request.request_id in site.trusted, "a cheat was proved"
                assert not request.missing, "proved without all proofs"
                assert request.drawn, "proved without any proof"
            envelope = registry.receipt(request.client_id, request.request_id)
            assert (envelope is not None) == (request.status is RequestStatus.RECEIPTED)
            if envelope is not None:
                issued[request.request_id, request.client_id] = sha256_hex(envelope)
    on_disk = _check_receipts(site, issued)
    for path in sorted(site.kept.glob("*/*.pickle")):
        if int(path.stem) in site.honest():
            _check_deleted(site, path.parent.name, int(path.stem), *pickle.loads(path.read_bytes()), over=over)
    if over:
        _check_all_done(site, honest, verdicts, set(may_fail), on_disk)
    return verdicts


def _check_receipts(site: Site, issued: Mapping[tuple[str, str], str]) -> set[tuple[str, str]]:
    folder = site.folder / "receipts"
    if not any(folder.glob(f"**/{RECEIPT_FILE}")):
        return set()
    found = set()
    key = load_public_key(site.folder / "key.pub")
    for chain in verify_chain(folder, [key]):  # every receipt with its proofs, and every link
        for verified in chain.receipts:
            receipt = verified.bundle.receipt
            name = receipt.facts.request_id, receipt.facts.client_id
            assert sha256_hex(receipt.envelope) == issued[name], "a receipt that the registry does not know"
            found.add(name)
    assert len(found) == len(find_receipts(folder))
    return found


def _check_deleted(site: Site, request_id: str, index: int, floats: Weights, integers: Weights, *, over: bool) -> None:
    vault, masks = site.vault(index), MASKS[request_id]
    own = vault.inner("requests", request_id)
    if not own.has("response.json"):
        return
    assert left(site.deployed(index), masks) == 0, f"device {index} serves what {request_id} deleted"
    if own.has("settled") and vault.inner("enrolment").has("enrolment.json"):
        assert left(site.committed(index), masks) == 0, f"device {index} stands by what {request_id} deleted"
    if over:
        assert own.has("settled")
        for before in (floats, integers):
            found = traces(site, index, before, masks)
            assert not found, f"weights from before {request_id} lie in {found}"


def _check_all_done(
    site: Site,
    honest: Mapping[str, int],
    verdicts: Mapping[str, Mapping[str, str]],
    may_fail: set[str],
    on_disk: set[tuple[str, str]],
) -> None:
    with site.service() as service:
        assert service.due() == []
        assert set(site.asked) <= set(service.order.ids()), "a request is lost"
        for request_id in site.asked:
            delivered = service.order.folder(request_id).clients(DELIVERED) or set()
            why = {one.client_id: one.reason for one in service.registry.requests(request_id)}
            for client_id, index in honest.items():
                verdict = verdicts.get(request_id, {}).get(client_id)
                known = (request_id, index, verdict, why.get(client_id))
                assert verdict == "proved" or (verdict and request_id in may_fail), known
                assert (request_id, client_id) in on_disk, f"no receipt of {request_id} for device {index}"
                if verdict == "proved":
                    assert client_id in delivered
                    own = site.vault(index).inner("requests", request_id)
                    assert own.has("receipt.json"), f"device {index} has no receipt of {request_id}"


def traces(site: Site, index: int, before: Weights, masks: Weights) -> list[str]:
    """Files below the site that hold deleted weights with their neighbours, encrypted or not, in any layout."""
    wanted = needles(before, masks)
    return [
        str(path.relative_to(site.folder))
        for path, content in contents(site, index)
        if any(needle in content for needle in wanted)
    ]


def contents(site: Site, index: int) -> Iterator[tuple[Path, bytes]]:
    """All files below a device's state, decrypted where they are encrypted; half-written ones, too."""
    folder, cipher = site.state(index), cipher_of(site.state(index))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if is_sealed(data):
                own = path.with_name(path.name.removeprefix(".").removesuffix(".partial"))
                named = own if path.name.endswith(".partial") else path
                data = cipher.open(named.relative_to(folder).as_posix(), data)
            yield path, data
