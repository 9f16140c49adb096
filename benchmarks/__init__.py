"""Measurements of the library against servers on this machine. Each module is a command: `python -m benchmarks.X`."""
