"""Layers whose statistics are taken over all processes."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class LayerSync(ABC):
    """Puts layers that talk to the other processes in the place of a module's own, and back. Subclass it, and pass it in
    ``Trainer(plugins=...)``. A process that is alone has nobody to talk to: there it is not asked."""

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with layers that talk to the other processes."""

    @abstractmethod
    def revert(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with layers as they were."""


class TorchSyncBatchNorm(LayerSync):
    """``torch.nn.SyncBatchNorm`` for every batch norm, with its weights and statistics."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with a ``SyncBatchNorm`` in the place of each ``BatchNorm``."""
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with a batch norm of its own in the place of each ``SyncBatchNorm``; weights and statistics stay."""
        if isinstance(model, nn.SyncBatchNorm):
            return _alone(model)
        for name, child in model.named_children():
            reverted = self.revert(child)
            if reverted is not child:
                setattr(model, name, reverted)
        return model


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm of any number of dimensions: a ``SyncBatchNorm`` does not remember which it had."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass


def _alone(layer: nn.SyncBatchNorm) -> nn.Module:
    made = _BatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    made.weight, made.bias = layer.weight, layer.bias  # the parameters themselves: an optimizer may have them
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(made, name, buffer)
    made.training = layer.training
    return made
