"""A folder of receipts is none itself; what is said then leads to one."""

from __future__ import annotations

from pathlib import Path

import pytest

from zkapex.errors import InputError
from zkapex.proofs.receipts.bundle import RECEIPT_FILE, read_bundle
from zkapex.proofs.receipts.chain import find_receipts


def test_a_folder_of_receipts_names_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(InputError) as found:
        read_bundle(tmp_path)
    assert found.value.fix == "name another directory"
    receipt = tmp_path / "receipts" / "request-1" / "a" / RECEIPT_FILE
    receipt.parent.mkdir(parents=True)
    receipt.write_text("{}")
    for folder in (tmp_path, tmp_path / "receipts", receipt.parents[1]):
        with pytest.raises(InputError) as found:
            read_bundle(folder)
        assert found.value.fix is not None
        assert str(receipt.parent) in found.value.fix
        assert "--chain" in found.value.fix


def test_a_work_folders_receipts_are_in_receipts(tmp_path: Path) -> None:
    """Devices keep what they were given beside: no folder of evidence, and not looked at as one."""
    for place in ("receipts/request-1/a", "receipts/request-2/a", "devices/000/requests/request-1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "receipt.json").write_text("{}")
    wanted = tuple(tmp_path / "receipts" / request / "a" for request in ("request-1", "request-2"))
    (tmp_path / "receipts" / "request-2" / ".b.partial").mkdir()
    (tmp_path / "receipts" / "request-2" / ".b.partial" / "receipt.json").write_text("{")  # by a writer that was killed
    assert find_receipts(tmp_path) == wanted
    assert find_receipts(tmp_path / "receipts") == wanted
    assert find_receipts(tmp_path / "receipts" / "request-2") == wanted[1:]
    with pytest.raises(InputError, match="no receipts"):
        find_receipts(tmp_path / "receipts" / "request-2" / "a" / "nothing")
