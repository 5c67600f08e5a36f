"""Modules as programs of torch.export: the name of :mod:`leyden.inspect.export`."""

from __future__ import annotations

from leyden.inspect.export import to_exported_program

__all__ = ["to_exported_program"]
