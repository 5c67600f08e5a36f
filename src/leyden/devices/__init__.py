"""Devices: which one a run uses, the number format it computes in, and the random state."""
