"""How well a client's models do, as it says."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zkapex.proofs.records.record import ClientId, Count, Name, Nonce, Part, Record, RequestId

ModelState = Literal["before", "masked", "after", "tuned"]
"""The personalised model before the request, with the mask alone, after compensation, and trained on after that."""


class Score(Part):
    """How many of `total` examples of a data set a model got right."""

    model: ModelState
    data: Literal["forget", "retain", "personal"]
    correct: Count
    total: Annotated[int, Field(ge=1, le=2**31 - 1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.correct > self.total:
            raise ValueError("more examples are correct than there are")
        return self


class EvaluateRequest(Record):
    """Server to client: evaluate these states of your model."""

    kind: ClassVar[str] = "evaluate-request"

    format: Literal["zkapex.evaluate-request.v1"] = "zkapex.evaluate-request.v1"
    request_id: RequestId
    models: Annotated[tuple[ModelState, ...], Field(min_length=1, max_length=3)]


class EvaluateReply(Record):
    """Client to server: the scores."""

    kind: ClassVar[str] = "evaluate-reply"

    format: Literal["zkapex.evaluate-reply.v1"] = "zkapex.evaluate-reply.v1"
    client_id: ClientId
    request_id: RequestId
    scores: Annotated[tuple[Score, ...], Field(min_length=1, max_length=9)]


class TuneRequest(Record):
    """Server to client, signed: train your model on, keeping what requests have deleted; you will enrol the result."""

    kind: ClassVar[str] = "tune-request"

    format: Literal["zkapex.tune-request.v1"] = "zkapex.tune-request.v1"
    federation: Name
    client_id: ClientId
    request_id: RequestId
    """The request that it follows, which has to be settled."""
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    seed: Count
    nonce: Nonce


class TuneReply(Record):
    """Client to server: it is done; how well the model does now, as the client says."""

    kind: ClassVar[str] = "tune-reply"

    format: Literal["zkapex.tune-reply.v1"] = "zkapex.tune-reply.v1"
    client_id: ClientId
    request_id: RequestId
    examples: Count
    scores: Annotated[tuple[Score, ...], Field(max_length=3)]
