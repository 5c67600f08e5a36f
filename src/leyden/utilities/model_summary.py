"""Summaries of modules, where Lightning's documents put them."""

from leyden.inspect.summary import LayerSummary, ModelSummary, get_human_readable_count, parse_batch_shape, summarize

__all__ = ["LayerSummary", "ModelSummary", "get_human_readable_count", "parse_batch_shape", "summarize"]
