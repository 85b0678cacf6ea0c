"""The demo: one simulated federation from training to receipts, beside a retrained oracle."""
