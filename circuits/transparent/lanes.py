"""The processor's vectors: eight elements of F_p at a time, and sixteen messages of SHA-256.

numba has no type for vectors, and LLVM does not find them in loops whose arrays it cannot tell apart. So here is a
type of eight elements with what transforms need, written in LLVM's own terms. LLVM makes of it what the processor
has: two halves where vectors are shorter, and single words where there are none. Results are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from zkapex.circuits.transparent.compiled import kernel
from zkapex.circuits.transparent.field import P

LANES = 8
"""Elements of F_p that are worked on at a time."""
MESSAGES = 16
"""Messages that are hashed at a time."""
_LOW = (1 << 32) - 1
_LONG, _WORD = ir.IntType(64), ir.IntType(32)
_VECTOR, _WORDS = ir.VectorType(_LONG, LANES), ir.VectorType(_WORD, MESSAGES)
Words = npt.NDArray[np.uint32]


class _Lanes(types.Type):
    """Eight elements of F_p."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, _VECTOR)  # type: ignore[no-untyped-call]


_LANES: Any = _Lanes()
_tools: Any = cgutils
_intrinsic = cast(Callable[[Callable[..., Any]], Any], intrinsic)


def _constant(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any, vector: ir.VectorType) -> Any:
    """Where a vector begins in an array: the data's start and so many entries, whatever the array's shape."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _read(builder: Any, place: Any, align: int) -> Any:
    word = builder.load(place)
    word.align = align
    return word


def _add(builder: Any, a: Any, b: Any) -> Any:
    """See `zkapex.circuits.transparent.field.add`."""
    rest = builder.sub(_constant(_VECTOR, P), b)
    less = builder.sub(a, rest)
    return builder.select(builder.icmp_unsigned("<", a, rest), builder.sub(less, _constant(_VECTOR, _LOW)), less)


def _sub(builder: Any, a: Any, b: Any) -> Any:
    less = builder.sub(a, b)
    return builder.select(builder.icmp_unsigned("<", a, b), builder.sub(less, _constant(_VECTOR, _LOW)), less)


def _reduced(builder: Any, low: Any, top: Any, middle: Any) -> Any:
    """``low + 2^64 middle + 2^96 top`` in F_p: see `zkapex.circuits.transparent.field.mul`."""
    ones = _constant(_VECTOR, _LOW)
    less = builder.sub(low, top)
    less = builder.select(builder.icmp_unsigned("<", low, top), builder.sub(less, ones), less)
    more = builder.sub(builder.shl(middle, _constant(_VECTOR, 32)), middle)
    whole = builder.add(less, more)
    whole = builder.select(builder.icmp_unsigned("<", whole, more), builder.add(whole, ones), whole)
    small = builder.add(whole, ones)  # less p, modulo 2^64
    return builder.select(builder.icmp_unsigned("<", whole, _constant(_VECTOR, P)), whole, small)


def _mul(builder: Any, a: Any, b: Any) -> Any:
    """The 128 bits of the product come of four products of halves."""

    def under(x: Any) -> Any:
        return builder.and_(x, _constant(_VECTOR, _LOW))

    def over(x: Any) -> Any:
        return builder.lshr(x, _constant(_VECTOR, 32))

    a0, a1, b0, b1 = under(a), over(a), under(b), over(b)
    first = builder.mul(a0, b0)
    second = builder.add(builder.mul(a1, b0), over(first))
    third = builder.add(builder.mul(a0, b1), under(second))
    high = builder.add(builder.mul(a1, b1), builder.add(over(second), over(third)))
    low = builder.or_(builder.shl(third, _constant(_VECTOR, 32)), under(first))
    return _reduced(builder, low, over(high), under(high))


def _by_root(builder: Any, a: Any) -> Any:
    low, high = builder.shl(a, _constant(_VECTOR, 48)), builder.lshr(a, _constant(_VECTOR, 16))
    middle = builder.and_(high, _constant(_VECTOR, _LOW))
    return _reduced(builder, low, builder.lshr(a, _constant(_VECTOR, 48)), middle)


def _binary(operation: Callable[..., Any], about: str) -> Any:
    def typed(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return operation(builder, *args)

        return _LANES(_LANES, _LANES), code

    typed.__doc__ = about
    return _intrinsic(typed)


add = _binary(_add, "Sums in F_p.")
sub = _binary(_sub, "Differences in F_p.")
mul = _binary(_mul, "Products in F_p.")


@_intrinsic
def by_root(typing: Any, a: Any) -> Any:
    """Times 2^48, whose square is -1, and which needs no multiplication."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _by_root(builder, args[0])

    return _LANES(_LANES), code


