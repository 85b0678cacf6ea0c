"""How an operator is declared: once, here in words that import neither torch nor Flower, found by whoever needs it.

An operator has a statement (its circuit), rules (what prover and verifier compute about one chunk), a solver (what it
does to weights), a planner (how the provider chooses its public terms) and words (what people are told). Statement and
words are part of the declaration; the other three are named by it, and imported by those who need them: a verifier
never imports a solver. ``docs/operators.md`` has an operator declared from outside this package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from zkapex.errors import InputError

if TYPE_CHECKING:
    import onnx

    from zkapex.circuits.profiles import Profile
    from zkapex.circuits.statement import StatementSpec


class Statement(ABC):
    """A kind of statement: its committed vectors, how large they are, and its graph.

    Attributes
    ----------
    kind : str
        What specifications, and so manifests, name it by.
    inputs : tuple of str
        The committed vectors, in the order of their commitments in a proof. ``theta_u``, ``delta`` and ``factor`` are
        checked against what was enrolled and announced; ``public`` is recomputed by the verifier; ``aux`` is the
        prover's own.
    rejected : str
        What a proof that does not verify fails to show.
    curvatures : tuple of str
        Kinds of curvature it can be about, the default first; empty if it is about none.
    inner_columns : int
        ezkl's ``num_inner_cols``: as few as hold the cells of a chunk, since columns are what a proof costs.
    constrains_result : bool
        Whether what is prescribed along a guard is about the weights that result, and so about every row of a block,
        not about the change of rows with a masked weight.
    """

    kind: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    rejected: ClassVar[str]
    curvatures: ClassVar[tuple[str, ...]] = ()
    inner_columns: ClassVar[int] = 2
    constrains_result: ClassVar[bool] = False

    def check(self, spec: StatementSpec) -> None:
        """Raise ValueError if a specification's fields do not fit the kind."""
        if spec.curvature != "none" or spec.ridge or spec.curvature_rank:
            raise ValueError("guarded-group-obs needs a curvature, its rank and a ridge, other statements have none")
        if spec.guard_rank or not spec.freivalds:
            raise ValueError("only guarded-group-obs has a guard or matrix products")

    @abstractmethod
    def parts(self, spec: StatementSpec, vector: str) -> dict[str, int]:
        """Names and lengths of what ``public`` and ``aux`` hold, in order."""

    @abstractmethod
    def largest_sum(self, spec: StatementSpec) -> int:
        """An upper bound on the absolute value of any integer that arises in the circuit outside the slack terms."""

    @abstractmethod
    def build(self, spec: StatementSpec) -> onnx.ModelProto:
        """The graph, whose inputs are `inputs`."""

    def sized(self, profile: Profile, curvature: str, guard_rank: int | None, freivalds: bool) -> dict[str, Any]:
        """What a profile's specification has for this kind, besides what all kinds have: chunks as with ``kfac``.

        Parameters
        ----------
        curvature, guard_rank, freivalds
            As asked for; meaningless to statements without them.
        """
        rows = profile.rows_per_chunk["kfac"]
        return {"rows_per_chunk": rows, "curvature": "none", "inner_columns": self.inner_columns}


@dataclass(frozen=True)
class Words:
    """What people are told about an operator.

    Attributes
    ----------
    help : str
        What is done to the masked weights, in a few words, for the help of a command.
    deed : str
        What a receipt says of the proved chunks, after "All chunks of weights that the mask touches".
    not_shown : str
        What a receipt says the operator's proofs do not show: a sentence.
    shows : str
        What a proof shows, for the summary of a demo: a sentence or two.
    not_shown_briefly : str
        `not_shown` as part of an enumeration, with a comma and a space at its end.
    states : mapping of str to str
        The states of a model that are told apart, of ``before``, ``masked``, ``after`` and ``tuned``, and what tables
        call them.
    marks : mapping of str to str
        Likewise for legends of plots, without ``before``.
    """

    help: str
    deed: str
    not_shown: str
    shows: str
    not_shown_briefly: str
    states: Mapping[str, str]
    marks: Mapping[str, str]


@dataclass(frozen=True)
class OperatorSpec:
    """The declaration of an operator.

    Attributes
    ----------
    statement : Statement
        Its `Statement.kind` is the operator's name.
    rules : str
        ``module:attribute`` of its `zkapex.proofs.operators.Rules`.
    solver : str
        ``module:attribute`` of its `zkapex.unlearning.operators.Operator`.
    planner : str
        ``module:attribute`` of its `zkapex.unlearning.planning.planner.Planner`.
    words : Words
    terms : frozenset of str
        Public terms that it has besides the mask: of ``guards``, ``steering``, ``targets`` and ``factors``.
    holder_plans : bool
        Whether a client that holds what is to be forgotten can choose the terms: a proposal carries mask and guard.
    zeroes : bool
        Whether what is masked becomes zero, or with factors what has a factor of zero, and has to stay so later.
    exact : bool
        Whether nothing at all can be proved about weights that were not changed as asked.
    """

    statement: Statement
    rules: str
    solver: str
    planner: str
    words: Words
    terms: frozenset[str] = field(default_factory=frozenset)
    holder_plans: bool = True
    zeroes: bool = True
    exact: bool = False

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.statement.kind


def named_object(reference: str) -> Any:
    """What a ``module:attribute`` of a declaration names.

    Raises
    ------
    InputError
        There is no such module or attribute.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        missing = isinstance(error, ModuleNotFoundError) and not module.startswith(error.name or module)
        if missing:
            raise  # what the module imports is not installed: whoever asked knows what to say of that
        raise InputError(
            f"an operator's declaration names {reference!r}, which does not exist", why=str(error)
        ) from None
