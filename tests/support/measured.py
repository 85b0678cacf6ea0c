"""What soaks measure of folders, and how they tell what they found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def megabytes(folder: Path, pattern: str) -> float:
    """10^6 bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file()) / 1e6


def tell(found: dict[str, Any], out: Path | None) -> None:
    """Print what was measured, and write it into a file if one is given."""
    text = json.dumps(found, indent=1)
    if out is not None:
        out.write_text(text + "\n")
    sys.stdout.write(text + "\n")
