"""The versions: of this package, and of the Lightning whose vocabulary it speaks."""

__version__ = "2.6.0"
"""Its first two numbers are those of :data:`LIGHTNING`: programs ask for them, and take another way for an older Lightning."""
LIGHTNING = "2.6.0"
"""Checkpoints carry it: their top level is laid out as that version's."""
