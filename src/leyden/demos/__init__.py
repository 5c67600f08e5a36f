"""The names under which bug reports import small modules."""

from leyden.testing import BoringDataModule, BoringModel

__all__ = ["BoringDataModule", "BoringModel"]
