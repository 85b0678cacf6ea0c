"""The rules of the protocol, without any I/O: states, events, and what may become of them."""
