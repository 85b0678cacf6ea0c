"""What proofs cost on this machine: estimates and benchmarks."""
