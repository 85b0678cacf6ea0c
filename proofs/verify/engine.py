"""What checks a receipt's proofs, and the reference string they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zkapex.errors import InputError, ReceiptError
from zkapex.proofs.backends import backend
from zkapex.proofs.backends.interface import Engine
from zkapex.proofs.receipts.bundle import Bundle
from zkapex.proofs.verify.policy import Policy

if TYPE_CHECKING:
    from zkapex.circuits.halo2.srs import Srs


def engine_of(bundle: Bundle, policy: Policy) -> tuple[Engine, Srs | None]:
    """What checks a receipt's proofs, and the reference string they are for, if its backend has one.

    Raises
    ------
    ReceiptError
        The manifest is not what this release makes of its statement; or as `reference_string`.
    InputError
        What the backend needs is not installed here; or as `reference_string`.
    """
    manifest = bundle.dossier.manifest
    if manifest.backend != "halo2":
        if policy.srs is not None:
            raise ReceiptError(f"the receipt's proofs are of the {manifest.backend} backend, for no reference string")
        return backend(manifest.backend).open(manifest, {}), None
    backend("halo2")  # refused by name where it is not installed
    from zkapex.proofs.backends.halo2 import Halo2Engine
    from zkapex.proofs.chunk.verifier import circuit_of

    srs = reference_string(bundle, policy)
    return Halo2Engine(manifest, circuit_of(manifest, srs, proving=False), proving=False), srs


def reference_string(bundle: Bundle, policy: Policy) -> Srs:
    """The reference string of a receipt: from its folder, a file the policy names, or the cache.

    Raises
    ------
    ReceiptError
        It is not the one the verifier trusts, or called imported and of no ceremony anybody knows.
    InputError
        It is nowhere here.
    """
    from zkapex.circuits.halo2.ceremony import height_of
    from zkapex.circuits.halo2.known import ceremony_of
    from zkapex.circuits.halo2.srs import find_srs, import_srs

    manifest = bundle.dossier.manifest
    digest, height, origin = manifest.srs_digest, manifest.statement.log2_rows, manifest.srs_origin
    if digest is None or origin is None:
        raise ReceiptError("the receipt's manifest names no reference string")
    if policy.srs is not None and policy.srs != digest:
        raise ReceiptError(
            "the receipt's proofs are for another reference string than the one you trust", why=f"SHA-256 {digest}"
        )
    if origin == "imported" and policy.srs is None and ceremony_of(digest) is None:
        raise ReceiptError(
            "the receipt calls its reference string imported, and it is of no ceremony that is known here",
            why=f"SHA-256 {digest}: whoever made it up could forge proofs",
            fix="if you trust where it is from, name it with --srs",
        )
    data = bundle.evidence.srs
    if data is None and policy.srs_file is not None:
        try:
            data = policy.srs_file.read_bytes()
        except OSError as error:
            raise InputError(f"the reference string {policy.srs_file} could not be read", why=str(error)) from error
    if data is not None:
        return import_srs(data, digest, height, origin)
    found = find_srs(digest, origin)
    if found is None:
        raise InputError(
            "the receipt's reference string is not on this machine",
            why=f"SHA-256 {digest}",
            fix="obtain the file from its publisher and name it with --srs, or keep it with `zkapex srs import`",
        )
    if height_of(found.path) != height:
        raise ReceiptError("the receipt's reference string is for circuits of another height")
    return found
