"""Memory, where Lightning's documents put it."""

from leyden.devices.memory import garbage_collection_cuda, is_oom_error, recursive_detach

__all__ = ["garbage_collection_cuda", "is_oom_error", "recursive_detach"]
