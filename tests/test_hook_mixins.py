"""ModelHooks, DataHooks and CheckpointHooks: mixins of the user's on them are hooks like any, and hide none of the base's."""

from __future__ import annotations

import inspect
from typing import Any

import kit
import pytest

import leyden
from leyden.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from leyden.testing import BoringDataModule, BoringModel


def test_who_is_one() -> None:
    assert isinstance(BoringModel(), ModelHooks)
    assert isinstance(BoringModel(), DataHooks)
    assert isinstance(BoringModel(), CheckpointHooks)
    assert isinstance(BoringDataModule(), DataHooks)
    assert not isinstance(BoringDataModule(), ModelHooks)
    assert issubclass(leyden.LightningModule, ModelHooks)


@pytest.mark.parametrize("mixin", [ModelHooks, DataHooks, CheckpointHooks])
def test_signatures_are_the_modules(mixin: Any) -> None:
    for name, value in vars(mixin).items():
        if inspect.isfunction(value) and hasattr(leyden.LightningModule, name):
            assert inspect.signature(value) == inspect.signature(getattr(leyden.LightningModule, name)), name
    assert mixin() is not None


def test_a_mixin_is_heard_and_hides_nothing() -> None:
    heard: list[str] = []

    class Telling(ModelHooks, CheckpointHooks):  # type: ignore[misc]  # made by a function
        def on_train_start(self) -> None:
            heard.append("train")
            super().on_train_start()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            heard.append("save")

    class Base(BoringModel):
        def on_train_start(self) -> None:
            heard.append("base")

        def on_train_end(self) -> None:
            heard.append("end")

    class Mine(Telling, Base):
        pass

    run = kit.fit(Mine(), limit_train_batches=1, limit_val_batches=0)
    assert heard == ["train", "base", "end"]
    plain = kit.fit(type("Bare", (ModelHooks, DataHooks, CheckpointHooks, BoringModel), {})(), limit_train_batches=1)
    assert plain.leyden_hooks is not None
    assert not any(plain.leyden_hooks.listens(getattr(leyden.Callback, name)) for name in ("on_fit_start", "on_train_batch_end"))
    run.save_checkpoint("x.ckpt")
    assert heard[-1] == "save"


def test_a_mixin_of_data_hooks() -> None:
    class Doubled(DataHooks):  # type: ignore[misc]  # made by a function
        calls = 0

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.calls += 1
            return super().on_after_batch_transfer(batch, dataloader_idx)

    class OfData(Doubled, BoringDataModule):
        pass

    class OfModule(Doubled, BoringModel):
        pass

    data, module = OfData(), OfModule()
    run = kit.trainer(limit_train_batches=2, limit_val_batches=0)
    run.fit(module, datamodule=data)
    assert (data.calls, module.calls) == (2, 0)
    kit.trainer(limit_train_batches=2, limit_val_batches=0).fit(module)
    assert module.calls == 2
    assert Doubled().on_after_batch_transfer("x", 0) == "x"
    with pytest.raises(leyden.errors.MisconfigurationException):
        Doubled().train_dataloader()