@_intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """Eight neighbours in an array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _read(builder, _place(context, builder, signature.args[0], args[0], args[1], _VECTOR), 8)

    return _LANES(array, types.intp), code


@_intrinsic
def store(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """Put eight elements into an array, as neighbours."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _place(context, builder, signature.args[0], args[0], args[1], _VECTOR), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), code


@_intrinsic
def spread(typing: Any, value: Any) -> Any:
    """One element, eight times."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), args[0], ir.Constant(_WORD, 0))
        return builder.shuffle_vector(first, first, _constant(ir.VectorType(_WORD, LANES), 0))

    return _LANES(types.uint64), code


@_intrinsic
def turn(typing: Any, source: Any, at: Any, apart: Any, target: Any, to: Any, beside: Any) -> Any:
    """Transpose eight times eight entries: rows ``apart`` entries from each other into rows ``beside`` ones."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _from, at, apart, _to, to, beside = args
        rows = []
        for i in range(LANES):
            place = builder.add(at, builder.mul(apart, ir.Constant(apart.type, i)))
            rows.append(_read(builder, _place(context, builder, signature.args[0], _from, place, _VECTOR), 8))
        for step in (1, 2, 4):
            low = [j if not j & step else LANES + j - step for j in range(LANES)]
            high = [j + step if not j & step else LANES + j for j in range(LANES)]
            for i in range(LANES):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    for at_row, lanes in ((i, low), (i + step, high)):
                        mask = ir.Constant(ir.VectorType(_WORD, LANES), lanes)
                        rows[at_row] = builder.shuffle_vector(a, b, mask)
        for i, row in enumerate(rows):
            place = builder.add(to, builder.mul(beside, ir.Constant(beside.type, i)))
            builder.store(row, _place(context, builder, signature.args[3], _to, place, _VECTOR), align=8)
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, i, target, i, i), code


# -- SHA-256 ----------------------------------------------------------------------------------------------------------


