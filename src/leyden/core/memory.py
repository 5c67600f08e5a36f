"""The summary of a module, where 0.7 to 1.9 had it."""

from leyden.inspect.summary import ModelSummary

__all__ = ["ModelSummary"]
