"""The device's side of the protocol."""
