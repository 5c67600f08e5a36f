"""The summary, where 0.5 had it."""

from leyden.inspect.summary import ModelSummary

__all__ = ["ModelSummary"]
