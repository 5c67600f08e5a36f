"""Batch norms are exchanged for ones of several processes, and back, with the same numbers."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from torch import nn

import leyden
from leyden.errors import ConflictingOptions
from leyden.plugins import LayerSync, TorchSyncBatchNorm
from leyden.testing import BoringModel


def test_there_and_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4, momentum=0.3)), nn.BatchNorm1d(4, affine=False)).eval()
    x, weights = torch.randn(5, 3), list(net.parameters())
    expected = net(x)
    sync = TorchSyncBatchNorm()
    applied = sync.apply(net)
    assert [type(each).__name__ for each in applied.modules()].count("SyncBatchNorm") == 2
    reverted = sync.revert(applied)
    assert not any(isinstance(each, nn.SyncBatchNorm) for each in reverted.modules())
    assert torch.equal(reverted(x), expected)
    assert all(mine is theirs for mine, theirs in zip(reverted.parameters(), weights, strict=True))
    assert reverted.train()(x).shape == expected.shape
    assert not sync.revert(sync.apply(nn.BatchNorm2d(1)).eval()).training


def test_alone_it_is_not_asked() -> None:
    class Refusing(LayerSync):
        def apply(self, model: nn.Module) -> nn.Module:
            raise AssertionError

        def revert(self, model: nn.Module) -> nn.Module:
            raise AssertionError

    def run(*plugins: Any) -> leyden.Trainer:
        return leyden.Trainer(**kit.QUIET, max_steps=1, limit_val_batches=0, plugins=list(plugins))

    run(Refusing()).fit(BoringModel())
    with pytest.raises(ConflictingOptions, match="plugins has 2 of the kind LayerSync"):
        run(Refusing(), TorchSyncBatchNorm())
