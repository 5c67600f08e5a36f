"""Summaries of modules, where Lightning puts them."""

from leyden.inspect.summary import (
    NOT_APPLICABLE,
    UNKNOWN_SIZE,
    LayerSummary,
    ModelSummary,
    get_formatted_model_size,
    get_human_readable_count,
    parse_batch_shape,
    summarize,
)
from leyden.inspect.summary import OTHER_PARAMETERS as LEFTOVER_PARAMS_NAME

__all__ = [
    "LEFTOVER_PARAMS_NAME",
    "NOT_APPLICABLE",
    "UNKNOWN_SIZE",
    "LayerSummary",
    "ModelSummary",
    "get_formatted_model_size",
    "get_human_readable_count",
    "parse_batch_shape",
    "summarize",
]
