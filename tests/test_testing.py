"""leyden.testing: the small real things are as their docstrings say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit import trainer

from leyden.hooks import HOOK_NAMES
from leyden.testing import (
    BoringDataModule,
    BoringModel,
    ManualOptimBoringModel,
    RandomDataset,
    RandomDictDataset,
    RandomIterableDataset,
    RandomIterableDatasetWithLen,
    Recorder,
    random_batches,
)


@pytest.mark.parametrize("kind", [BoringModel, ManualOptimBoringModel])
def test_a_boring_model_runs_every_verb(kind: Any) -> None:
    module = kind()
    run = trainer(max_epochs=1)
    assert run.fit(module).steps == 64
    assert set(run.validate(module, verbose=False)[0]) == {"x"}
    assert set(run.test(module, verbose=False)[0]) == {"y"}
    predictions = run.predict(module)
    assert predictions is not None
    assert len(predictions) == 64
    assert predictions[0].shape == (1, 2)


def test_it_learns() -> None:
    torch.manual_seed(0)
    module, batch = BoringModel(), torch.zeros(4, 32)
    before = module.step(batch)
    trainer(max_epochs=5).fit(module, torch.utils.data.DataLoader(batch, batch_size=4), None)  # type: ignore[arg-type]  # a tensor is a dataset
    assert module.step(batch) < before
    assert module.loss(torch.ones(1, 2)) == 0
    assert module.loss(torch.ones(1, 2), torch.zeros(1, 2)) == 1


def test_a_boring_datamodule_serves_every_stage() -> None:
    data = BoringDataModule()
    run = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=2)
    run.fit(BoringModel(), datamodule=data)
    assert run.num_training_batches == 2
    seen = {
        int(index)
        for part in (data.random_train, data.random_val, data.random_test, data.random_predict)
        for index in part.indices
    }
    assert seen == set(range(256))


def test_datasets() -> None:
    vectors = RandomDataset(3, 5)
    assert (len(vectors), vectors[0].shape) == (5, (3,))
    assert torch.equal(vectors[0], vectors[0])
    named = RandomDictDataset(3, 5)
    assert len(named) == 5
    assert torch.allclose(named[1]["b"], named[1]["a"] + 2)
    stream = RandomIterableDataset(3, 5)
    assert [each.shape for each in stream] == [(3,)] * 5
    with pytest.raises(TypeError):
        len(stream)  # type: ignore[arg-type]  # on purpose
    assert len(RandomIterableDatasetWithLen(3, 5)) == 5


def test_random_batches() -> None:
    loader = random_batches(4, batch_size=3, size=2)
    assert [batch.shape for batch in loader] == [(3, 2)] * 4


def test_a_recorder_keeps_the_names_in_order() -> None:
    recorder = Recorder()
    trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, callbacks=[recorder]).fit(BoringModel())
    assert recorder.names == [
        *("setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
        *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
        *("on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown"),
    ]
    assert set(recorder.names) <= set(HOOK_NAMES)


def test_a_recorder_runs_what_it_is_given() -> None:
    seen = Recorder(on_train_batch_end=lambda trainer, *_: trainer.stop())
    trainer(max_epochs=3, callbacks=[seen]).fit(BoringModel(), random_batches(8))
    assert seen.names.count("on_train_batch_end") == 1


def test_a_recorder_s_answer_is_heard() -> None:
    seen = Recorder(on_train_batch_start=lambda trainer, module, batch, index: -1 if index == 3 else None)
    result = trainer(max_epochs=1, callbacks=[seen]).fit(BoringModel(), random_batches(8))
    assert result.steps == 3


def test_lightning_s_demos_are_found() -> None:
    from leyden.demos.boring_classes import BoringModel as Found

    assert Found is BoringModel
