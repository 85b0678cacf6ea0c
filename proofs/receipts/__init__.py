"""Receipts: the evidence they rest on, what follows from it, and the folder they are kept in."""
