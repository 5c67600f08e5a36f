"""A run that is cut inside a validation goes on in the modes that training had, compiled or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest
import torch

from leyden.testing import Recorder, random_batches


class Net(kit.Net):
    def __init__(self, compiled: bool) -> None:
        super().__init__()
        if compiled:
            self.model = torch.compile(self.model, backend="eager")


@pytest.mark.parametrize("compiled", [(False, True), (True, False), (False, False)], ids=["before", "no longer", "never"])
def test_a_layer_that_is_compiled_by_now_or_is_no_longer(compiled: tuple[bool, bool], tmp_path: Path) -> None:
    then, now = compiled
    data, path = (random_batches(2, 2, 4), random_batches(2, 2, 4)), tmp_path / "cut.ckpt"
    with torch.compiler.set_stance("force_eager"):
        saver = Recorder(on_validation_batch_start=lambda run, *_: run.save_checkpoint(path))
        kit.trainer(saver, num_sanity_val_steps=0).fit(Net(then), *data)
        modes: list[Any] = []
        seen = Recorder(
            on_validation_epoch_end=lambda _, module: modes.append({each.training for each in module.modules()}),
            on_train_batch_start=lambda _, module, *__: modes.append({each.training for each in module.modules()}),
        )
        kit.trainer(seen, num_sanity_val_steps=0, max_epochs=2).fit(Net(now), *data, ckpt_path=path)
    assert modes == [{False}, {True}, {True}, {False}]
