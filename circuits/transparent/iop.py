"""The interactive oracle proof, made non-interactive: committed rows, a `Program` about them, one final check.

Prover and verifier run one and the same statement, each on a side of its own: a statement tells its side what is
committed when, draws challenges, and hands over a program. `finish` then tests on the same opened columns that all
rows are close to code words (their random combination, sent whole), and that the polynomials S and V, sent whole and
masked, are what the opened symbols make of them (Ligero, section 4; docs/transparent.md has the joint analysis).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zkapex.circuits.transparent.code import Code, code_of, sparse_times
from zkapex.circuits.transparent.field import BASIS, Array, Integers, P, minus, plus, residues, times, uniform
from zkapex.circuits.transparent.merkle import DIGEST, Tree, largest_opening, opened
from zkapex.circuits.transparent.params import TARGET, Parameters, soundness
from zkapex.circuits.transparent.program import Program, accumulate, sum_over_slots
from zkapex.circuits.transparent.transcript import Secret, Transcript
from zkapex.errors import ProofError, ProverError

MASKS = {"mask.p": 3, "mask.s": 9, "mask.v": 9}
"""Rows of the masks of the three polynomials. That of S (and V) is ``low + x^(k - t) middle + x^k high``, each over K.

Low and high alone would do for soundness. But a polynomial has only one such form, so that opening them would open
halves of what they are to hide; with the middle, the t opened symbols of low and high are uniform given their sum.
"""
MAX_PROOF_BYTES = 64 << 20
_CHUNK = 32

Values = Mapping[str, np.ndarray]
"""Integers (int64) or field elements (uint64), ``[rows, slots or fewer]``, by the name of their rows."""


@dataclass(frozen=True)
class Commitment:
    """A root with what it is of: what a verifier holds of rows committed to elsewhere."""

    label: str
    sizes: tuple[tuple[str, int], ...]
    root: bytes


class Side(ABC):
    """What both sides do: keep the order of commitments, of their rows and of the transcript.

    Parameters
    ----------
    parameters : Parameters
    statement : str
        Name of the statement.
    context : bytes
        What the proof is bound to besides: request, client, nonce.
    minimum : float
        log2 of the largest soundness error; tests of single queries give 0.
    """

    def __init__(self, parameters: Parameters, statement: str, context: bytes, minimum: float = TARGET) -> None:
        self.parameters, self.code, self.minimum = parameters, code_of(parameters.k), minimum
        self.transcript = Transcript(statement)
        self.transcript.absorb("parameters", repr(parameters).encode())
        self.transcript.absorb("context", context)
        self.counts: dict[str, int] = {}
        self._commitments: list[tuple[str, str, dict[str, int]]] = []  # prefix, label, sizes

    def _attach(self, prefix: str, label: str, sizes: Mapping[str, int], root: bytes) -> None:
        self.transcript.absorb(f"root:{prefix}{label}:{list(sizes.items())}", root)
        self._commitments.append((prefix, label, dict(sizes)))
        self.counts |= {prefix + name: size for name, size in sizes.items()}

    @property
    def rows(self) -> int:
        """Of all commitments together."""
        return sum(self.counts.values())

    @abstractmethod
    def commit(self, label: str, sizes: Mapping[str, int], make: Callable[[], Values], masks: bool = False) -> None:
        """The prover commits to what ``make`` makes; masks go with the first commitment."""

    strict = True
    """Whether a prover stops at a witness that cannot satisfy the statement."""
    forget = False
    """Whether a prover drops what it needs no more of a witness, which nobody else asks for then."""

    def to_bits(self, values: npt.ArrayLike, width: int) -> Integers:
        """See `to_bits`; only a prover has any use for it."""
        return to_bits(values, width)

    @abstractmethod
    def finish(self, program: Program) -> None:
        """The final check."""

    def _combination(self) -> Array:
        """Coefficients ``[rows, 3]`` of the proximity test; its mask has 1, w, w^2, which hides for certain."""
        sound = soundness(self.parameters, self.rows)
        if sound["total"] > self.minimum:
            raise ValueError(f"a soundness error of 2^{sound['total']:.1f} is not below 2^{self.minimum}")
        rho = self.transcript.field("proximity", self.rows)
        at = list(self.counts).index("mask.p")
        start = sum(list(self.counts.values())[:at])
        rho[start : start + 3] = BASIS
        return rho

    def _masked(self, value: Array, own: Array, x: Array, x_to_k: Array) -> Array:
        """Plus the mask at these points: its three parts, with x^(k - t) and x^k."""
        return plus(value, plus(own[:3], plus(times(own[3:6], x), times(own[6:], x_to_k))))


class Prover(Side):
    """The side that has the witness; ``proof`` grows as it goes on.

    Parameters
    ----------
    strict : bool
        Whether to stop at a witness that cannot satisfy the statement; whoever tests verifiers goes on.
    forget : bool
        Whether weights of the witness are dropped on the way, to save memory.
    """

    def __init__(
        self,
        parameters: Parameters,
        statement: str,
        context: bytes,
        secret: Secret,
        minimum: float = TARGET,
        strict: bool = True,
        forget: bool = False,
    ) -> None:
        super().__init__(parameters, statement, context, minimum)
        self.strict, self.forget = strict, forget
        self.proof = bytearray()
        self._secret = secret
        self._trees: list[Tree] = []
        self._where: dict[str, Array] = {}

    def to_bits(self, values: npt.ArrayLike, width: int) -> Integers:  # noqa: D102
        return to_bits(values, width, self.strict)

    def attach(self, prefix: str, tree: Tree) -> None:
        """Speak of rows that were committed to before."""
        self._attach(prefix, tree.label, tree.sizes, tree.root)
        self._keep(prefix, tree)

    def _keep(self, prefix: str, tree: Tree) -> None:
        self._trees.append(tree)
        self._where |= {prefix + name: block for name, block in tree.blocks.items()}

    def commit(self, label: str, sizes: Mapping[str, int], make: Callable[[], Values], masks: bool = False) -> None:  # noqa: D102
        blocks = padded(self.code, self.parameters, make(), self._secret)
        if masks:
            blocks |= self._masks()
        tree = Tree(self.code, label, blocks, self._secret(DIGEST))
        assert tree.sizes == (dict(sizes) | MASKS if masks else dict(sizes)), (tree.sizes, sizes)
        self._attach("", label, tree.sizes, tree.root)
        self._keep("", tree)
        self.proof += tree.root

    def _masks(self) -> dict[str, Array]:
        """Coefficients: P's uniform, S's uniform but for a sum of 0 over slots, V's but for being 0 at each."""
        k, slots, t = self.parameters.k, self.parameters.slots, self.parameters.queries
        p, s, v = (uniform((rows, k), self._secret) for rows in (3, 9, 9))
        for block in (s, v):
            at = self.code.messages(fold(block[:3], block[3:6], k - t))
            high = uniform((3, k), self._secret)
            if block is v:
                high[:, :slots] = minus(np.zeros_like(at[:, :slots]), at[:, :slots])
            else:
                high[:, 0] = minus(high[:, 0], plus(sum_over_slots(at, slots), sum_over_slots(high, slots)))
            block[6:] = self.code.coefficients(high)
        return {"mask.p": p, "mask.s": s, "mask.v": v}

    def send(self, label: str, coefficients: Array) -> None:
        """Put a polynomial into the proof and the transcript."""
        data = np.ascontiguousarray(coefficients).astype("<u8").tobytes()
        self.transcript.absorb(label, data)
        self.proof += data

    def finish(self, program: Program) -> None:  # noqa: D102
        k, t, rho = self.parameters.k, self.parameters.queries, self._combination()
        combination, at = np.zeros((3, k), np.uint64), 0
        for tree in self._trees:
            for block in tree.blocks.values():
                accumulate(combination, rho[at : at + len(block)], block)
                at += len(block)
        self.send("P", combination)

        def symbols(name: str, start: int, stop: int) -> Array:
            return self.code.half(self._where[name][start:stop])

        for label, value, mask in zip(
            ("S", "V"), program.evaluate(symbols, 2 * k, self._spread), ("mask.s", "mask.v"), strict=True
        ):
            whole, own = self.code.from_half(value), self._where[mask]
            whole[:, :k] = plus(whole[:, :k], own[:3])
            whole[:, k - t : 2 * k - t] = plus(whole[:, k - t : 2 * k - t], own[3:6])
            whole[:, k:] = plus(whole[:, k:], own[6:])
            self.send(label, whole)
        columns = self.transcript.distinct("columns", t, self.parameters.n)
        for tree in self._trees:
            self.proof += tree.open(columns)

    def _spread(self, vectors: Array) -> Array:
        return self.code.half(interpolated(self.code, vectors))


