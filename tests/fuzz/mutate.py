"""Mutations that know what they mutate: words of a proof, values of a JSON document.

Random bytes hardly ever pass a length, a base64 or an encoding check, and so never reach what lies behind.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

from py_ecc.optimized_bn128 import field_modulus

from zkapex.circuits.field import MODULUS

WORD = 32
Bytes = Callable[[bytes], bytes]

NUMBERS = (0, 1, 2, -1, 255, 256, 2**16, 2**20, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63))
VALUES = (*NUMBERS, 0.0, -0.0, 0.5, 1e9, 1e308, None, True, False, "", "a", "\u0000", "\ud7ff", "é" * 200, [], {}, [[]])


def proof(data: bytes, rng: random.Random) -> bytes:
    """One change to the 32-byte words of a proof, or to its length."""
    words = [data[i : i + WORD] for i in range(0, len(data), WORD)]
    if not words:
        return bytes(WORD)
    at = rng.randrange(len(words))
    value = int.from_bytes(words[at], "big")
    special = (0, 1, 2, 3, MODULUS - 1, MODULUS, field_modulus - 1, field_modulus, 2**256 - 1)
    choices: tuple[Callable[[], list[bytes]], ...] = (
        lambda: _set(words, at, rng.choice(special)),
        lambda: _set(words, at, value + rng.choice((1, -1, MODULUS, field_modulus))),
        lambda: _set(words, at, field_modulus - value),
        lambda: _set(words, at, value ^ 1 << rng.randrange(256)),
        lambda: _set(words, at, int.from_bytes(rng.choice(words), "big")),
        lambda: [*words[:at], *words[at + 1 :]],
        lambda: [*words[:at], bytes(WORD), *words[at:]],
        lambda: [*words[: at & ~1], *words[(at & ~1) + 2 :], *words[at & ~1 : (at & ~1) + 2]],
        lambda: [*words[:-1], words[-1][: rng.randrange(WORD)]],
    )
    return b"".join(rng.choice(choices)())


def _set(words: list[bytes], at: int, value: int) -> list[bytes]:
    return [*words[:at], (value % 2**256).to_bytes(WORD, "big"), *words[at + 1 :]]


def layer(data: bytes, rng: random.Random) -> bytes:
    """One change to the 8-byte words of a proof of the transparent backend, or to its length."""
    order = 2**64 - 2**32 + 1
    words = [data[i : i + 8] for i in range(0, len(data), 8)]
    if not words:
        return bytes(8)
    at = rng.randrange(len(words))
    value = int.from_bytes(words[at], "little")
    new = rng.choice((0, 1, order - 1, order, 2**64 - 1, value ^ 1 << rng.randrange(64), (value + order) % 2**64))
    cut = rng.randrange(0, 40)
    choices: tuple[Callable[[], list[bytes]], ...] = (
        lambda: [*words[:at], new.to_bytes(8, "little"), *words[at + 1 :]],
        lambda: [*words[:at], rng.choice(words), *words[at + 1 :]],
        lambda: [*words[:at], *words[at + 1 :]],
        lambda: [*words[:at], bytes(8), *words[at:]],
        lambda: words[: len(words) - cut],
        lambda: [*words, *words[:cut]],
    )
    return b"".join(rng.choice(choices)())


def document(data: bytes, rng: random.Random, raw: Bytes) -> bytes:
    """One change to a value of a JSON document, in the encoding of records; base64 is changed inside."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data)
    places = _places(root)
    if not places:
        return raw(data)
    parent, key = rng.choice(places)
    parent[key] = _changed(parent[key], rng, raw, [holder[k] for holder, k in places])
    if isinstance(parent, dict) and rng.random() < 0.1:
        del parent[key]
    if isinstance(parent, list) and rng.random() < 0.2:
        parent.insert(rng.randrange(len(parent) + 1), rng.choice(parent))
    return json.dumps(root, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every value in a document, as what holds it and its key or index there."""
    found: list[tuple[Any, Any]] = []
    todo = [root]
    while todo:
        holder = todo.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            todo.append(holder[key])
    return found


def _changed(value: Any, rng: random.Random, raw: Bytes, others: list[Any]) -> Any:
    if rng.random() < 0.2:
        return json.loads(json.dumps(rng.choice(others)))
    if isinstance(value, str) and rng.random() < 0.8:
        return _text(value, rng, raw)
    if isinstance(value, int) and rng.random() < 0.7:
        return value + rng.choice((1, -1, value, 7))
    return rng.choice(VALUES)


def _text(value: str, rng: random.Random, raw: Bytes) -> str:
    if rng.random() < 0.7:
        try:
            return base64.b64encode(raw(base64.b64decode(value, validate=True))).decode("ascii")
        except ValueError:
            pass
    return raw(value.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