def _roots(power: int, count: int) -> list[int]:
    """The first 32 bits of the fractions of the primes' square or cube roots, of which SHA-256 has its constants."""
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % d for d in range(2, candidate)):
            whole = candidate << (32 * power)
            root = 1 << 40
            while True:  # Newton's integer root, from above
                next_root = ((power - 1) * root + whole // root ** (power - 1)) // power
                if next_root >= root:
                    break
                root = next_root
            found.append(root & _LOW)
        candidate += 1
    return found


START: Words = np.array(_roots(2, 8), np.uint32)
"""What SHA-256 begins with."""
_ROUNDS = _roots(3, 64)


@_intrinsic
def _compress(typing: Any, state: Any, at: Any, block: Any, place: Any) -> Any:
    """One block of sixteen messages into their states: word i of message m is ``[16 i + m]`` of both arrays."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def word(kind: int, index: int) -> Any:
            at = builder.add(args[kind + 1], ir.Constant(args[kind + 1].type, MESSAGES * index))
            return _place(context, builder, signature.args[kind], args[kind], at, _WORDS)

        def rotated(x: Any, by: int) -> Any:
            return builder.or_(builder.lshr(x, _constant(_WORDS, by)), builder.shl(x, _constant(_WORDS, 32 - by)))

        def three(x: Any, r: int, s: int, t: int, shift: bool = False) -> Any:
            last = builder.lshr(x, _constant(_WORDS, t)) if shift else rotated(x, t)
            return builder.xor(builder.xor(rotated(x, r), rotated(x, s)), last)

        def total(*parts: Any) -> Any:
            out = parts[0]
            for part in parts[1:]:
                out = builder.add(out, part)
            return out

        before = [_read(builder, word(0, i), 4) for i in range(8)]
        w = [_read(builder, word(2, i), 4) for i in range(16)]
        a, b, c, d, e, f, g, h = before
        for i in range(64):
            if i >= 16:
                small = three(w[i - 15], 7, 18, 3, True), three(w[i - 2], 17, 19, 10, True)
                w.append(total(w[i - 16], small[0], w[i - 7], small[1]))
            choice = builder.xor(g, builder.and_(e, builder.xor(f, g)))
            one = total(h, three(e, 6, 11, 25), choice, builder.add(w[i], _constant(_WORDS, _ROUNDS[i])))
            most = builder.or_(builder.and_(a, b), builder.and_(c, builder.or_(a, b)))
            a, b, c, d, e, f, g, h = total(one, three(a, 2, 13, 22), most), a, b, c, builder.add(d, one), e, f, g
        for i, (old, new) in enumerate(zip(before, (a, b, c, d, e, f, g, h), strict=True)):
            builder.store(builder.add(old, new), word(0, i), align=4)
        return context.get_dummy_value()

    return types.void(state, types.intp, block, types.intp), code


@_intrinsic
def _split(typing: Any, symbols: Any, at: Any, block: Any, place: Any) -> Any:
    """Sixteen neighbours of 64 bits as two words each, as their bytes in ascending order are read."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(_LONG, MESSAGES)
        value = _read(builder, _place(context, builder, signature.args[0], args[0], args[1], wide), 8)
        kind = ir.FunctionType(_WORDS, [_WORDS])
        swap = _tools.get_or_insert_function(builder.module, kind, f"llvm.bswap.v{MESSAGES}i32")
        for i in range(2):
            half = builder.trunc(builder.lshr(value, _constant(wide, 32 * i)), _WORDS)
            at = builder.add(args[3], ir.Constant(args[3].type, MESSAGES * i))
            builder.store(
                builder.call(swap, [half]), _place(context, builder, signature.args[2], args[2], at, _WORDS), align=4
            )
        return context.get_dummy_value()

    return types.void(symbols, types.intp, block, types.intp), code


_ROOM = MESSAGES * 18
"""Words of a group's messages that wait to be hashed: a block, and what a symbol brings beyond it."""


@kernel
def _absorb(symbols: npt.NDArray[np.uint64], state: Words, waiting: Words, count: int) -> int:
    """Two words of every message for each row of symbols ``[rows, messages]``; returns how many wait then."""
    at = count
    for group in range(state.shape[0]):
        at = count
        for r in range(symbols.shape[0]):
            _split(symbols, r * symbols.shape[1] + MESSAGES * group, waiting, group * _ROOM + MESSAGES * at)
            at += 2
            if at >= 16:
                _compress(state, group * 8 * MESSAGES, waiting, group * _ROOM)
                at -= 16
                for m in range(MESSAGES):
                    waiting[group, 0, m] = waiting[group, 16, m]
    return at


@kernel
def _absorb_words(words: Words, state: Words, waiting: Words, count: int) -> int:
    """More words of each message ``[messages, words]``; messages without any are left alone."""
    at = count
    for group in range(state.shape[0]):
        at = count
        for i in range(words.shape[1]):
            for m in range(min(MESSAGES, words.shape[0] - MESSAGES * group)):
                waiting[group, at, m] = words[MESSAGES * group + m, i]
            at += 1
            if at == 16:
                _compress(state, group * 8 * MESSAGES, waiting, group * _ROOM)
                at = 0
    return at


class Hashes:
    """SHA-256 of many messages of one length, side by side."""

    def __init__(self, messages: int) -> None:
        groups = -(-messages // MESSAGES)
        self._messages, self._words, self._count = messages, 0, 0
        self._state = np.repeat(np.broadcast_to(START[None, :, None], (groups, 8, 1)), MESSAGES, 2)
        self._waiting = np.zeros((groups, _ROOM // MESSAGES, MESSAGES), np.uint32)

    def words(self, words: npt.NDArray[np.uint32]) -> None:
        """Go on with words of four bytes, the first the highest: ``[messages, words]``."""
        given = np.ascontiguousarray(words)
        self._count = _absorb_words(given, self._state, self._waiting, self._count)
        self._words += given.shape[1]

    def symbols(self, symbols: npt.NDArray[np.uint64]) -> None:
        """Go on with integers of eight bytes, the first the lowest: ``[integers, messages]``."""
        assert symbols.flags.c_contiguous
        assert symbols.shape[1] == len(self._state) * MESSAGES
        self._count = _absorb(symbols, self._state, self._waiting, self._count)
        self._words += 2 * len(symbols)

    def digests(self) -> Words:
        """The digests in words, the first byte the highest: ``[messages, 8]``. The last thing that is asked."""
        rest = -(self._words + 3) % 16
        end = np.zeros((self._messages, rest + 3), np.uint32)
        end[:, 0] = 1 << 31
        end[:, -2], end[:, -1] = (32 * self._words) >> 32, (32 * self._words) & _LOW
        self.words(end)
        return np.ascontiguousarray(self._state.transpose(0, 2, 1).reshape(-1, 8)[: self._messages])


def words_of(data: bytes) -> Words:
    """Bytes as words, the first byte the highest."""
    return np.frombuffer(data, ">u4").astype(np.uint32)


def bytes_of(words: Words) -> bytes:
    """The inverse of `words_of`."""
    return words.astype(">u4").tobytes()
