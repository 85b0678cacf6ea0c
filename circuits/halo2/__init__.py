"""The Halo2 backend, through ezkl: graphs, keys and reference strings."""
