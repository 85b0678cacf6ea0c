"""A device that an engineer installs: its folder, checks, processes, and its agent over encrypted state."""
