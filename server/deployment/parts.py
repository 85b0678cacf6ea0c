"""The server's own processes, as ``python -m zkapex.server.deployment.parts PART DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from zkapex.server.deployment.settings import Place, load


def main(part: str, root: str) -> None:
    """Serve one part until the process is told to stop."""
    place = Place(Path(root))
    settings = load(place.root)
    if part == "gate":
        from zkapex.server.deployment.gate import serve_gate

        serve_gate(settings.gate, settings.link.port, place.gate)
    elif part == "observe":
        from zkapex.server.deployment.observe import serve_metrics

        serve_metrics(place, settings)
    else:
        sys.exit(f"there is no part {part}")


if __name__ == "__main__":
    main(*sys.argv[1:])
