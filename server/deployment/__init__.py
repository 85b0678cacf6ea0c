"""A server that an operator installs and runs: its folder, certificates, gate, processes and campaigns."""
