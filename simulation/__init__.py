"""Models, data, scenarios and the Flower runtimes that run the real ClientApp and ServerApp on one machine."""
