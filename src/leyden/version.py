"""The version of this package, for the metadata and for checkpoints."""

__version__ = "0.1.0"
