"""Layers that talk to other processes, where Lightning puts them."""

from leyden.distributed.layer_sync import LayerSync, TorchSyncBatchNorm

__all__ = ["LayerSync", "TorchSyncBatchNorm"]
