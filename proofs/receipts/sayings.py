"""What a receipt shows and what it does not: identifiers with arguments, which are signed, and words, which are not.

Words are in ``texts/<language>.json`` and may change; a receipt stays valid. An identifier never changes its meaning:
what it says of a request is computed here from the facts, by the issuer and by everybody who reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from pydantic import Field

from zkapex.circuits.operators import declared
from zkapex.errors import FormatVersionError, InputError, ReceiptError
from zkapex.proofs.audit import assumed_bad
from zkapex.proofs.receipts.evidence import Facts
from zkapex.proofs.records.record import Part

SayingId = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Argument = Annotated[str, Field(max_length=128)] | int | float


class Saying(Part):
    """One thing a receipt shows, or does not show."""

    id: SayingId
    arguments: Annotated[dict[SayingId, Argument], Field(max_length=8)] = Field(default_factory=dict)

    def words(self, language: str = "en") -> str:
        """The saying as a sentence of a language.

        Raises
        ------
        InputError
            There is no such language.
        """
        known = texts(language)
        template = known["sayings"].get(self.id)
        if template is None:
            return f"{self.id} {json.dumps(self.arguments)}"
        arguments = {name.replace("-", "_"): _written(name, value) for name, value in self.arguments.items()}
        return str(template).format(**arguments, **_of_operator(known, str(self.arguments.get("operator", ""))))


_Rule = Callable[[Facts, str], dict[str, Argument] | None]


def _when(condition: Callable[[Facts], bool], **of: Callable[[Facts], Argument]) -> _Rule:
    """A saying about a request that was proved, where a condition holds."""

    def rule(facts: Facts, verdict: str) -> dict[str, Argument] | None:
        if verdict != "proved" or not condition(facts):
            return None
        return {name.replace("_", "-"): value(facts) for name, value in of.items()}

    return rule


def _always(facts: Facts, verdict: str) -> dict[str, Argument] | None:
    return {}


def _numbers(facts: Facts) -> bool:
    return facts.audit_mode == "sampled" and facts.audit_cheating is not None and facts.audit_detection is not None


def _looks_before(facts: Facts) -> bool:
    """Whether the operator's statement is about the weights before as well."""
    return "delta" in declared(facts.operator).statement.inputs


SHOWS: Mapping[str, _Rule] = {
    "nothing": lambda facts, verdict: None if verdict == "proved" else {},
    "all-chunks": _when(lambda f: f.audit_mode == "full", operator=lambda f: f.operator),
    "drawn-chunks": _when(
        lambda f: f.audit_mode == "sampled",
        operator=lambda f: f.operator,
        proved=lambda f: len(f.chunks_drawn),
        touched=lambda f: f.chunks_touched,
    ),
    "detection": _when(
        _numbers,
        cheating=lambda f: f.audit_cheating or 0.0,
        touched=lambda f: f.chunks_touched,
        bad=lambda f: assumed_bad(f.chunks_touched, f.audit_cheating or 0.0),
        detection=lambda f: f.audit_detection or 0.0,
    ),
    "weights-before": _when(lambda f: _looks_before(f) and not f.enrolment_revision),
    "weights-before-again": _when(
        lambda f: _looks_before(f) and f.enrolment_revision > 0, revision=lambda f: f.enrolment_revision
    ),
    "attempts": _when(lambda f: f.attempts > 0, attempts=lambda f: f.attempts),
    "curvature": _when(
        lambda f: f.curvature_within is not None,
        within=lambda f: min(1.0, math.ceil((f.curvature_within or 0.0) * 1000) / 1000),
        activations=lambda f: f.curvature_activations,
    ),
    "tolerances": _when(lambda f: bool(f.tau_s or f.tau_g), stationarity=lambda f: f.tau_s, guard=lambda f: f.tau_g),
    "weights-after": _when(lambda f: True),
    "anybody": _when(lambda f: f.srs_origin is None),
}
"""What a receipt can show, in the order it is said, with what it takes to say so."""

DOES_NOT_SHOW: Mapping[str, _Rule] = {
    "serves-those-weights": _always,
    "copies-destroyed": _always,
    "nothing-inferred": _always,
    "learned-again": _always,
    "model-before": _always,
    "clients-real": _always,
    "operator-leaves-open": _when(lambda f: f.curvature_within is None, operator=lambda f: f.operator),
    "real-activations": _when(lambda f: f.curvature_within is not None),
    "chunks-not-drawn": _when(lambda f: f.audit_mode == "sampled"),
    "seed-kept": _when(lambda f: f.audit_mode == "sampled"),
    "local-parameters": _when(lambda f: f.srs_origin == "local"),
    "ceremony": _when(lambda f: f.srs_origin == "imported", digest=lambda f: f.srs_digest or ""),
    "not-reviewed": _when(lambda f: f.review is not None, backend=lambda f: f.backend),
}
"""What it leaves open."""


def say(rules: Mapping[str, _Rule], facts: Facts, verdict: str) -> tuple[Saying, ...]:
    """Everything there is to say about a request."""
    found = ((name, rule(facts, verdict)) for name, rule in rules.items())
    return tuple(Saying(id=name, arguments=arguments) for name, arguments in found if arguments is not None)


def check_sayings(said: tuple[Saying, ...], rules: Mapping[str, _Rule], facts: Facts, verdict: str, name: str) -> None:
    """Check what is said against the facts. A release that says more, or less, has not made older receipts wrong.

    Raises
    ------
    FormatVersionError
        Something is said that this release does not know.
    ReceiptError
        Something said is not so, or said twice.
    """
    if len({saying.id for saying in said}) != len(said):
        raise ReceiptError("the receipt contradicts its evidence", why=f"it says something twice in {name}")
    for saying in said:
        if saying.id not in rules:
            raise FormatVersionError(
                f"the receipt says {saying.id!r}, which this release does not know",
                fix="use the release that wrote it, or newer",
            )
        if rules[saying.id](facts, verdict) != saying.arguments:
            raise ReceiptError(
                "the receipt contradicts its evidence", why=f"{name} says {saying.id!r}, which is not so"
            )


@cache
def texts(language: str = "en") -> dict[str, Any]:
    """All words of a language.

    Raises
    ------
    InputError
        There is no file of it.
    """
    path = files("zkapex.proofs.receipts") / "texts" / f"{language}.json"
    if not language.isalnum() or not path.is_file():
        raise InputError(
            f"there are no texts in {language!r}", fix="use en, or add proofs/receipts/texts/<language>.json"
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def verdict_words(facts: Any, verdict: str) -> str:
    """A verdict with what has to be said beside it: facts of version 1 have nothing of the kind."""
    review = getattr(facts, "review", None)
    return f"{verdict} ({review})" if review else verdict


def percent(fraction: float) -> str:
    """Write a fraction as a percentage; one below 1 is never rounded up to all."""
    if fraction == 1:
        return "100 %"
    return f"{math.floor(Fraction(str(fraction)) * 100_000) / 1000:g} %" if fraction >= 1e-4 else f"{fraction:.2g}"


def _of_operator(known: Mapping[str, Any], name: str) -> dict[str, str]:
    """What a language says of an operator, or else its own declaration, or else its name."""
    found = known["operators"].get(name)
    if found is None:
        try:
            words = declared(name).words
        except InputError:
            return {"deed": name, "open": name}
        return {"deed": words.deed, "open": words.not_shown}
    return {"deed": str(found["deed"]), "open": str(found["open"])}


def _written(name: str, value: Argument) -> str:
    return percent(value) if name in ("cheating", "detection", "within") and isinstance(value, float) else str(value)
