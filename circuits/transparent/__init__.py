"""A proof backend without trusted setup: hash-based, hiding, about whole layers (docs/transparent.md)."""