class Verifier(Side):
    """The side that has a proof.

    Raises
    ------
    ProofError, CommitmentError
        From all methods, if the proof does not hold.
    """

    def __init__(
        self, parameters: Parameters, statement: str, context: bytes, proof: bytes, minimum: float = TARGET
    ) -> None:
        super().__init__(parameters, statement, context, minimum)
        if len(proof) > MAX_PROOF_BYTES:
            raise ProofError(f"a proof of {len(proof)} bytes is too large", why=f"at most {MAX_PROOF_BYTES} are read")
        self._proof, self._at = proof, 0
        self._roots: list[bytes] = []

    def attach(self, prefix: str, commitment: Commitment) -> None:
        """Speak of rows that were committed to before."""
        self._attach(prefix, commitment.label, dict(commitment.sizes), commitment.root)
        self._roots.append(commitment.root)

    def commit(self, label: str, sizes: Mapping[str, int], make: Callable[[], Values], masks: bool = False) -> None:  # noqa: D102
        root = self._take(DIGEST)
        self._attach("", label, dict(sizes) | MASKS if masks else sizes, root)
        self._roots.append(root)
        self._require_length()

    def _require_length(self) -> None:
        """Refuse what cannot have the right length, before anything is laid out that grows with the rows."""
        k, t = self.parameters.k, self.parameters.queries
        left, salts = len(self._proof) - self._at, DIGEST * t * len(self._roots)
        if left < 8 * (15 * k + t * self.rows) + salts:
            raise ProofError("the proof is too short")

    def _take(self, size: int) -> bytes:
        piece = self._proof[self._at : self._at + size]
        if len(piece) != size:
            raise ProofError("the proof is too short")
        self._at += size
        return piece

    def _receive(self, label: str, length: int) -> Array:
        data = self._take(24 * length)
        self.transcript.absorb(label, data)
        values = np.frombuffer(data, "<u8").astype(np.uint64).reshape(3, length)
        if (values >= P).any():
            raise ProofError(f"a coefficient of {label} is not below the field's order")
        return values

    def fail(self, why: str) -> None:
        """Refuse the proof; tests that want to know everything that is wrong go on."""
        raise ProofError("the proof does not hold", why=why)

    def finish(self, program: Program) -> None:  # noqa: D102
        k, slots, t, code = self.parameters.k, self.parameters.slots, self.parameters.queries, self.code
        rho = self._combination()
        self._require_length()
        most = 8 * 15 * k + sum(
            largest_opening(sum(one.values()), self.parameters.n, t) for *_, one in self._commitments
        )
        if len(self._proof) - self._at > most:
            raise ProofError("the proof is too long")
        p, s, v = self._receive("P", k), self._receive("S", 2 * k), self._receive("V", 2 * k)
        if (sum_over_slots(code.messages(fold(s[:, :k], s[:, k:], 0)), slots) != program.constant).any():
            self.fail("the sum over slots is wrong")
        if code.messages(fold(v[:, :k], v[:, k:], 0))[:, :slots].any():
            self.fail("a condition does not hold at every slot")
        columns = self.transcript.distinct("columns", t, self.parameters.n)
        symbols: dict[str, Array] = {}
        combined, at = np.zeros((3, t), np.uint64), 0
        for (prefix, label, sizes), root in zip(self._commitments, self._roots, strict=True):
            count = sum(sizes.values())
            block, start = opened(root, label, count, self.parameters.n, columns, self._take), 0
            accumulate(combined, rho[at : at + count], block)
            at += count
            for name, size in sizes.items():
                symbols[prefix + name] = block[start : start + size]
                start += size
        if self._at != len(self._proof):
            raise ProofError("the proof is too long")
        if (combined != code.at(p, columns)).any():
            self.fail("the rows are not code words")
        x, x_to_k = stitches(code, columns, k - t)
        evaluated = program.evaluate(lambda name, a, b: symbols[name][a:b], t, self._spread(columns))
        for label, sent, value, mask in zip(("S", "V"), (s, v), evaluated, ("mask.s", "mask.v"), strict=True):
            claimed = plus(code.at(sent[:, :k], columns), times(code.at(sent[:, k:], columns), x_to_k))
            if (claimed != self._masked(value, symbols[mask], x, x_to_k)).any():
                self.fail(f"{label} is not what the opened columns make of it")

    def _spread(self, columns: np.ndarray) -> Callable[[Array], Array]:
        lagrange: list[Array] = []

        def spread(vectors: Array) -> Array:
            if np.count_nonzero(vectors) < vectors.size // 16:
                if not lagrange:
                    lagrange.append(self.code.lagrange(columns))
                return sparse_times(vectors, lagrange[0])
            return self.code.at(interpolated(self.code, vectors), columns)

        return spread


