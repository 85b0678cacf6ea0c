"""The provider's memory: clients, commitments, requests, proofs and receipts in a database."""
