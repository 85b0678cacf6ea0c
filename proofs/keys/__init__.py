"""Whose signatures count: keysets signed by an offline root, and keys that are trusted by themselves."""
