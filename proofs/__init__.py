"""Commitments, chunk proofs, Merkle trees, receipts and the ledger, and their offline verification.

Imports neither torch nor Flower, so that a receipt can be verified without either.
"""
