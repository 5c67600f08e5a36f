"""leyden.testing: the small real things are as their docstrings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import trainer
from torch.utils.data import DataLoader

from leyden.demos import LightningTransformer, Transformer, WikiText2, transformer
from leyden.errors import MissingText
from leyden.hooks import HOOK_NAMES
from leyden.testing import (
    BoringDataModule,
    BoringModel,
    DemoModel,
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


def test_the_module_of_the_pages_on_the_command_line() -> None:
    torch.manual_seed(0)
    module = DemoModel(out_dim=3, learning_rate=0.1)
    assert module(torch.randn(2, 4, 8)).shape == (2, 3)
    before = module(torch.ones(1, 32)).sum().item()
    run = trainer(max_epochs=1)
    run.fit(module, DataLoader(torch.ones(9, 32)))
    assert run.optimizers[0].param_groups[0]["lr"] == 0.1
    assert module(torch.ones(1, 32)).sum().item() < before


class TestLanguageModel:
    def test_what_comes_later_is_not_seen(self) -> None:
        torch.manual_seed(0)
        model = Transformer(vocab_size=10, ninp=8, nhead=2, nhid=8, nlayers=1).eval()
        words, target = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
        first, other = model(words, target), model(words, torch.tensor([[2, 3, 9]]))
        assert first.shape == (3, 10)
        torch.testing.assert_close(first.exp().sum(dim=1), torch.ones(3))
        torch.testing.assert_close(first[:2], other[:2])
        assert not torch.allclose(first[2], other[2])
        assert not torch.allclose(first, model(torch.tensor([[2, 1, 3]]), target))  # the order of words counts
        free = model(words, torch.tensor([[2, 3, 9]]), mask=torch.zeros(3, 3))
        assert not torch.allclose(free[:2], other[:2])

    def test_the_text_comes_in_blocks(self, tmp_path: Path) -> None:
        (tmp_path / "wikitext-2.txt").write_text("the cat sat\non the mat\n\nthe end of it all\n")
        text = WikiText2(tmp_path, block_size=3)
        assert (len(text), text.vocab_size) == (4, 10)
        assert [[part.tolist() for part in text[index]] for index in (0, 1)] == [[[0, 1, 2], [1, 2, 3]], [[3, 4, 0], [4, 0, 5]]]
        with pytest.raises(IndexError):
            text[4]

    def test_a_text_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(FileNotFoundError, match=r"There is no file .*wikitext-2.txt'. Put the text of WikiText-2 there"):
            WikiText2(tmp_path, download=False)
        monkeypatch.setattr(transformer, "TEXT", "file:///nowhere/at-all.txt")
        with pytest.raises(MissingText, match=r"could not be read from file:///nowhere.* Put it at"):
            WikiText2(tmp_path / "data")
        (tmp_path / "there.txt").write_text("a b\n")
        monkeypatch.setattr(transformer, "TEXT", f"file://{tmp_path}/there.txt")
        assert WikiText2(tmp_path / "data").vocab_size == 3

    def test_it_trains(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("data").mkdir()
        Path("data/wikitext-2.txt").write_text("the cat sat on the mat\n" * 40)
        result = trainer(max_epochs=1, limit_train_batches=2).fit(LightningTransformer(vocab_size=6))
        assert result.steps == 2
