"""Models: a vision transformer small enough to be proved in full, and pretrained ones."""
