"""RichModelSummary, where Lightning puts it."""

from leyden.callbacks.model_summary import RichModelSummary

__all__ = ["RichModelSummary"]
