"""Deletion requests, from the plan to the receipts."""
