"""Reference strings of a ceremony: imported, cut down, listed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import ezkl
import pytest
from commands import zkapex

from zkapex.circuits.cache import sha256_file
from zkapex.circuits.halo2.ceremony import check_srs, height_of, truncated
from zkapex.circuits.halo2.known import PERPETUAL_POWERS_OF_TAU, ceremony_of
from zkapex.circuits.halo2.srs import import_file, kept_srs, named_srs
from zkapex.errors import InputError, VerificationError


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the format of a ceremony's, of 2^5 rows."""
    path = tmp_path_factory.mktemp("ceremony") / "kzg5.srs"
    ezkl.gen_srs(str(path), 5)
    return path


def test_a_longer_string_holds_every_shorter_one(ceremony: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.srs"
    for k in (1, 4):
        short.write_bytes(truncated(ceremony, k))
        assert height_of(short) == k
        check_srs(short, k)  # its Lagrange points belong to its powers, and those to its trapdoor
    assert truncated(ceremony, 5) == ceremony.read_bytes()
    with pytest.raises(InputError, match="cannot be made longer"):
        truncated(ceremony, 6)


def test_cut_down_it_is_what_the_library_makes_of_it(tmp_path: Path) -> None:
    """The points of a trapdoor everybody knows, computed without any transform."""
    from py_ecc.optimized_bn128 import G1, multiply, normalize

    from zkapex.circuits.field import MODULUS
    from zkapex.circuits.halo2 import ceremony as c
    from zkapex.circuits.halo2.points import encoded

    secret, k = 987654321, 3
    n = 1 << k
    root = pow(c._ROOT, 1 << (c.MAX_LOG2_ROWS - k), MODULUS)
    points = [encoded(tuple(int(v.n) for v in normalize(multiply(G1, pow(secret, i, MODULUS))))) for i in range(2 * n)]
    path = tmp_path / "long.srs"
    path.write_bytes((k + 1).to_bytes(4, "little") + b"".join(points) + bytes(2 * n * 64) + bytes(256))
    lagrange = truncated(path, k)[4 + n * 64 : 4 + 2 * n * 64]
    for i in range(n):
        w = pow(root, i, MODULUS)
        scalar = w * (pow(secret, n, MODULUS) - 1) * pow(n * (secret - w), -1, MODULUS) % MODULUS
        assert lagrange[i * 64 : (i + 1) * 64] == encoded(tuple(int(v.n) for v in normalize(multiply(G1, scalar))))


def test_import_keeps_what_is_sound_and_lists_it(ceremony: Path, tmp_path: Path) -> None:
    kept = import_file(ceremony, 4, tmp_path)
    assert [(one.digest, one.log2_rows, one.origin) for one in kept_srs(tmp_path)] == [(kept.digest, 4, "imported")]
    assert named_srs(str(ceremony), 4, tmp_path) == kept
    assert named_srs(str(ceremony), 4, tmp_path) == kept  # noted
    assert named_srs(kept.digest, 4, tmp_path) == kept
    with pytest.raises(InputError, match="no reference string"):
        named_srs("ab" * 32, 4, tmp_path)
    spoilt = tmp_path / "spoilt.srs"
    for at in (2, 70, 2500, -40):
        data = bytearray(ceremony.read_bytes())
        data[at] ^= 1
        spoilt.write_bytes(data)
        with pytest.raises(VerificationError):
            import_file(spoilt, None, tmp_path)


def test_the_command(ceremony: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path))
    code, out, _ = zkapex("srs", "import", ceremony, "--digest", sha256_file(ceremony), "--json")
    assert code == 0
    [row] = json.loads(out)["strings"]
    assert row == {"sha256": sha256_file(ceremony), "log2_rows": 5, "origin": "imported", "ceremony": None}
    assert sha256_file(ceremony) in zkapex("srs", "list")[1]
    assert zkapex("srs", "check", ceremony)[0] == 0
    assert zkapex("srs", "import", ceremony, "--digest", "00" * 32)[0] == 20
    assert zkapex("srs", "check", tmp_path / "nothing")[0] == 10


def test_ceremonies_are_known_by_digest() -> None:
    assert ceremony_of(PERPETUAL_POWERS_OF_TAU[12])
    assert ceremony_of("00" * 32) is None
