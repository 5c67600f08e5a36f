"""The versions: of this package, and of the Lightning whose vocabulary it speaks."""

__version__ = "0.1.0"
LIGHTNING = "2.6.0"
"""For code that asks for Lightning's version; checkpoints carry it, and their top level is laid out as that version's."""
