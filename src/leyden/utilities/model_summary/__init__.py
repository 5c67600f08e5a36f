"""Summaries of modules, where Lightning's documents put them."""

from typing import Any

from leyden.inspect.summary import (
    LayerSummary,
    ModelSummary,
    get_formatted_model_size,
    get_human_readable_count,
    parse_batch_shape,
    summarize,
)
from leyden.not_offered import absent

__all__ = [
    "LayerSummary",
    "ModelSummary",
    "get_formatted_model_size",
    "get_human_readable_count",
    "parse_batch_shape",
    "summarize",
]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
