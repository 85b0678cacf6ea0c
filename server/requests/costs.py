"""What proving and verifying cost each client, kept on disk as it comes in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from zkapex.errors import StorageError
from zkapex.storage import save_text


@dataclass(frozen=True)
class ClientCosts:
    """CPU seconds of proving, peak memory of a prover in 10^6 bytes, bytes of proof, CPU seconds of verifying."""

    prove_cpu_s: float = 0.0
    prover_peak_rss_mb: float = 0.0
    proof_bytes: int = 0
    verify_s: float = 0.0


class CostBook:
    """Costs by client id, in a JSON file.

    Raises
    ------
    StorageError
        The file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = json.loads(path.read_text()) if path.exists() else {}
            self._costs = {client: ClientCosts(**cost) for client, cost in text.items()}
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise StorageError(f"{path} is damaged", why=str(e), fix="delete it; only timings are lost") from e

    def of(self, client_id: str) -> ClientCosts:
        """The costs of a client so far."""
        return self._costs.get(client_id, ClientCosts())

    def add(self, client_id: str, prove_cpu_s: float, peak_rss_mb: float, proof_bytes: int, verify_s: float) -> None:
        """Add one proof's costs; the file is rewritten at once."""
        old = self.of(client_id)
        self._costs[client_id] = replace(
            old,
            prove_cpu_s=old.prove_cpu_s + prove_cpu_s,
            prover_peak_rss_mb=max(old.prover_peak_rss_mb, peak_rss_mb),
            proof_bytes=old.proof_bytes + proof_bytes,
            verify_s=old.verify_s + verify_s,
        )
        save_text(self._path, json.dumps({client: asdict(cost) for client, cost in self._costs.items()}))
