"""Backends: what makes and checks the proofs a manifest asks for, by name, one module each.

A backend's module is imported when it is first asked for, so that a machine without ezkl can do everything with the
other one, and a verifier of its receipts needs neither ezkl nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from zkapex.errors import InputError

if TYPE_CHECKING:
    from zkapex.proofs.backends.interface import Backend

DEFAULT = "halo2"


@dataclass(frozen=True)
class About:
    """What is known of a backend without loading it.

    Attributes
    ----------
    system : str
        What receipts call the proof system.
    software : str
        What receipts say it was made with.
    review : str
        What is said beside every verdict; empty for a backend that people outside have reviewed or written.
    needs : tuple of str
        Modules that are not everywhere.
    operators, curvatures : tuple of str or None
        Those that can be proved; None: all.
    samples : bool
        Whether a random part of what a request touches may be proved instead of all.
    tolerances_stated : bool
        Whether requests state tolerances; else they follow from the mask.
    """

    system: str
    software: str
    review: str
    needs: tuple[str, ...]
    operators: tuple[str, ...] | None = None
    curvatures: tuple[str, ...] | None = None
    samples: bool = True
    tolerances_stated: bool = True


ABOUT: Mapping[str, About] = MappingProxyType(
    {
        "halo2": About("halo2-kzg", "ezkl 23.0.5", "", ("ezkl", "onnx", "py_ecc")),
        "transparent": About(
            "transparent",
            "zkapex-transparent 1",
            "experimental backend, not reviewed",
            ("numba",),
            operators=("guarded-group-obs", "targeted-group-obs", "mask-only", "constraint-only", "dampening"),
            curvatures=("kfac", "none"),
            samples=False,
            tolerances_stated=False,
        ),
    }
)


def about(name: str) -> About:
    """What is known of a backend.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if name not in ABOUT:
        raise InputError(f"unknown backend {name!r}", fix=f"choose one of {', '.join(ABOUT)}")
    return ABOUT[name]


def check_backend(name: str, operator: str, curvature: str = "kfac", audit: str = "full") -> None:
    """Refuse by name what a backend cannot prove.

    Raises
    ------
    InputError
        It cannot.
    """
    known = about(name)
    if known.operators is not None and operator not in known.operators:
        raise InputError(
            f"the {name} backend does not prove {operator}",
            why=f"it proves {', '.join(known.operators)}",
            fix=f"choose one of these operators, or backend {DEFAULT}",
        )
    if known.curvatures is not None and curvature not in known.curvatures:
        raise InputError(
            f"the {name} backend does not prove repairs fitted to {curvature} curvature",
            why="a matrix for each row is too much to commit to",
            fix=f"leave curvature out, or choose backend {DEFAULT}",
        )
    if audit == "sampled" and not known.samples:
        raise InputError(
            f"the {name} backend has no sampled audit",
            why="each proof rests on the one before it of the same layer, and all together cost less than a sample",
            fix=f"choose audit full, or backend {DEFAULT}",
        )


@cache
def backend(name: str) -> Backend:
    """A backend, loaded.

    Raises
    ------
    InputError
        There is none of that name, or what it needs is not installed here.
    """
    known = about(name)
    try:
        found: Backend = import_module(f"{__name__}.{name}").BACKEND
    except ImportError as error:
        missing = next((module for module in known.needs if (error.name or "").split(".")[0] == module), None)
        if missing is None:
            raise
        others = [other for other in ABOUT if other != name]
        raise InputError(
            f"the {name} backend does not work on this machine",
            why=f"{missing} is not installed, and may not exist for this kind of machine",
            fix=f"install {missing}, or choose backend {' or '.join(others)}",
        ) from None
    return found
