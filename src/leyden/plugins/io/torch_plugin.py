"""The storage of checkpoints in files, where Lightning puts it."""

from leyden.checkpoint.files import TorchCheckpointIO

__all__ = ["TorchCheckpointIO"]
