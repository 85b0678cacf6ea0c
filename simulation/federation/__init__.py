"""The federation that a run of Flower simulates: provider, devices, and those who cheat."""
