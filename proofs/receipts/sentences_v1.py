"""The words of receipts of version 1, which are signed with them: never to change, or old receipts would be refused.

Later versions sign identifiers and arguments instead, see `zkapex.proofs.receipts.sayings`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zkapex.circuits.operators import declared
from zkapex.proofs.audit import assumed_bad
from zkapex.proofs.receipts.sayings import percent

if TYPE_CHECKING:
    from zkapex.proofs.receipts.v1 import FactsV1

_DEEDS = {
    "guarded-group-obs": "have their masked weights at zero, and the others moved as guarded Group-OBS moves them, up "
    "to the certified distance",
    "mask-only": "have their masked weights at zero, whatever happened to the others",
    "dampening": "are what the request's factors make of the weights before, each rounded to a whole number",
}
_FULL = "All chunks of weights that the mask touches {deed}."
_SAMPLED = (
    "{proved} of the {touched} chunks of weights that the mask touches, drawn at random after the client had committed "
    "to all of them, {deed}."
)
_DETECTION = (
    "A client that left {cheating} or more of these {touched} chunks undone ({bad} at least) would have been found out "
    "with probability {detection}."
)
_BEFORE = "The weights before are those the client had committed to and signed before it knew the mask."
_BEFORE_AGAIN = (
    "The weights before are those the client had committed to and signed in revision {revision} of its enrolment. That "
    "this continues what it was held to before, by proof, is shown by the chain of its receipts."
)
_ATTEMPTS = (
    "{attempts} earlier requests to this client were given up after it had been drawn what to prove; everything had to "
    "be proved this time."
)
_AFTER = "The client committed to and signed the resulting weights; every later request starts from that commitment."
_CURVATURE = (
    "The curvature that the repair is fitted to is within {within} (Frobenius, of the largest norm it may have) of the "
    "second moment of at most {activations} activations per column block, which the client had committed to as well."
)
_NOTHING = "Only that the request was made and how it ended; no change of the model is shown."

_NOT_ALWAYS = (
    "That the device serves the weights that were committed to.",
    "That older copies of the weights, or the data itself, were destroyed.",
    "That nothing about the forgotten data can be inferred from the remaining weights.",
)
_NOT_BY_OPERATOR = {
    "guarded-group-obs": "That the curvature the client committed to, which the repair is fitted to, is of real data.",
    "mask-only": "That the resulting weights have anything to do with earlier ones.",
    "dampening": "That the request's factors were chosen well.",
}
_NOT_ACTIVATIONS = "That the activations the client committed to, which the curvature was made of, are of real data."
_NOT_SAMPLED = (
    "That the touched chunks which were not drawn were changed as requested.",
    "That the provider kept the seed of the draw from the client until the client had committed itself.",
)
_NOT_LOCAL_SRS = (
    "Anything to a third party: the proof system's parameters were made by the verifier itself, who could forge proofs."
)
_NOT_IMPORTED_SRS = (
    "Anything to someone who does not trust whoever made the proof system's parameters, named by their digest here."
)


def sentences(facts: FactsV1, verdict: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Say what is shown, and what is not."""
    if verdict != "proved":
        return (_NOTHING,), _NOT_ALWAYS
    operator = declared(facts.operator)
    deed = _DEEDS.get(facts.operator, operator.words.deed)
    earlier = _BEFORE_AGAIN.format(revision=facts.enrolment_revision) if facts.enrolment_revision else _BEFORE
    before: tuple[str, ...] = (earlier,) if "delta" in operator.statement.inputs else ()
    if facts.attempts:
        before = (*before, _ATTEMPTS.format(attempts=facts.attempts))
    does_not_show: tuple[str, ...] = (*_NOT_ALWAYS, _NOT_BY_OPERATOR.get(facts.operator, operator.words.not_shown))
    if facts.curvature_within is not None:
        within = percent(min(1.0, math.ceil(facts.curvature_within * 1000) / 1000))
        before = (*before, _CURVATURE.format(within=within, activations=facts.curvature_activations))
        does_not_show = (*_NOT_ALWAYS, _NOT_ACTIVATIONS)
    shows: tuple[str, ...] = (_FULL.format(deed=deed), *before, _AFTER)
    if facts.audit_mode == "sampled":
        shows = (*_sampling(facts, deed), *before, _AFTER)
        does_not_show = (*does_not_show, *_NOT_SAMPLED)
    return shows, (*does_not_show, _NOT_LOCAL_SRS if facts.srs_origin == "local" else _NOT_IMPORTED_SRS)


def _sampling(facts: FactsV1, deed: str) -> tuple[str, ...]:
    """Say what a sampled audit shows."""
    sampled = _SAMPLED.format(proved=len(facts.chunks_drawn), touched=facts.chunks_touched, deed=deed)
    if facts.audit_cheating is None or facts.audit_detection is None:
        return (sampled,)
    bad = assumed_bad(facts.chunks_touched, facts.audit_cheating)
    detection = _DETECTION.format(
        cheating=percent(facts.audit_cheating),
        touched=facts.chunks_touched,
        bad=bad,
        detection=percent(facts.audit_detection),
    )
    return sampled, detection