def to_bits(values: npt.ArrayLike, width: int, strict: bool = True) -> Integers:
    """Integers ``[...]`` as bits ``[..., width]``, the lowest first; if not strict, the nearest that have so many.

    Raises
    ------
    ProverError
        One is negative or has more bits.
    """
    x = np.asarray(values, np.int64)
    if not strict:
        x = np.clip(x, 0, (1 << width) - 1)
    if (x < 0).any() or (x >> width).any():
        raise ProverError(
            "the witness does not satisfy the statement, or an honest projection was longer than one in 2^40 is",
            why=f"values from {x.min()} to {x.max()} do not fit {width} bits",
            fix="if the change is honest, ask for the proof under another nonce",
        )
    return (x[..., None] >> np.arange(width)) & 1


def padded(code: Code, parameters: Parameters, values: Values, secret: Secret) -> dict[str, Array]:
    """Coefficients of rows with these values in their slots, zeros where there are fewer, and uniform padding."""
    out, slots = {}, parameters.slots
    for name, rows in values.items():
        message = np.zeros((len(rows), code.k), np.uint64)
        for start in range(0, len(rows), _CHUNK):  # no second copy of a layer
            piece = rows[start : start + _CHUNK]
            message[start : start + _CHUNK, : rows.shape[1]] = piece if rows.dtype == np.uint64 else residues(piece)
        message[:, slots:] = uniform((len(rows), code.k - slots), secret)
        out[name] = code.coefficients(message)
    return out


def interpolated(code: Code, vectors: Array) -> Array:
    """Coefficients of public vectors ``[r, slots or fewer]``, zero at all other positions."""
    full = np.zeros((len(vectors), code.k), np.uint64)
    full[:, : vectors.shape[1]] = vectors
    return code.coefficients(full)


def fold(low: Array, high: Array, shift: int) -> Array:
    """``low + x^shift high`` modulo x^k - 1, which has its values at the positions."""
    return plus(low, np.roll(high, shift, axis=1))


def stitches(code: Code, columns: np.ndarray, shift: int) -> tuple[Array, Array]:
    """x^shift and x^k at some points."""
    return np.array([pow(int(x), shift, P) for x in code.points[columns]], np.uint64), code.x_to_k[columns]
