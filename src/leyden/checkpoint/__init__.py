"""Checkpoints: what stands in a file, how it gets to disk and back, and how it is called."""
