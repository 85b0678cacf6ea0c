"""What carries messages: their framing, Flower's grid, and one that stays in this process."""
