"""The statements that are proved, one module each, and the operators they belong to: found here, listed nowhere.

A module of this folder that defines ``STATEMENT`` is a kind of statement, and one that defines ``OPERATOR`` an
operator. Other packages bring operators by an entry point of the group ``zkapex.operators``, whose name is the
operator's and whose object is its `OperatorSpec`: every process finds them, a prover's worker and ``zkapex verify``
included.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from zkapex.circuits.operators.declaration import OperatorSpec, Statement, Words, named_object
from zkapex.errors import InputError

__all__ = ["GROUP", "OperatorSpec", "Statement", "Words", "declared", "named_object", "operator_names", "statement"]

GROUP = "zkapex.operators"
"""The group of entry points that other packages declare operators in."""

_FIRST = "guarded-group-obs"
"""What is offered first, and taken if nothing is said."""


@cache
def _own() -> dict[str, str]:
    """The module of every kind of statement in this folder."""
    modules = [f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__)]
    return {
        name.rpartition(".")[2].replace("_", "-"): name for name in modules if hasattr(import_module(name), "STATEMENT")
    }


@cache
def _brought() -> dict[str, EntryPoint]:
    """Entry points of operators that other packages declare; none of them takes the name of one of ours."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _own()}


@cache
def operator_names() -> tuple[str, ...]:
    """The names of all operators, ours first."""
    own = [kind for kind, module in _own().items() if hasattr(import_module(module), "OPERATOR")]
    return (*sorted(own, key=lambda name: (name != _FIRST, name)), *sorted(_brought()))


@cache
def declared(name: str) -> OperatorSpec:
    """The declaration of an operator.

    Raises
    ------
    InputError
        No package that is installed here declares one of that name, or what it declares is none.
    """
    if name not in operator_names():
        raise InputError(
            f"unknown operator {name!r}",
            why=f"installed are {', '.join(operator_names())}",
            fix="choose one of them, or install the package that declares it",
        )
    where = f"{_own()[name]}:OPERATOR" if name in _own() else _brought()[name].value
    found = named_object(where)
    if not isinstance(found, OperatorSpec) or found.name != name:
        raise InputError(f"the package that declares operator {name!r} declares something else", why=where)
    return found


@cache
def statement(kind: str) -> Statement:
    """The kind of statement of that name: of an operator, or one that belongs to none.

    Raises
    ------
    InputError
        Nothing that is installed here has one.
    """
    if kind in _own():
        found: Statement = import_module(_own()[kind]).STATEMENT
        return found
    return declared(kind).statement
