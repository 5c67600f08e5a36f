"""Copies of a trainer, by copy or pickle: runs at rest that can be used again."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import leyden
from leyden.callbacks import EarlyStopping, LearningRateMonitor, TQDMProgressBar
from leyden.loggers import CSVLogger
from leyden.state.optimizers import SteppingOptimizer
from leyden.testing import BoringModel, random_batches

pytestmark = pytest.mark.filterwarnings("ignore:.*no validation (loader|runs)", "ignore:The checkpoint folder")


class Adds(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.step(batch)
        self.log("loss_here", loss, on_step=True, on_epoch=True)
        return loss


def trainer() -> leyden.Trainer:
    callbacks = [EarlyStopping("loss_here"), LearningRateMonitor(), TQDMProgressBar(refresh_rate=0)]
    return leyden.Trainer(
        accelerator="cpu", max_epochs=1, logger=CSVLogger("."), callbacks=callbacks, profiler=None, enable_model_summary=False
    )


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))], ids=["deepcopy", "pickle"])
def test_a_copy_trains(used: bool, copied: Any) -> None:
    original = trainer()
    if used:
        original.fit(Adds(), random_batches(3))
    other = copied(original)
    assert other.global_step == original.global_step
    other.fit(Adds(), random_batches(2))
    assert other.global_step == 2
    assert original.global_step == (3 if used else 0)


def test_an_optimizer_as_hooks_see_it_can_be_copied() -> None:
    wrapped = SteppingOptimizer(torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5), int, int)
    assert copy.deepcopy(wrapped).param_groups[0]["lr"] == 0.5
