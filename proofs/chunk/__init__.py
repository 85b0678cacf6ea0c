"""Commitments to one chunk of weights, and proving and verifying what was done to it."""
