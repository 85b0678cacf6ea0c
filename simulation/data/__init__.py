"""Data sets: digits, pictures, source code, and what is loaded by name from a hub."""
