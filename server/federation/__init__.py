"""Who takes part, how the model is trained, and what the provider brings."""
