"""What a device keeps on disk: its model, what it has committed to, its salts, and whom it obeys."""
