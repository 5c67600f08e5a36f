"""Memory and the summary of a module, where 0.5 to 1.9 had them."""

from leyden.devices.memory import garbage_collection_cuda, get_gpu_memory_map, get_memory_profile
from leyden.inspect.summary import (
    LayerSummary,
    ModelSummary,
    get_formatted_model_size,
    get_human_readable_count,
    parse_batch_shape,
    summarize,
)

__all__ = [
    "LayerSummary",
    "ModelSummary",
    "garbage_collection_cuda",
    "get_formatted_model_size",
    "get_gpu_memory_map",
    "get_human_readable_count",
    "get_memory_profile",
    "parse_batch_shape",
    "summarize",
]
