"""Coverage-guided fuzzing with atheris, that is libFuzzer: ``make fuzz``, or

``PYTHONPATH=tests/support python tests/fuzz/fuzz.py [--targets=proof,record] [libFuzzer's options] [corpus folder]``

The first byte of an input says which target it is for. Any exception but `zkapex.errors.Error` is a finding, and so is
the death of the process; libFuzzer then leaves the input in ``findings/``. Put it into ``corpus/`` with the fix: every
run tries first what is there.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

KERNELS = [f"zkapex.circuits.transparent.{name}" for name in ("compiled", "field", "code", "program", "projection")]
"""What numba compiles cannot be instrumented."""

with atheris.instrument_imports(include=["zkapex", "mutate"], exclude=KERNELS):
    import mutate
    import targets

HERE = Path(__file__).parent
LAYERS = [targets.transparent_vectors.load(name).proof for name in targets.transparent_vectors.names()]
LIMITS = ("-timeout=60", "-rss_limit_mb=4096", "-max_len=65536", f"-artifact_prefix={HERE / 'findings'}/")


class Fuzzer:
    """Some of the targets, chosen by the first byte of the input."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def one_input(self, data: bytes) -> None:
        """What libFuzzer calls."""
        if data:
            targets.run(self.name(data), data[1:])

    def name(self, data: bytes) -> str:
        """The target an input is for."""
        every = list(targets.TARGETS)
        return every[data[0]] if data[0] < len(every) else self.names[data[0] % len(self.names)]

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Another input for the same target."""
        rng = random.Random(seed)

        def raw(value: bytes) -> bytes:
            return bytes(atheris.Mutate(value, max(len(value) + 64, 64)))

        if not data:
            data = bytes([list(targets.TARGETS).index(rng.choice(self.names))])
        head = 2 if self.name(data) in ("record", "evidence", "layer") else 1
        body = data[head:]
        if self.name(data) == "proof" and rng.random() < 0.3:  # libFuzzer prefers short inputs, which get nowhere
            body = targets.bundle().evidence.proofs[0]
        if self.name(data) == "layer" and (len(data) < 2 or rng.random() < 0.3):
            chosen = rng.randrange(len(LAYERS))
            data, body = data[:1] + bytes([chosen]), LAYERS[chosen]
        if rng.random() < 0.1:
            body = raw(body)
        elif self.name(data) == "layer":
            body = mutate.layer(body, rng)
        elif self.name(data) in ("proof", "point"):
            body = mutate.proof(body, rng)
        elif self.name(data) in ("image", "text"):
            body = raw(body)
        elif self.name(data) == "safetensors":
            length = int.from_bytes(body[:8], "little")
            header = mutate.document(body[8 : 8 + length], rng, raw)
            body = len(header).to_bytes(8, "little") + header + body[8 + length :]
        else:
            body = mutate.document(body, rng, raw)
        return (data[:head] + body)[:max_size]


def main() -> None:
    names = list(targets.TARGETS)
    arguments = []
    for argument in sys.argv[1:]:
        if argument.startswith("--targets="):
            names = argument.removeprefix("--targets=").split(",")
        else:
            arguments.append(argument)
    if unknown := set(names) - set(targets.TARGETS):
        sys.exit(f"no such target: {', '.join(sorted(unknown))}")
    if not all(targets.run(name, data) for name, data in targets.honest()):
        sys.exit("an honest input is not accepted: fuzzing would only ever see the first check")
    (HERE / "findings").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zkapex-fuzz-") as folder:
        for i, (name, data) in enumerate(targets.seeds()):
            if name in names:
                (Path(folder) / f"{name}-{i}").write_bytes(bytes([list(targets.TARGETS).index(name)]) + data)
        fuzzer = Fuzzer(names)
        folders = [a for a in arguments if not a.startswith("-")] or [folder]
        options = [a for a in arguments if a.startswith("-")]
        argv = [sys.argv[0], *LIMITS, *options, *dict.fromkeys([*folders, folder]), str(HERE / "corpus")]
        atheris.Setup(argv, fuzzer.one_input, custom_mutator=fuzzer.mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
