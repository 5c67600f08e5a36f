"""``*_epoch_end(outputs)`` and dict returns: what is collected, and where what they return is seen."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.errors import LegacyNotice, PossibleUserWarning, UnknownName
from leyden.loggers import CSVLogger
from leyden.testing import Recorder

pytestmark = [
    pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice"),
    pytest.mark.filterwarnings("ignore:.*there is no validation loader"),
]


def numbers(values: list[float], batch_size: int = 2) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.tensor(values)), batch_size=batch_size)


class Counting(leyden.LightningModule):
    """Its losses are the means of the batches, so that every value can be told by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": batch[0].mean() + 0 * self.weight.sum(), "n": len(batch[0])}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"val_loss": batch[0].mean() + 0 * self.weight.sum()}

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return {"test_acc": batch[0].mean()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Collecting(Counting):
    def training_epoch_end(self, outputs: Any) -> Any:
        self.seen["train"].append(outputs)

    def validation_epoch_end(self, outputs: Any) -> Any:
        self.seen["val"].append(outputs)

    def test_epoch_end(self, outputs: Any) -> Any:
        self.seen["test"].append(outputs)


trainer = partial(kit.trainer, num_sanity_val_steps=0)


# What is collected


def test_outputs_are_what_the_steps_returned_in_order() -> None:
    module = Collecting()
    trainer(max_epochs=2).fit(module, numbers([1.0, 3.0, 5.0]), numbers([2.0, 4.0, 9.0]))
    assert [[float(each["loss"]) for each in outputs] for outputs in module.seen["train"]] == [[2.0, 5.0]] * 2
    assert [[each["n"] for each in outputs] for outputs in module.seen["train"]] == [[2, 1]] * 2
    assert [[float(each["val_loss"]) for each in outputs] for outputs in module.seen["val"]] == [[3.0, 9.0]] * 2
    trainer().test(module, numbers([7.0]), verbose=False)
    assert [[float(each["test_acc"]) for each in outputs] for outputs in module.seen["test"]] == [[7.0]]


def test_tensors_stay_0_dim_tensors_and_are_detached() -> None:
    module = Collecting()
    trainer().fit(module, numbers([1.0, 3.0]), numbers([2.0]))
    (outputs,) = module.seen["train"]
    assert outputs[0]["loss"].dim() == 0
    assert not outputs[0]["loss"].requires_grad
    assert module.seen["val"][0][0]["val_loss"].dim() == 0
    assert float(torch.stack([each["loss"] for each in outputs]).mean()) == 2.0


def test_a_step_may_return_a_tensor_or_anything_else() -> None:
    class Returning(Collecting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx)["loss"]

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[0].mean() if batch_idx else (batch[0], "words")

    module = Returning()
    trainer().fit(module, numbers([1.0, 3.0]), numbers([2.0, 4.0, 6.0]))
    assert [{key: float(value) for key, value in each.items()} for each in module.seen["train"][0]] == [{"loss": 2.0}]
    first, second = module.seen["val"][0]
    assert first[1] == "words"
    assert isinstance(second, Tensor)


def test_steps_that_return_nothing_are_not_collected() -> None:
    class Skipping(Collecting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx else None

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return None

    module = Skipping()
    trainer().fit(module, numbers([1.0, 3.0, 5.0]), numbers([2.0]))
    assert [float(each["loss"]) for each in module.seen["train"][0]] == [5.0]
    assert module.seen["val"] == [[]]


def test_several_loaders_give_a_list_of_lists() -> None:
    class Several(Collecting):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return {"val_loss": batch[0].mean()} if dataloader_idx != 1 else None

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
            return {"test_acc": batch[0].mean()}

    module = Several()
    trainer().fit(module, numbers([1.0]), [numbers([1.0, 1.0, 2.0]), numbers([5.0]), numbers([8.0])])
    assert [[float(each["val_loss"]) for each in loader] for loader in module.seen["val"][0]] == [[1.0, 2.0], [], [8.0]]
    trainer().test(module, [numbers([3.0]), numbers([4.0])], verbose=False)
    assert [[float(each["test_acc"]) for each in loader] for loader in module.seen["test"][0]] == [[3.0], [4.0]]


def test_the_sanity_check_calls_the_epoch_end_and_leaves_no_trace() -> None:
    module = Collecting()
    running = trainer(num_sanity_val_steps=1)
    running.fit(module, numbers([1.0]), numbers([2.0, 2.0, 4.0]))
    assert [len(outputs) for outputs in module.seen["val"]] == [1, 2]


def test_validation_in_the_middle_of_an_epoch_keeps_what_training_collected() -> None:
    module = Collecting()
    trainer(val_check_interval=1).fit(module, numbers([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), numbers([9.0]))
    assert [[float(each["loss"]) for each in outputs] for outputs in module.seen["train"]] == [[1.0, 2.0, 3.0]]
    assert [len(outputs) for outputs in module.seen["val"]] == [1, 1, 1]


def test_accumulation_collects_undivided_losses() -> None:
    module = Collecting()
    trainer(accumulate_grad_batches=2).fit(module, numbers([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]))
    assert [[float(each["loss"]) for each in outputs] for outputs in module.seen["train"]] == [[1.0, 2.0, 3.0]]


def test_what_is_collected_survives_a_resume(tmp_path: Path) -> None:
    whole, cut = Collecting(), Collecting()
    values = [float(value) for value in range(12)]
    trainer().fit(whole, numbers(values))
    first = trainer(max_steps=4)
    first.fit(cut, numbers(values))
    assert cut.seen["train"] != []
    saver = trainer(callbacks=Recorder(on_train_batch_end=lambda t, *_: t.save_checkpoint(tmp_path / f"{t.global_step}.ckpt")))
    saver.fit(Collecting(), numbers(values))
    resumed = Collecting()
    trainer().fit(resumed, numbers(values), ckpt_path=tmp_path / "4.ckpt")
    told = [float(each["loss"]) for each in resumed.seen["train"][0]]
    assert told == [float(each["loss"]) for each in whole.seen["train"][0]]


# Where what is returned is seen


class Reporting(Counting):
    """The example of the 2020 tutorial, with all that an epoch end may return."""

    def validation_epoch_end(self, outputs: Any) -> Any:
        loss = torch.stack([each["val_loss"] for each in outputs]).mean()
        return {
            "avg_val_loss": loss,
            "progress_bar": {"val_loss": loss, "in_bar": 1.0},
            "log": {"in_log": 2.0, "also": torch.tensor([3.0])},
            "hiddens": torch.zeros(3),
            "many": torch.zeros(3),
        }


def test_callback_metrics_hold_everything_but_the_containers() -> None:
    running = trainer()
    running.fit(Reporting(), numbers([1.0]), numbers([2.0, 4.0]))
    shown = {name: float(value) for name, value in running.callback_metrics.items()}
    assert shown == {
        "avg_val_loss": 3.0,
        "val_loss": 3.0,
        "in_bar": 1.0,
        "in_log": 2.0,
        "also": 3.0,
        "loss": shown["loss"],
        "n": 1.0,
    }


def test_log_goes_to_the_logger_and_the_bar_and_progress_bar_to_the_bar(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    running = trainer(logger=logger)
    running.fit(Reporting(), numbers([1.0]), numbers([2.0, 4.0]))
    assert set(running.progress_bar_metrics) == {"loss", "val_loss", "in_bar", "in_log", "also"}
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    assert {name for row in rows for name, value in row.items() if value} == {"epoch", "step", "in_log", "also"}


def test_a_name_in_both_is_in_both() -> None:
    class Both(Counting):
        def validation_epoch_end(self, outputs: Any) -> Any:
            return {"progress_bar": {"x": 1.0}, "log": {"x": 2.0}}

    running = trainer()
    running.fit(Both(), numbers([1.0]), numbers([2.0]))
    assert float(running.callback_metrics["x"]) == 2.0
    assert running.progress_bar_metrics["x"] == 2.0
    assert "x" in running.logged_metrics


@pytest.mark.parametrize("key", ["log", "logs"])
def test_a_training_step_s_log(key: str, tmp_path: Path) -> None:
    class Logging(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)["loss"]
            return {"loss": loss, key: {"train_loss": loss}, "progress_bar": {"seen": batch_idx}, "acc": loss * 2}

    logger = CSVLogger(tmp_path)
    running = trainer(logger=logger, log_every_n_steps=1)
    running.fit(Logging(), numbers([1.0, 3.0, 5.0, 5.0]))
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    assert [float(row["train_loss"]) for row in rows] == [2.0, 5.0]
    assert "seen" not in rows[0]
    assert running.progress_bar_metrics == {"loss": 5.0, "train_loss": 5.0, "seen": 1.0}
    shown = {name: float(value) for name, value in running.callback_metrics.items()}
    assert shown == {"loss": 5.0, "train_loss": 5.0, "seen": 1.0, "acc": 10.0}
    assert not any(value.requires_grad for value in running.callback_metrics.values())


def test_training_epoch_end_logs_too() -> None:
    class Ending(Counting):
        def training_epoch_end(self, outputs: Any) -> Any:
            return {"log": {"epoch_loss": torch.stack([each["loss"] for each in outputs]).mean()}}

    running = trainer(callbacks=EarlyStopping("epoch_loss", patience=1), max_epochs=9)
    assert running.fit(Ending(), numbers([1.0, 1.0, 4.0, 4.0])).epochs == 2
    assert float(running.callback_metrics["epoch_loss"]) == 2.5


def test_monitors_find_what_an_epoch_end_returned(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="avg_val_loss")
    stopping = EarlyStopping("val_loss", patience=1)
    running = trainer(callbacks=[best, stopping], max_epochs=9, enable_checkpointing=True)
    assert running.fit(Reporting(), numbers([1.0]), numbers([2.0, 4.0])).epochs == 2
    assert float(best.best_model_score or 0) == 3.0


def test_callbacks_see_what_the_epoch_end_returned() -> None:
    found: list[float] = []
    seeing = Recorder(on_validation_epoch_end=lambda t, *_: found.append(float(t.callback_metrics["avg_val_loss"])))
    trainer(callbacks=seeing).fit(Reporting(), numbers([1.0]), numbers([2.0, 4.0]))
    assert found == [3.0]


def test_self_log_works_in_an_epoch_end() -> None:
    class Modern(Counting):
        def validation_epoch_end(self, outputs: Any) -> None:
            self.log("val_loss", torch.stack([each["val_loss"] for each in outputs]).mean(), prog_bar=True)

    running = trainer()
    running.fit(Modern(), numbers([1.0]), numbers([2.0, 4.0]))
    assert float(running.callback_metrics["val_loss"]) == 3.0


def test_an_epoch_end_that_returns_no_dict() -> None:
    class Wrong(Counting):
        def validation_epoch_end(self, outputs: Any) -> Any:
            return 3.0

    # 1.0 to 1.9 did nothing with it, and published programs return their loss
    with pytest.warns(
        UserWarning, match=r"Wrong\.validation_epoch_end returned float, with which nothing is done\. .*self\.log"
    ) as told:
        trainer(max_epochs=2).fit(Wrong(), numbers([1.0]), numbers([2.0]))
    assert sum("nothing is done" in str(each.message) for each in told) == 1


@pytest.mark.filterwarnings("error::leyden.errors.LegacyNotice")
@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("training_epoch_end", "on_train_epoch_end"),
        ("validation_epoch_end", "on_validation_epoch_end"),
        ("test_epoch_end", "on_test_epoch_end"),
    ],
)
def test_each_epoch_end_is_noticed_once(name: str, today: str) -> None:
    module = type("Ending", (Counting,), {name: lambda self, outputs: None})()
    with pytest.warns(LegacyNotice, match=f"{name} .*{today}") as told:
        trainer().fit(module, numbers([1.0]), numbers([2.0]))
    trainer().fit(module, numbers([1.0]), numbers([2.0]))
    assert [each.category for each in told] == [LegacyNotice]
    assert Path(told[0].filename).name == Path(__file__).name


# Without an epoch end


def test_without_an_epoch_end_scalars_are_averaged_by_batch_size() -> None:
    results = trainer().test(Counting(), numbers([0.0, 0.0, 1.0]), verbose=False)
    assert results == [{"test_acc": pytest.approx(1 / 3)}]
    running = trainer()
    running.fit(Counting(), numbers([1.0]), numbers([0.0, 0.0, 1.0]))
    assert float(running.callback_metrics["val_loss"]) == pytest.approx(1 / 3)


def test_without_an_epoch_end_every_kind_of_scalar_counts_and_nothing_else() -> None:
    class Various(Counting):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            import numpy as np

            return {
                "tensor": batch[0].mean(), "float": 2.0, "int": 3, "numpy": np.float64(4.0), "bool": True,
                "prediction": batch[0][:1], "text": "x", "none": None, 5: 5.0, "log": {"logged": 6.0},
            }  # fmt: skip

    results = trainer().test(Various(), numbers([1.0]), verbose=False)
    assert results == [{"tensor": 1.0, "float": 2.0, "int": 3.0, "numpy": 4.0, "bool": 1.0, "logged": 6.0}]


def test_where_the_module_logs_what_it_returns_is_its_own() -> None:
    class Modern(Counting):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("logged", batch[0].mean())
            return {"loss": batch[0].sum()}

    assert trainer().test(Modern(), numbers([1.0, 3.0, 5.0]), verbose=False) == [{"logged": 3.0}]


def test_several_loaders_without_an_epoch_end() -> None:
    results = trainer().test(Counting(), [numbers([1.0]), numbers([2.0, 4.0])], verbose=False)
    assert results == [{"test_acc/dataloader_idx_0": 1.0}, {"test_acc/dataloader_idx_1": 3.0}]


def test_a_batch_of_unknown_size_is_said_and_not_guessed() -> None:
    class Odd(Counting):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return {"test_acc": 1.0}

    loader = [({"a": torch.zeros(2), "b": torch.zeros(3)}) for _ in range(3)]
    with pytest.warns(PossibleUserWarning, match=r"A step of Odd returned test_acc.*self\.log\(name, value, batch_size=") as told:
        assert trainer().test(Odd(), DataLoader(loader, batch_size=None), verbose=False) == [{}]
    assert len(told) == 1


# Misspelt keys


@pytest.mark.parametrize(("key", "meant"), [("lgo", "log"), ("loges", "logs"), ("progres_bar", "progress_bar"), ("lg", "log")])
def test_a_misspelt_container(key: str, meant: str) -> None:
    class Misspelt(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {**super().training_step(batch, batch_idx), key: {"x": 1.0}}

    with pytest.raises(UnknownName, match=rf"A step of Misspelt returned.* key '{key}'.* Did you mean '{meant}'\?"):
        trainer().fit(Misspelt(), numbers([1.0]))


@pytest.mark.parametrize("key", ["los", "lss", "losss", "lsos"])
def test_a_misspelt_loss(key: str) -> None:
    class Misspelt(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {key: batch[0].mean()}

    with pytest.raises(UnknownName, match=rf"key '{key}'.* Did you mean 'loss'\?"):
        trainer().fit(Misspelt(), numbers([1.0]))


def test_keys_of_one_s_own_are_no_misspellings() -> None:
    class Own(Counting):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {**super().training_step(batch, batch_idx), "lose": 1.0, "lots": [1], "preds": {"a": 1}, "hidden": 2}

    assert trainer().fit(Own(), numbers([1.0])).steps == 1
