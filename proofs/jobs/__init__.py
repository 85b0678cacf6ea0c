"""Many proofs at once: a pool of worker processes on this machine, or a Ray cluster."""
