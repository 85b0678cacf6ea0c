"""The web console: what the command line shows and does, for people who would rather see it in a browser."""
