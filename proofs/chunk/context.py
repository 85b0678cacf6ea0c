"""The context element: the field element that ties a proof to one request, client, model, chunk and circuit."""

from __future__ import annotations

import hashlib

from zkapex.proofs.records.record import encode_parts

BN254_SCALAR_FIELD = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the BN254 groups; every value inside a circuit is a residue modulo this prime."""


def context_element(
    request_id: str,
    client_id: str,
    manifest_digest: str,
    layer: str,
    block: int,
    band: int,
    circuit_digest: str,
    nonce: str,
) -> int:
    """Hash everything a chunk's proof must not be detached from to one element of the BN254 scalar field.

    The element is committed together with the mask, and the verifier recomputes that commitment from public data alone;
    a proof made for another request, client, model, chunk, circuit or nonce therefore meets another instance and fails.

    Parameters
    ----------
    request_id, client_id, manifest_digest, layer, circuit_digest, nonce : str
        As in the records of :mod:`zkapex.proofs.messages`.
    block, band : int
        Column block and band of rows of the chunk.

    Returns
    -------
    int
        In ``[0, BN254_SCALAR_FIELD)``. SHA-512 is reduced modulo a 254-bit prime, so the bias is below 2**-257.
    """
    message = encode_parts(
        "zkapex:context:v1", request_id, client_id, manifest_digest, layer, block, band, circuit_digest, nonce
    )
    return int.from_bytes(hashlib.sha512(message).digest(), "big") % BN254_SCALAR_FIELD
