"""Tuner.lr_find and LearningRateFinder: rates, losses, suggestion, and what is said of what cannot be searched."""

from __future__ import annotations

import argparse
import math
from typing import Any

import kit
import pytest
import torch
from processes_of_threads import ProcessesOfThreads, run_together
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import LearningRateFinder
from leyden.errors import (
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    MissingMethod,
    MissingPackage,
    UnknownName,
    Unsupported,
)
from leyden.strategies import SingleDeviceStrategy
from leyden.tuner import Tuner
from leyden.tuner.lr_finder import _LRFinder


class Net(leyden.LightningModule):
    def __init__(self, lr: float = 0.02, gives: Any = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lr, self.gives = lr, gives
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        return loss if self.gives is None else self.gives(loss, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(12, 2)), batch_size=2)


class Keyed(Net):
    """The rate stands among its hyper-parameters."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__()
        del self.lr
        self.save_hyperparameters()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


def search(module: Any, *data: Any, trainer: Any = None, **arguments: Any) -> Any:
    return Tuner(trainer or kit.trainer()).lr_find(module, *data, **{"num_training": 15, **arguments})


def test_rates_rise_exponentially_from_the_first_to_the_last() -> None:
    found = search(Net(), min_lr=1e-6, max_lr=1e-2, num_training=10)
    assert found.results["lr"] == [1e-6, *(1e-6 * (1e-2 / 1e-6) ** (step / 10) for step in range(2, 11))]
    assert found.results["lr"][-1] == pytest.approx(1e-2)
    assert (found.mode, found.lr_min, found.lr_max, found.num_training) == ("exponential", 1e-6, 1e-2, 10)
    assert found._total_batch_idx == 9


def test_rates_rise_linearly() -> None:
    found = search(Net(), min_lr=0.0, max_lr=0.5, num_training=10, mode="LINEAR")
    assert found.results["lr"] == pytest.approx([0.0, *(0.05 * step for step in range(2, 11))])


def test_losses_are_a_running_mean_and_the_suggestion_is_where_they_fall_most() -> None:
    values = [8.0, 7.9, 7.0, 3.0, 2.9, 2.8, 2.8, 2.8]
    found = search(Net(gives=lambda loss, index: loss * 0 + values.pop(0)), num_training=8, min_lr=0.1, max_lr=0.8, mode="linear")
    mean, smooth = 0.0, []
    for step, value in enumerate([8.0, 7.9, 7.0, 3.0, 2.9, 2.8, 2.8, 2.8], 1):
        mean = 0.98 * mean + (1 - 0.98) * value
        smooth.append(mean / (1 - 0.98 ** (step + 1)))
    assert found.results["loss"] == pytest.approx(smooth)
    slopes = torch.gradient(torch.tensor(smooth[1:-1]), spacing=[torch.tensor(found.results["lr"][1:-1])])[0]
    assert found.suggestion(skip_begin=1, skip_end=1) == found.results["lr"][1 + int(slopes.argmin())]


def test_the_steps_are_taken_with_these_rates() -> None:
    seen = []

    class Watches(Net):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    found = search(Watches(), num_training=5)
    assert seen == found.results["lr"]


def test_with_accumulation_a_point_is_a_step_and_its_loss_the_mean_of_its_batches() -> None:
    net = Net(gives=lambda loss, index: loss * 0 + 1.0 + index % 2)
    found = search(net, num_training=9, trainer=kit.trainer(accumulate_grad_batches=2))
    assert len(found.results["lr"]) == 9
    assert found._total_batch_idx == 17
    assert found.results["loss"][0] == pytest.approx(1.5 * 0.02 / (1 - 0.98**2))


def test_it_takes_as_many_steps_as_asked_whatever_limits_the_fit() -> None:
    trainer = kit.trainer(max_epochs=1, limit_train_batches=2, max_steps=3)
    assert len(search(Net(), trainer=trainer, num_training=15).results["lr"]) == 15
    assert trainer.max_steps == 3


def test_overfit_batches_are_searched_in_order() -> None:
    read = []
    net = Net(gives=lambda loss, index: (read.append(index), loss)[1])
    search(net, trainer=kit.trainer(overfit_batches=2), num_training=4)
    assert read == [0, 1, 0, 1]


@pytest.mark.parametrize(("threshold", "steps"), [(4.0, 6), (None, 15), (1e9, 15)])
def test_a_loss_that_rises_far_above_its_lowest_ends_the_search(threshold: float | None, steps: int, caplog: Any) -> None:
    net = Net(gives=lambda loss, index: loss * 0 + (1.0 if index < 5 else 1000.0))
    with caplog.at_level("INFO", "leyden"):
        found = search(net, early_stop_threshold=threshold, update_attr=False)
    assert len(found.results["loss"]) == steps
    assert ("stopped after 6 of 15 steps" in caplog.text) is (steps == 6)


def test_a_loss_that_is_no_number_ends_the_search_and_is_left_out_of_the_suggestion() -> None:
    net = Net(gives=lambda loss, index: loss * (math.nan if net.trainer.global_step == 13 else 1))
    found = search(net, update_attr=False, num_training=20, max_lr=1e-3)
    assert len(found.results["loss"]) == 14
    assert found.suggestion(skip_end=0) in found.results["lr"][10:13]
    assert len(search(net, update_attr=False, num_training=20, early_stop_threshold=None).results["loss"]) == 20


def test_a_step_without_a_loss_is_a_point_without_one() -> None:
    found = search(Net(gives=lambda loss, index: None if index == 3 else loss), num_training=6, update_attr=False)
    assert [math.isnan(loss) for loss in found.results["loss"]] == [False, False, False, True, False, False]


def test_too_few_points_give_no_suggestion_and_that_is_said(caplog: Any) -> None:
    module = Net()
    found = search(module, num_training=5)
    assert found.suggestion() is None
    assert "Failed to compute suggestion for learning rate" in caplog.text
    assert module.lr == 0.02
    assert found.suggestion(skip_begin=1, skip_end=0) is not None
    for wrong in (-1, 1.5):
        with pytest.raises(InvalidOption, match="skip_begin"):
            found.suggestion(skip_begin=wrong)


def test_processes_that_train_together_end_together_with_what_the_first_one_found() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        first = processes.is_first
        net = Net(gives=lambda loss, index: loss * 0 + (1000.0 if first and index >= 2 else 1.0 + processes.rank))
        trainer = kit.trainer(strategy=SingleDeviceStrategy(processes=processes))
        found = search(net, trainer=trainer, num_training=40, max_lr=0.5)
        return found.results, net.lr, processes.exchanges

    one, other = run_together(2, body)
    assert one == other
    assert len(one[0]["lr"]) < 40


# -- where the rate stands


def test_it_is_set_where_it_stands() -> None:
    module = Net()
    found = search(module)
    assert module.lr == found.suggestion() != 0.02
    keyed = Keyed()
    assert search(keyed).suggestion() == keyed.hparams.learning_rate == keyed.hparams["learning_rate"] != 0.02
    assert keyed.hparams_initial.learning_rate == 0.02
    named = Net()
    named.rate = 0.7
    assert search(named, attr_name="rate").suggestion() == named.rate
    assert named.lr == 0.02


def test_lr_comes_before_learning_rate_and_every_holder_is_set() -> None:
    module = Net()
    module.learning_rate = 0.3
    module.hparams = argparse.Namespace(lr=0.1)
    data = leyden.LightningDataModule.from_datasets(TensorDataset(torch.ones(12, 2)), batch_size=2)
    data.lr = 0.4
    found = search(module, datamodule=data)
    assert [module.lr, module.hparams.lr, data.lr, module.learning_rate] == [*[found.suggestion()] * 3, 0.3]


def test_a_datamodule_may_stand_where_loaders_do() -> None:
    data = leyden.LightningDataModule.from_datasets(TensorDataset(torch.ones(12, 2)), batch_size=3)
    sizes = set()
    net = Net(gives=lambda loss, index: loss)
    net.on_train_batch_start = lambda batch, index: sizes.add(len(batch[0]))  # type: ignore[method-assign]  # of this module alone
    search(net, data)
    search(net, datamodule=data)
    assert sizes == {3}
    search(net, DataLoader(TensorDataset(torch.ones(12, 2)), batch_size=4))
    assert sizes == {3, 4}
    with pytest.raises(ConflictingOptions):
        search(net, data, datamodule=data)


def test_update_attr_false_looks_only() -> None:
    module = Net()
    del module.lr
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)  # type: ignore[method-assign]  # as above
    assert search(module, update_attr=False).suggestion() is not None


# -- what cannot be searched


class Bare(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.lr
        self.ratio = 1.0

    def configure_optimizers(self) -> Any:
        raise AssertionError("nothing is to run before it is known")


@pytest.mark.parametrize(("name", "said"), [("", "has no learning rate to set"), ("ratios", "Did you mean 'ratio'?")])
def test_a_missing_attribute_is_named(name: str, said: str) -> None:
    module = Bare()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.1)  # type: ignore[method-assign]  # as above
    with pytest.raises(UnknownName, match=said) as caught:
        search(module, attr_name=name)
    assert isinstance(caught.value, AttributeError)
    with pytest.raises(UnknownName, match=said):
        kit.trainer(LearningRateFinder(attr_name=name)).fit(module)


def test_optimization_by_hand_is_refused() -> None:
    module = Net()
    module.automatic_optimization = False
    with pytest.raises(Unsupported, match="optimizes by hand"):
        search(module)


@pytest.mark.filterwarnings("ignore:configure_optimizers returned None")
@pytest.mark.parametrize("several", [0, 2])
def test_there_has_to_be_one_optimizer(several: int) -> None:
    class Turns(Net):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(several)] or None

    class InTurn(Turns):
        def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:  # type: ignore[override]  # 2020's
            raise AssertionError

    with (
        pytest.raises(Unsupported, match=f"returned {several} optimizers"),
        pytest.warns(leyden.errors.LegacyNotice) if several else pytest.MonkeyPatch.context(),
    ):
        search(InTurn() if several else Turns())


def test_fast_dev_run_leaves_no_search_and_says_so() -> None:
    module = Net()
    with pytest.warns(LeydenWarning, match="does nothing in a run with fast_dev_run"):
        assert search(module, trainer=leyden.Trainer(accelerator="cpu", fast_dev_run=True)) is None
    assert module.lr == 0.02
    finder = LearningRateFinder()
    with pytest.warns(LeydenWarning, match="fast_dev_run"):
        leyden.Trainer(accelerator="cpu", fast_dev_run=True, callbacks=[finder]).fit(module)
    assert finder.optimal_lr is None


def test_no_batches_are_refused() -> None:
    with pytest.raises(ConflictingOptions, match="limit_train_batches=0"):
        search(Net(), trainer=kit.trainer(limit_train_batches=0))
    with pytest.raises(MissingMethod, match="nothing to train on"):
        search(kit.Tiny(), update_attr=False)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"mode": "cosine"}, "mode='cosine'"),
    ({"min_lr": 0.0}, "min_lr"),
    ({"min_lr": -1.0, "mode": "linear"}, "min_lr"),
    ({"min_lr": "small"}, "min_lr"),
    ({"max_lr": 1e-9}, "max_lr"),
    ({"max_lr": math.inf}, "max_lr"),
    ({"num_training": 0}, "num_training"),
    ({"num_training": 2.5}, "num_training"),
    ({"early_stop_threshold": 0.0}, "early_stop_threshold"),
    ({"attr_name": None}, "attr_name"),
    ({"method": "validate"}, "method='validate'"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=lambda value: str(value))
def test_a_wrong_value_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        search(Net(), **wrong)
    if "method" not in wrong:
        renamed = {"num_training_steps" if name == "num_training" else name: value for name, value in wrong.items()}
        with pytest.raises(InvalidOption, match=said):
            LearningRateFinder(**renamed)


def test_dataloaders_are_for_other_verbs() -> None:
    with pytest.raises(ConflictingOptions, match="train_dataloaders"):
        search(Net(), dataloaders=[])


def test_the_tuner_wants_a_trainer_without_a_finder_of_its_own() -> None:
    with pytest.raises(InvalidType, match=r"a leyden\.Trainer"):
        Tuner(Net())
    with pytest.raises(ConflictingOptions, match="LearningRateFinder among its callbacks"):
        search(Net(), trainer=kit.trainer(LearningRateFinder()))


# -- as a callback


def test_the_callback_trains_with_what_it_finds() -> None:
    finder = LearningRateFinder(num_training_steps=15)
    assert finder.optimal_lr is None
    module = Net()
    trainer = kit.trainer(finder)
    trainer.fit(module)
    assert finder.optimal_lr is not None
    assert module.lr == finder.optimal_lr.suggestion() == trainer.optimizers[0].param_groups[0]["lr"] != 0.02


def test_a_rate_that_configure_optimizers_does_not_read_is_set_in_every_group() -> None:
    class Fixed(Net):
        def configure_optimizers(self) -> Any:
            groups = [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "lr": torch.tensor(0.3)}]
            optimizer = torch.optim.Adam(groups, lr=0.1, foreach=False, capturable=False)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)]

    finder, module = LearningRateFinder(num_training_steps=15), Fixed()
    trainer = kit.trainer(finder)
    trainer.fit(module)
    groups = trainer.optimizers[0].param_groups
    assert [float(group["lr"]) for group in groups] == pytest.approx([0.5 * module.lr] * 2)


def test_a_subclass_searches_again_at_the_epochs_of_its_choice() -> None:
    class Again(LearningRateFinder):
        def __init__(self, milestones: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.milestones = milestones
            self.found: list[Any] = []

        def on_fit_start(self, *args: Any, **kwargs: Any) -> None:
            return

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch in self.milestones or trainer.current_epoch == 0:
                self.lr_find(trainer, pl_module)
                self.found.append((trainer.current_epoch, trainer.global_step, self.optimal_lr.results["lr"]))
                assert trainer.optimizers[0].param_groups[0]["lr"] == pl_module.lr

    finder = Again((2,), num_training_steps=12)
    trainer = kit.trainer(finder, max_epochs=4)
    trainer.fit(Net())
    assert [found[:2] for found in finder.found] == [(0, 0), (2, 12)]
    assert [len(found[2]) for found in finder.found] == [12, 12]
    assert trainer.global_step == 24


# -- drawing


def test_plot_draws_losses_over_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = search(Net(), num_training=20)
    shown: list[Any] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    figure = found.plot(suggest=True, show=True)
    (axes,) = figure.axes
    curve, point = axes.lines
    assert curve.get_xdata().tolist() == found.results["lr"]
    assert curve.get_ydata().tolist() == found.results["loss"]
    assert point.get_xdata() == [found.suggestion()]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("Learning rate", "Loss", "log")
    assert shown == [1]
    mine, own = plt.subplots()
    assert search(Net(), mode="linear").plot(ax=own) is mine
    assert own.get_xscale() == "linear"
    plt.close("all")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingPackage, match="pip install matplotlib"):
        found.plot()


def test_a_finder_can_be_made_and_filled_by_hand() -> None:
    found = _LRFinder("exponential", 1e-4, 1.0, 6)
    found.results = {"lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "loss": [5.0, 4.0, 1.0, math.nan, 0.9, 0.8]}
    assert found.suggestion(skip_begin=0, skip_end=0) == 0.3
    with pytest.raises(InvalidOption, match="mode"):
        _LRFinder("up", 1e-4, 1.0, 6)
