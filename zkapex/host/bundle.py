"""The one Flower bundle that machines of a deployment run, and its digest."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path


def deployed_app() -> Path:
    """Folder of the Flower app of a deployment that comes with the installed package."""
    return Path(str(resources.files("zkapex"))) / "deployedapp"


def bundle_bytes() -> bytes:
    """The bundle as Flower makes it from that folder; the same bytes every time."""
    from flwr.cli.build import build_fab_from_disk

    return build_fab_from_disk(deployed_app())


def bundle_digest() -> str:
    """SHA-256 of the bundle, hex: what machines of a deployment pin."""
    return hashlib.sha256(bundle_bytes()).hexdigest()
