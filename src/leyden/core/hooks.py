"""The mixins of hooks, where Lightning puts them."""

from leyden.hook_mixins import CheckpointHooks, DataHooks, ModelHooks

__all__ = ["CheckpointHooks", "DataHooks", "ModelHooks"]
