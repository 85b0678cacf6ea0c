"""What prover and verifier compute about one chunk, one module per operator: vectors, outputs, distance."""

from __future__ import annotations

from functools import cache

from zkapex.circuits.operators import declared, named_object
from zkapex.proofs.operators.rules import Rules, outer, powers

__all__ = ["Rules", "outer", "powers", "rules"]


@cache
def rules(name: str) -> Rules:
    """The rules of an operator.

    Raises
    ------
    InputError
        Nothing that is installed here declares it, or its declaration is wrong.
    """
    found: Rules = named_object(declared(name).rules)
    return found
