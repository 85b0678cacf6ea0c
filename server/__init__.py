"""What the provider runs: saliency, mask, guard, the protocol's state machine, the registry, and the ServerApp."""
