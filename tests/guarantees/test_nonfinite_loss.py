"""A training loss that is NaN or infinite stops the run at the next flush point, before anything is written that holds it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import ones
from torch import Tensor, nn

import leyden
from leyden.callbacks import Callback, ModelCheckpoint
from leyden.errors import NonFiniteLoss
from leyden.state.losses import KEPT as LOSSES_KEPT


class Turns(leyden.LightningModule):
    """Its loss becomes ``bad`` in training batch ``at`` of the fit, and so do its weights."""

    def __init__(self, at: int, bad: float = math.nan, manual: bool = False, skip: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.at, self.bad, self.skip = at, bad, skip
        self.automatic_optimization = not manual
        self.batches = 0
        self.validations = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch_number, self.batches = self.batches, self.batches + 1
        if batch_number == self.skip:
            return None
        loss = self.layer(batch[0]).square().mean()
        loss = loss * self.bad if batch_number >= self.at else loss * 0 + batch_number
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validations += 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: Turns, count: int = 200, **keywords: Any) -> leyden.Trainer:
    return kit.fit(module, ones(count, 1), ones(2, 1), **keywords)


def finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights.values())


@pytest.mark.parametrize("at", [0, 1, 7, 49, 50, 51, 120, 199])
@pytest.mark.parametrize("manual", [False, True])
def test_it_is_found_at_the_next_flush_point(at: int, manual: bool) -> None:
    module = Turns(at, manual=manual)
    with pytest.raises(NonFiniteLoss) as raised:
        fit(module)
    before = ", ".join(str(number) for number in range(max(at - at % LOSSES_KEPT, at - 5), at)) or "none"
    assert str(raised.value).startswith(
        f"The training loss became nan in training batch {at} of this fit (counted from 0; epoch 0"
    )
    assert f"Losses before it: {before}. To try: a lower learning rate" in str(raised.value)
    assert module.batches == (at // LOSSES_KEPT + 1) * LOSSES_KEPT


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_counts_too(bad: float) -> None:
    with pytest.raises(NonFiniteLoss, match=f"became {bad} in training batch 3"):
        fit(Turns(3, bad))


def test_the_message_says_what_to_try() -> None:
    with pytest.raises(NonFiniteLoss) as raised:
        fit(Turns(3))
    for advice in ("gradient_clip_val=1.0", "detect_anomaly=True", "precision='32-true'", "stop_on_nonfinite_loss=False"):
        assert advice in str(raised.value)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, leyden.errors.LeydenError])
def test_it_is_caught_as_other_frameworks_raise_it(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="became nan"):
        fit(Turns(3))


def test_in_a_later_epoch_batches_are_counted_on() -> None:
    with pytest.raises(NonFiniteLoss, match=r"training batch 25 of this fit \(counted from 0; epoch 2"):
        fit(Turns(25), count=10, max_epochs=9)


def test_it_can_be_turned_off() -> None:
    module = Turns(3)
    trainer = fit(module, stop_on_nonfinite_loss=False)
    assert trainer.global_step == module.batches == 200
    assert not finite(module.state_dict())


def test_the_end_of_an_epoch_is_a_flush_point() -> None:
    module = Turns(9)
    with pytest.raises(NonFiniteLoss, match="training batch 9 "):
        fit(module, count=10, max_epochs=3)
    assert module.batches == 10


def test_validation_does_not_run_on_it() -> None:
    module = Turns(14)
    with pytest.raises(NonFiniteLoss):
        fit(module, val_check_interval=5)
    assert (module.batches, module.validations) == (15, 2 * 2)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_a_poisoned_checkpoint_is_never_written(accumulate: int, every: int, tmp_path: Path) -> None:
    module = Turns(30)
    saving = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=every, save_top_k=-1, save_last=True)
    with pytest.raises(NonFiniteLoss, match="training batch 30 "):
        fit(module, callbacks=[saving], enable_checkpointing=True, accumulate_grad_batches=accumulate)
    files = sorted((tmp_path / "kept").glob("*.ckpt"))
    assert files
    for file in files:
        assert finite(torch.load(file, weights_only=True)["state_dict"]), file
    assert module.batches <= 30 + accumulate * every


def test_nor_one_that_the_user_asks_for(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 8:
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    with pytest.raises(NonFiniteLoss, match="training batch 8 "):
        fit(Turns(8), callbacks=[Saves()])
    assert not (tmp_path / "mine.ckpt").exists()


def test_the_default_checkpoint_of_a_run_that_fails_is_the_last_good_one(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        fit(Turns(25), count=10, max_epochs=9, enable_checkpointing=True, default_root_dir=tmp_path)
    files = list(tmp_path.rglob("checkpoints/*.ckpt"))
    assert files
    assert all(finite(torch.load(file, weights_only=True)["state_dict"]) for file in files)


def test_where_batches_have_no_loss_the_number_is_no_guess() -> None:
    module = Turns(20, skip=4)
    with pytest.raises(NonFiniteLoss, match="in training one of the batches 0 to 50 of this fit"):
        fit(module)


def test_a_resumed_run_counts_on(tmp_path: Path) -> None:
    fit(Turns(1000), count=40, callbacks=[ModelCheckpoint(tmp_path / "kept", every_n_train_steps=30)], enable_checkpointing=True)
    (file,) = (tmp_path / "kept").glob("*step=30*.ckpt")
    module = Turns(5)
    with pytest.raises(NonFiniteLoss, match="training batch 35 "):
        fit(module, count=40, ckpt_path=file)


def test_the_process_stays_usable() -> None:
    module = Turns(3)
    with pytest.raises(NonFiniteLoss):
        trainer = fit(module)
    good = Turns(10**9)
    trainer = fit(good)
    assert trainer.global_step == 200


def test_a_loss_of_one_element_in_any_shape_is_watched() -> None:
    class Shaped(Turns):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx).reshape(1)}

    with pytest.raises(NonFiniteLoss, match="training batch 3 "):
        fit(Shaped(3))


def test_a_validation_loss_is_the_user_s_own() -> None:
    class Logs(Turns):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", math.nan)

    trainer = fit(Logs(10**9))
    assert math.isnan(trainer.callback_metrics["val_loss"])
