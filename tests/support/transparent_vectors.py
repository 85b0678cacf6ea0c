"""The vectors of the transparent backend in ``tests/vectors/transparent``, and this release's verdict on one.

A vector is a JSON file, which says everything public about a statement and how it was made, and a proof beside it.
Proofs have 8 queries instead of 192, so that they are small; in all else they are what the backend makes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zkapex.circuits.transparent.compliance import Compliance
from zkapex.circuits.transparent.dampening import Dampening
from zkapex.circuits.transparent.group_obs import Request
from zkapex.circuits.transparent.layout import Layout
from zkapex.circuits.transparent.moment import Moment
from zkapex.circuits.transparent.params import Parameters
from zkapex.circuits.transparent.prove import verify_change, verify_enrolment
from zkapex.circuits.transparent.same import Same
from zkapex.errors import VerificationError

FOLDER = Path(__file__).parents[1] / "vectors" / "transparent"
ARRAYS = {
    "guarded-group-obs": ("mask", "guard", "offsets", "on_result"),
    "compliance": ("mask", "guard", "targets", "on_result"),
    "dampening": ("mask", "factors"),
    "same-state": (),
    "enrolment": (),
    "enrolment-moment": (),
}
"""What is public of each statement, in the order of its digest."""


@dataclass(frozen=True)
class Vector:
    """A vector: ``about`` is what its JSON file says."""

    name: str
    about: dict[str, Any]
    proof: bytes


def names() -> list[str]:
    """Of all vectors."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Vector:
    """One of them."""
    about = json.loads((FOLDER / f"{name}.json").read_text())
    return Vector(name, about, (FOLDER / f"{name}.bin").read_bytes())


def layout(about: dict[str, Any]) -> Layout:
    """The layout it is about."""
    fields = dict(about["layout"])
    return Layout(parameters=Parameters(**fields.pop("parameters")), **fields)


def request(about: dict[str, Any]) -> Request | Compliance | Dampening | Same:
    """What is public of a change."""
    y, public = layout(about), about["public"]
    shapes = {
        "mask": (y.rows, y.cols),
        "factors": (y.rows, y.cols),
        "guard": (y.blocks, y.width, y.rank),
        "offsets": (y.blocks, y.rows, y.rank),
        "targets": (y.blocks, y.rows, y.rank),
        "on_result": (y.blocks,),
    }
    arrays: dict[str, Any] = {
        name: np.array(public[name], np.bool_ if name in ("mask", "on_result") else np.int64).reshape(shapes[name])
        for name in ARRAYS[about["statement"]]
    }
    if about["statement"] == "guarded-group-obs":
        return Request(y, **arrays)
    if about["statement"] == "dampening":
        return Dampening(y, **arrays)
    if about["statement"] == "same-state":
        return Same(y, public["curvature"])
    return Compliance(y, **arrays, along=public["along"])


def moment(about: dict[str, Any]) -> Moment | None:
    """What an enrolment shows of its curvature besides, if anything."""
    if about["statement"] != "enrolment-moment":
        return None
    public = about["public"]
    return Moment(layout(about), public["activations"], tuple(public["scales"]), tuple(public["tolerances"]))


def enrols(about: dict[str, Any]) -> bool:
    """Whether it is an enrolment: about one state, and no change."""
    return bool(about["statement"].startswith("enrolment"))


def verify(about: dict[str, Any], proof: bytes, minimum: float = 0.0) -> None:
    """Return only if this release accepts the proof; raises VerificationError, or InputError, otherwise."""
    context, roots = bytes.fromhex(about["context"]), {k: bytes.fromhex(v) for k, v in about["roots"].items()}
    if enrols(about):
        verify_enrolment(layout(about), roots["state"], context, proof, minimum, moment(about))
    else:
        verify_change(request(about), roots.get("old"), roots["new"], context, proof, minimum)


def reason(about: dict[str, Any], proof: bytes) -> str:
    """Why this release refuses a proof, or nothing if it accepts it."""
    try:
        verify(about, proof)
    except VerificationError as e:
        return e.why or e.what
    return ""
