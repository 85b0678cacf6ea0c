"""A federation whose proofs are for a public ceremony's reference string: a third party can be convinced by them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ezkl
import pytest
from commands import output_of
from here import Here

from zkapex.circuits.profiles import profile
from zkapex.server.console.folder import FederationFolder
from zkapex.server.console.source import FolderSource
from zkapex.server.deployment.settings import load

pytestmark = pytest.mark.slow
HEIGHT = profile("tiny").log2_rows


def test_from_a_ceremonys_file_to_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut out of a longer file is one of these, too: `tests/circuits/test_srs_import.py`."""
    file = tmp_path / "kzg.srs"
    ezkl.gen_srs(str(file), HEIGHT)
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "cache"))
    code, out, _ = output_of("srs", "import", file, "--json")
    assert code == 0
    [row] = json.loads(out)["strings"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert row["sha256"] == digest
    assert (row["log2_rows"], row["origin"], row["ceremony"]) == (HEIGHT, "imported", None)

    here = Here(tmp_path, devices=1, srs=digest)
    here.order("r-1", "request-1")
    assert here.campaign().left == ()
    assert output_of("server", "receipts", "verify", here.place.root)[0] == 0, "its operator has named the string"
    [receipt] = (here.place.federation / "receipts" / "r-1").iterdir()
    [client] = [one.client_id for one in FolderSource(FederationFolder.of(here.place.root)).clients()]
    assert FolderSource(FederationFolder.of(here.place.root)).verify("r-1", client)["proofs_verified"] == 2
    trust = ("--trust", here.place.federation / "key.pub")

    code, out, _ = output_of("verify", receipt, *trust, "--srs", digest, "--json")
    told = json.loads(out)
    assert (code, told["verified"], told["srs_sha256"], told["srs_origin"]) == (0, True, digest, "imported")
    code, _, err = output_of("verify", receipt, *trust)
    assert (code, "of no ceremony that is known here" in err) == (24, True)
    code, _, err = output_of("verify", receipt, *trust, "--srs", hashlib.sha256(b"another").hexdigest())
    assert (code, "another reference string than the one you trust" in err) == (24, True)

    # A third party, who has nothing but the receipt, the provider's key and the ceremony's file.
    monkeypatch.setenv("ZKAPEX_CACHE", str(tmp_path / "third"))
    code, _, err = output_of("verify", receipt, *trust, "--srs", digest)
    assert (code, "is not on this machine" in err) == (10, True)
    assert output_of("srs", "import", file)[0] == 0
    assert output_of("verify", receipt, *trust, "--srs", digest)[0] == 0


def test_a_server_is_told_which_string(tmp_path: Path) -> None:
    code, _, err = output_of(
        "server", "init", tmp_path / "server", "--host", "localhost", "--provider", "a.b:c", "--srs", "12" * 32
    )
    assert (code, err) == (0, "")
    assert load(tmp_path / "server").run["srs"] == "12" * 32
