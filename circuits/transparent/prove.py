"""Proofs as bytes: what devices call to make them, and verifiers to check them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from zkapex.circuits.transparent import compliance, dampening, enrol, group_obs, same
from zkapex.circuits.transparent.enrol import Enrolled
from zkapex.circuits.transparent.iop import Prover, Side, Verifier
from zkapex.circuits.transparent.layout import Layout, digest
from zkapex.circuits.transparent.merkle import Tree
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.params import TARGET
from zkapex.circuits.transparent.transcript import Secret


class Public(Protocol):
    """What is public of a statement about states."""

    @property
    def layout(self) -> Layout:
        """Of the states."""

    def digest(self) -> bytes:
        """Of all of it."""


class Private(Protocol):
    """What a device knows besides the states."""

    def digest(self) -> bytes:
        """Of all of it: it decides the proof's randomness."""


@dataclass(frozen=True)
class Statement:
    """A statement about states.

    Attributes
    ----------
    name : str
    run : callable
        Takes a side, what is public and what is private (None on a verifier's side).
    before : bool
        Whether it is about a state before, too.
    """

    name: str
    run: Callable[[Side, Any, Any], None]
    before: bool = True


STATEMENTS: Mapping[type, Statement] = MappingProxyType(
    {
        group_obs.Request: Statement(group_obs.NAME, group_obs.unlearn),
        dampening.Dampening: Statement(dampening.NAME, dampening.dampen),
        same.Same: Statement(same.NAME, same.same),
        compliance.Compliance: Statement(compliance.NAME, compliance.comply, before=False),
    }
)
"""By the type of what is public of them."""


def prove_enrolment(
    layout: Layout,
    state: Tree,
    witness: Enrolled,
    context: bytes,
    seed: bytes,
    minimum: float = TARGET,
    moment: Moment | None = None,
) -> bytes:
    """Prove of a state what `zkapex.circuits.transparent.enrol` says. The same statement always gives the same bytes.

    Parameters
    ----------
    context : bytes
        What the proof is bound to: client, model, layer, nonce.
    seed : bytes
        Secret of the device, 32 bytes or more.
    moment : Moment, optional
        What is to be shown of the witness's activations.
    """
    what = [b"enrol", seed, context, layout.digest_parts(), state.root, digest(witness.theta, witness.factors)]
    if moment is not None and witness.activations is not None:
        what += [moment.digest_parts(), digest(witness.activations)]
    side = Prover(layout.parameters, _enrolment_name(moment), context, Secret(*what), minimum)
    side.attach("state.", state)
    enrol.enrol(side, layout, witness, moment)
    return bytes(side.proof)


def verify_enrolment(
    layout: Layout,
    root: bytes,
    context: bytes,
    proof: bytes,
    minimum: float = TARGET,
    moment: Moment | None = None,
) -> None:
    """Return only if the proof holds, and shows what `moment` says if there is one.

    Raises
    ------
    ProofError, CommitmentError
        It does not.
    """
    side = Verifier(layout.parameters, _enrolment_name(moment), context, proof, minimum)
    side.attach("state.", layout.state(root))
    enrol.enrol(side, layout, None, moment)


def _enrolment_name(moment: Moment | None) -> str:
    return enrol.NAME if moment is None else enrol.WITH_MOMENT


def prove_change(
    request: Public,
    old: Tree | None,
    new: Tree,
    witness: Private,
    context: bytes,
    seed: bytes,
    minimum: float = TARGET,
    strict: bool = True,
    forget: bool = False,
) -> bytes:
    """Prove of states what one of `STATEMENTS` says. The same statement always gives the same bytes.

    Parameters
    ----------
    old : Tree, optional
        For statements about a state before.
    context, seed
        As for `prove_enrolment`.
    strict, forget : bool
        See `zkapex.circuits.transparent.iop.Prover`.
    """
    statement = STATEMENTS[type(request)]
    trees = {"old.": old, "new.": new} if statement.before else {"new.": new}
    roots = b"".join(tree.root for tree in trees.values() if tree is not None)
    secret = Secret(statement.name.encode(), seed, context, request.digest(), roots, witness.digest())
    side = Prover(request.layout.parameters, statement.name, context, secret, minimum, strict, forget)
    for prefix, tree in trees.items():
        assert tree is not None, f"{statement.name} is about a state before"
        side.attach(prefix, tree)
    statement.run(side, request, witness)
    return bytes(side.proof)


def verify_change(
    request: Public, old: bytes | None, new: bytes, context: bytes, proof: bytes, minimum: float = TARGET
) -> None:
    """Return only if the proof holds. It shows nothing unless ``old`` was shown to be a state, by a proof of its own.

    Parameters
    ----------
    old, new : bytes
        Roots of the states.

    Raises
    ------
    ProofError, CommitmentError
        It does not.
    """
    statement = STATEMENTS[type(request)]
    side = Verifier(request.layout.parameters, statement.name, context, proof, minimum)
    for prefix, root in (("old.", old), ("new.", new)) if statement.before else (("new.", new),):
        assert root is not None, f"{statement.name} is about a state before"
        side.attach(prefix, request.layout.state(root))
    statement.run(side, request, None)
