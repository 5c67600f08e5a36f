"""What may be read off a trainer, before, in and after each stage, and what fit returns."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Logging
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from leyden.errors import InvalidOption, InvalidType, UnknownName, Unsupported
from leyden.hooks import HOOK_NAMES
from leyden.loggers import CSVLogger
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import BoringModel, RandomDataset
from leyden.trainer.states import RunningStage, TrainerFn, TrainerStatus
from leyden.validation_schedule import batches_between

STAGES = ("training", "validating", "testing", "predicting", "sanity_checking")


class Net(Logging):
    """Six training batches, validation loaders of four and five, three test batches, two to predict."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.step(batch))

    def train_dataloader(self) -> Any:
        return DataLoader(RandomDataset(32, 6))

    def val_dataloader(self) -> Any:
        return [DataLoader(RandomDataset(32, 4)), DataLoader(RandomDataset(32, 5))]

    def test_dataloader(self) -> Any:
        return DataLoader(RandomDataset(32, 3))

    def predict_dataloader(self) -> Any:
        return DataLoader(RandomDataset(32, 2))


class Observer(leyden.Callback):
    """Keeps, for every hook, what a look at the trainer showed."""

    def __init__(self, *names: str) -> None:
        self.seen: dict[str, list[Any]] = {}
        for hook in HOOK_NAMES:
            if hook not in ("state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint", "on_exception"):
                setattr(self, hook, self.looking(hook, names))

    def looking(self, hook: str, names: tuple[str, ...]) -> Any:
        def look(trainer: Any, *arguments: Any, **keywords: Any) -> None:
            found = tuple(copy.copy(getattr(trainer, name)) for name in names)
            self.seen.setdefault(hook, []).append(found[0] if len(found) == 1 else found)

        return look


trainer = partial(kit.trainer, max_epochs=2, limit_train_batches=3, limit_val_batches=2, num_sanity_val_steps=1)


# -- the stage

FLAGS = ("training", "validating", "testing", "predicting", "sanity_checking", "evaluating")


def test_flags_before_and_after() -> None:
    run = trainer()
    assert not any(getattr(run, flag) for flag in FLAGS)
    assert (run.state.status, run.state.fn, run.state.stage) == (TrainerStatus.INITIALIZING, None, None)
    run.fit(Net())
    assert not any(getattr(run, flag) for flag in FLAGS)
    assert (run.state.status, run.state.fn, run.state.stage) == ("finished", "fit", None)
    assert run.state.finished
    assert run.state.stopped


def test_flags_in_fit() -> None:
    observer = Observer(*FLAGS)
    trainer(observer).fit(Net())
    training, validating, sanity = (
        (True, False, False, False, False, False),
        (False, True, False, False, False, True),
        (False, False, False, False, True, True),
    )
    seen = {hook: set(values) for hook, values in observer.seen.items()}
    for hook in ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end", "on_train_end"):
        assert seen[hook] == {training}, hook
    for hook in ("on_validation_start", "on_validation_batch_start", "on_validation_batch_end", "on_validation_end"):
        assert seen[hook] == {validating, sanity}, hook
    assert seen["on_sanity_check_start"] == seen["on_sanity_check_end"] == {sanity}


@pytest.mark.parametrize(
    ("verb", "hook", "stage", "fn"),
    [
        ("fit", "on_train_batch_end", RunningStage.TRAINING, TrainerFn.FITTING),
        ("validate", "on_validation_batch_end", RunningStage.VALIDATING, TrainerFn.VALIDATING),
        ("test", "on_test_batch_end", RunningStage.TESTING, TrainerFn.TESTING),
        ("predict", "on_predict_batch_end", RunningStage.PREDICTING, TrainerFn.PREDICTING),
    ],
)
def test_the_state(verb: str, hook: str, stage: RunningStage, fn: TrainerFn) -> None:
    def look(run: Any, *_: Any) -> None:
        seen.append((run.state.stage, run.state.fn, run.state.status))

    seen: list[Any] = []
    recorder = leyden.testing.Recorder(**{hook: look})
    run = trainer(recorder)
    getattr(run, verb)(Net())
    assert set(seen) == {(stage, fn, TrainerStatus.RUNNING)}
    assert seen[0][1] == verb
    assert f"{seen[0][1]}" == verb
    assert run.state.fn is fn


# -- counts


def test_counts_in_fit() -> None:
    observer = Observer("current_epoch", "global_step")
    run = trainer(observer)
    run.fit(Net())
    assert observer.seen["on_train_batch_start"] == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    assert observer.seen["on_train_batch_end"] == [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)]
    assert observer.seen["on_validation_start"] == [(0, 0), (0, 3), (1, 6)]
    assert observer.seen["on_train_epoch_end"] == [(0, 3), (1, 6)]
    assert observer.seen["on_train_end"] == [(2, 6)]
    assert (run.current_epoch, run.global_step) == (2, 6)


def test_steps_are_counted_once_whatever_the_number_of_optimizers() -> None:
    class Two(Net):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.step(batch)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]

    run = trainer()
    run.fit(Two())
    assert run.global_step == 6


def test_the_module_s_own_view() -> None:
    seen = []

    class Looking(Net):
        def on_train_batch_end(self, *arguments: Any) -> None:
            seen.append((self.current_epoch, self.global_step, self.global_rank, self.local_rank, self.device.type))
            assert self.trainer.lightning_module is self
            assert self.trainer.model is self

    trainer(max_epochs=1).fit(Looking())
    assert seen == [(0, 1, 0, 0, "cpu"), (0, 2, 0, 0, "cpu"), (0, 3, 0, 0, "cpu")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6),
        ({"accumulate_grad_batches": 2}, 4),
        ({"max_steps": 5}, 5),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": -1, "max_time": {"hours": 1}}, float("inf")),
        ({"limit_train_batches": 1.0}, 12),
        ({"accumulate_grad_batches": {0: 1, 1: 3}}, 4),
    ],
)
def test_how_many_steps_there_will_be(options: dict[str, Any], expected: float) -> None:
    class Asking(Net):
        def configure_optimizers(self) -> Any:
            asked.append(self.trainer.estimated_stepping_batches)
            return super().configure_optimizers()

        def on_train_batch_end(self, *arguments: Any) -> None:
            asked.append(self.trainer.estimated_stepping_batches)
            self.trainer.stop()

    asked: list[float] = []
    trainer(**options).fit(Asking())
    assert set(asked) == {expected}


def test_the_last_batch_is_known() -> None:
    observer = Observer("is_last_batch")
    trainer(observer).fit(Net())
    assert observer.seen["on_train_batch_end"] == [False, False, True] * 2
    observer = Observer("is_last_batch")
    trainer(observer).test(Net())
    assert observer.seen["on_test_batch_end"] == [False, False, True]


# -- loaders


def test_numbers_of_batches() -> None:
    run = trainer(limit_test_batches=0.5, limit_val_batches=0.5)
    run.fit(Net())
    assert (run.num_training_batches, run.num_val_batches, run.num_sanity_val_batches) == (3, [2, 2], [1, 1])
    run.test()
    assert run.num_test_batches == [1]
    run.predict()
    assert run.num_predict_batches == [2]


def test_numbers_of_batches_before_a_run() -> None:
    run = trainer()
    assert (run.num_val_batches, run.num_test_batches, run.num_predict_batches) == ([], [], [])
    assert run.num_training_batches == float("inf")
    assert run.train_dataloader is None
    assert run.val_dataloaders is None


def test_loaders_are_shown_as_they_were_given() -> None:
    train, val = DataLoader(RandomDataset(32, 4)), [DataLoader(RandomDataset(32, 4))]
    run, module = trainer(), Net()
    run.fit(module, train, val)
    assert run.train_dataloader is train
    assert run.val_dataloaders is val
    test = DataLoader(RandomDataset(32, 4))
    run.test(module, test)
    assert run.test_dataloaders is test
    run.predict(module, val)
    assert run.predict_dataloaders is val


def test_whether_fit_validates() -> None:
    class NoStep(BoringModel):
        validation_step = leyden.LightningModule.validation_step

    run = trainer()
    assert not run.enable_validation
    run.fit(Net())
    assert run.enable_validation
    off = trainer(limit_val_batches=0)
    off.fit(Net())
    assert not off.enable_validation


# -- parts


def test_parts() -> None:
    run = trainer(precision="bf16-mixed", gradient_clip_val=0.5, gradient_clip_algorithm="value", accumulate_grad_batches=2)
    assert isinstance(run.strategy, SingleDeviceStrategy)
    assert run.strategy.root_device == torch.device("cpu")
    assert run.strategy.broadcast(3) == 3
    assert (run.world_size, run.global_rank, run.local_rank, run.node_rank, run.is_global_zero) == (1, 0, 0, 0, True)
    assert (run.num_nodes, run.num_devices, run.device_ids) == (1, 1, [0])
    assert leyden.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False).device_ids == [0, 1]
    assert run.precision == "bf16-mixed"
    assert run.precision_plugin is run.strategy.precision
    assert run.scaler is None
    assert run.accelerator is run.strategy.accelerator
    assert (run.gradient_clip_val, run.gradient_clip_algorithm, run.accumulate_grad_batches) == (0.5, "value", 2)
    assert run.distributed_sampler_kwargs is None
    several = leyden.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False)
    assert several.distributed_sampler_kwargs == {"num_replicas": 2, "rank": 0}


def test_limits_as_they_were_given() -> None:
    run = leyden.Trainer(
        max_epochs=4,
        min_epochs=2,
        max_steps=50,
        min_steps=3,
        limit_train_batches=7,
        limit_val_batches=0.5,
        limit_test_batches=2,
        limit_predict_batches=3,
        check_val_every_n_epoch=2,
        val_check_interval=0.5,
        num_sanity_val_steps=-1,
        log_every_n_steps=9,
        reload_dataloaders_every_n_epochs=2,
    )
    assert (run.max_epochs, run.min_epochs, run.max_steps, run.min_steps) == (4, 2, 50, 3)
    assert kit.trainer().min_epochs == 0  # a number that hooks can compare with, as in Lightning's fits
    assert (run.limit_train_batches, run.limit_val_batches, run.limit_test_batches, run.limit_predict_batches) == (7, 0.5, 2, 3)
    assert (run.check_val_every_n_epoch, run.val_check_interval, run.num_sanity_val_steps) == (2, 0.5, float("inf"))
    assert (run.log_every_n_steps, run.reload_dataloaders_every_n_epochs, run.overfit_batches) == (9, 2, 0.0)
    plain = leyden.Trainer()
    assert (plain.max_epochs, plain.max_steps, plain.fast_dev_run) == (1000, -1, 0)


def test_optimizers_and_schedulers() -> None:
    run = trainer()
    assert run.optimizers == []
    assert run.lr_scheduler_configs == []
    run.fit(Net())
    assert [type(each) for each in run.optimizers] == [torch.optim.SGD]
    (config,) = run.lr_scheduler_configs
    assert isinstance(config.scheduler, torch.optim.lr_scheduler.StepLR)
    assert (config.interval, config.frequency, config.reduce_on_plateau) == ("epoch", 1, False)


def test_metrics() -> None:
    observer = Observer("callback_metrics")
    run = trainer(observer, max_epochs=1, logger=CSVLogger("."), log_every_n_steps=1)
    run.fit(Net())
    assert set(run.callback_metrics) == {"train_loss", "val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"}
    assert all(isinstance(value, torch.Tensor) and value.dim() == 0 for value in run.callback_metrics.values())
    assert "train_loss" in run.logged_metrics
    assert "train_loss" in run.progress_bar_metrics
    assert isinstance(run.progress_bar_metrics["train_loss"], float)
    assert "val_loss/dataloader_idx_0" not in run.progress_bar_metrics
    assert observer.seen["on_fit_start"] == [{}]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_after_the_fit_does_not_show_the_fit_s_loss(verb: str) -> None:
    shown: list[dict[str, Any]] = []
    bar = TQDMProgressBar()
    hooks = ("on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end")
    look = kit.Recorder(
        **{hook: lambda run, module, *_: shown.extend([run.progress_bar_metrics, bar.get_metrics(run, module)]) for hook in hooks}
    )
    run, module = trainer(look, max_epochs=1), BoringModel()
    loader = DataLoader(RandomDataset(32, 2))
    run.fit(module, loader)
    assert set(run.progress_bar_metrics) == {"loss"} == set(bar.get_metrics(run, module))
    shown.clear()
    getattr(run, verb)(module, loader)
    assert len(shown) == 4
    assert not any("loss" in each for each in shown)


def test_callbacks_by_kind() -> None:
    stopping, keeping, bar = EarlyStopping("val_loss"), ModelCheckpoint(), RichProgressBar()
    run = leyden.Trainer(callbacks=[stopping, keeping, bar])
    assert (run.early_stopping_callback, run.early_stopping_callbacks) == (stopping, [stopping])
    assert (run.checkpoint_callback, run.checkpoint_callbacks) == (keeping, [keeping])
    assert run.progress_bar_callback is bar
    bare = trainer()
    assert (bare.early_stopping_callback, bare.checkpoint_callback, bare.progress_bar_callback) == (None, None, None)


def test_loggers_and_places(tmp_path: Path) -> None:
    one, two = CSVLogger(tmp_path / "one"), CSVLogger(tmp_path / "two")
    run = trainer(logger=[one, two], default_root_dir=tmp_path)
    assert run.logger is one
    assert run.loggers == [one, two]
    assert run.log_dir == one.log_dir
    assert run.default_root_dir == str(tmp_path)
    bare = trainer(default_root_dir=tmp_path)
    assert (bare.logger, bare.loggers, bare.log_dir) == (None, [], str(tmp_path))


def test_the_module_before_there_is_one() -> None:
    run = trainer()
    assert run.model is None
    assert run.datamodule is None
    assert run.ckpt_path is None
    asked: Any = run.lightning_module
    assert asked is None


def test_a_wish_to_stop() -> None:
    def stop(run: Any, *_: Any) -> None:
        run.should_stop = True

    run = trainer(leyden.testing.Recorder(on_train_batch_end=stop))
    result = run.fit(Net())
    assert run.should_stop
    assert (result.status, result.steps) == ("stopped", 1)


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    trainer().print("hello", 3, sep="-")
    assert capsys.readouterr().out == "hello-3\n"


# -- what libraries reach for


def test_views_of_the_loops() -> None:
    seen: list[Any] = []

    def look(run: Any, *_: Any) -> None:
        loop = run.fit_loop
        seen.append((loop.epoch_loop.batch_idx, loop.epoch_loop.total_batch_idx, loop.current_epoch, loop.global_step))

    run = trainer(leyden.testing.Recorder(on_train_batch_start=look, on_train_batch_end=look))
    run.fit(Net())
    begun, ended = seen[::2], seen[1::2]
    assert begun == [(0, 0, 0, 0), (1, 1, 0, 1), (2, 2, 0, 2), (0, 3, 1, 3), (1, 4, 1, 4), (2, 5, 1, 5)]
    assert [row[:2] for row in ended] == [row[:2] for row in begun]
    assert (run.fit_loop.max_epochs, run.fit_loop.min_epochs, run.fit_loop.max_steps, run.fit_loop.min_steps) == (
        2,
        0,
        -1,
        None,
    )
    assert run.fit_loop.max_batches == 3
    assert run.fit_loop.is_last_batch
    assert run.fit_loop.epoch_loop.val_loop.max_batches == [2, 2]
    assert run.validate_loop.num_dataloaders == 2
    assert run.validate_loop.inference_mode
    run.test()
    run.predict()
    assert (run.test_loop.max_batches, run.predict_loop.max_batches) == ([3], [2])


@pytest.mark.parametrize(
    ("options", "batches"),
    [({}, 3), ({"val_check_interval": 0.5}, 1), ({"val_check_interval": 2}, 2), ({"val_check_interval": "00:00:01:00"}, None)],
)
def test_batches_between_validations(options: dict[str, Any], batches: int | None) -> None:
    run = trainer(**options)
    assert run.val_check_batch is None
    run.fit(Net())
    assert run.val_check_batch == batches
    assert batches_between(run.leyden_options.validation, None) == (float("inf") if batches == 3 or batches == 1 else batches)


def test_callbacks_are_told_of_a_checkpoint_in_each_verb_and_have_their_states(tmp_path: Path) -> None:
    class Told(leyden.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"n": 1}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            seen.append(state_dict["n"])

        def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            seen.append((trainer.state.fn.value, checkpoint["epoch"]))

    seen: list[Any] = []
    run, keeper = trainer(Told()), ModelCheckpoint(tmp_path, every_n_train_steps=1, filename="{step}", save_top_k=-1)
    run.callbacks.append(keeper)
    run.fit(Net())
    path = tmp_path / "step=1.ckpt"
    for verb in ("validate", "test", "predict"):
        getattr(run, verb)(Net(), ckpt_path=path)
    assert keeper.best_model_path == str(tmp_path / f"step={run.global_step}.ckpt")  # how far the fit has come stays
    trainer(Told(), max_epochs=3).fit(Net(), ckpt_path=path)
    assert seen == [("validate", 0), 1, ("test", 0), 1, ("predict", 0), 1, ("fit", 0), 1]


def test_how_far_the_loops_are_in_each_hook() -> None:
    rows: list[Any] = []

    def look(run: Any, *_: Any) -> None:
        epochs, batches = run.fit_loop.epoch_progress.current, run.fit_loop.epoch_loop.batch_progress
        counts = [f"{n.ready}{n.started}{n.processed}{n.completed}" for n in (epochs, batches.current, batches.total)]
        loop = run.fit_loop.epoch_loop
        steps = loop.automatic_optimization.optim_progress.optimizer_steps
        rows.append((*counts, batches.is_last_batch, steps, loop._batches_that_stepped, loop.done, run.fit_loop.done))

    hooks = "on_train_start on_train_batch_start on_before_backward on_train_batch_end on_validation_end on_train_epoch_end"
    recorder = leyden.testing.Recorder(**dict.fromkeys(hooks.split(), look))
    run = trainer(recorder, accumulate_grad_batches=2, num_sanity_val_steps=0)
    run.fit(Net())
    assert run.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed == 0
    assert rows == [  # Lightning 2.6.6 shows the same
        ("0000", "0000", "0000", False, 0, 0, False, False),
        ("1100", "1000", "1000", False, 0, 0, False, False),
        ("1100", "1100", "1100", False, 0, 0, False, False),
        ("1100", "1110", "1110", False, 0, 0, False, False),
        ("1100", "2111", "2111", False, 0, 0, False, False),
        ("1100", "2211", "2211", False, 0, 0, False, False),
        ("1100", "2221", "2221", False, 1, 0, False, False),
        ("1100", "3222", "3222", True, 1, 1, True, False),
        ("1100", "3322", "3322", True, 1, 1, True, False),
        ("1100", "3332", "3332", True, 2, 1, True, False),
        ("1100", "3333", "3333", True, 2, 1, True, False),
        ("1110", "3333", "3333", True, 2, 2, True, False),
        ("2211", "1000", "4333", False, 2, 2, False, False),
        ("2211", "1100", "4433", False, 2, 2, False, False),
        ("2211", "1110", "4443", False, 2, 2, False, False),
        ("2211", "2111", "5444", False, 2, 2, False, False),
        ("2211", "2211", "5544", False, 2, 2, False, False),
        ("2211", "2221", "5554", False, 3, 2, False, False),
        ("2211", "3222", "6555", True, 3, 3, True, False),
        ("2211", "3322", "6655", True, 3, 3, True, False),
        ("2211", "3332", "6665", True, 4, 3, True, False),
        ("2211", "3333", "6666", True, 4, 3, True, False),
        ("2221", "3333", "6666", True, 4, 4, True, True),
    ]
    with pytest.raises(AttributeError):
        run.fit_loop.epoch_progress.current.completed = 5


def test_limits_of_the_fit_loop_may_be_set() -> None:
    run, module = trainer(), Net()
    run.fit(module)
    run.fit_loop.max_epochs = 4
    run.fit_loop.min_epochs = 1
    assert (run.max_epochs, run.min_epochs) == (4, 1)
    assert run.fit(module).epochs == 4
    run.fit_loop.max_epochs = -1
    run.fit_loop.min_epochs = None
    assert (run.max_epochs, run.min_epochs) == (-1, 0)
    with pytest.raises(InvalidOption, match="max_epochs=-3"):
        run.fit_loop.max_epochs = -3


# -- what may be set


@pytest.mark.parametrize("stage", ["training", "validating", "testing", "predicting", "sanity_checking"])
def test_the_stage_may_be_set(stage: str) -> None:
    run = trainer()
    setattr(run, stage, False)
    assert run.state.stage is None
    setattr(run, stage, True)
    assert [name for name in STAGES if getattr(run, name)] == [stage]
    for other in STAGES:
        setattr(run, other, other == stage)
    assert getattr(run, stage)
    setattr(run, stage, False)
    assert run.state.stage is None


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_optimizers_that_were_set_are_stepped(hook: str, by_hand: bool) -> None:
    class Module(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if by_hand:
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

    def put(run: leyden.Trainer, module: leyden.LightningModule) -> None:
        run.optimizers = [torch.optim.SGD([module.layer.bias], lr=0.5)]

    module = Module()
    module.automatic_optimization = not by_hand
    before = copy.deepcopy(module.state_dict())
    run = kit.fit(module, kit.ones(3), callbacks=[kit.Recorder(**{hook: put})])
    assert (run.optimizers[0].param_groups[0]["lr"], run.global_step) == (0.5, 3)
    assert torch.equal(module.layer.weight, before["layer.weight"])
    assert not torch.equal(module.layer.bias, before["layer.bias"])


def test_optimizers_that_are_set_amid_a_window_go_on_from_a_file(tmp_path: Path) -> None:
    """A run that goes on inside an epoch, with gradients that wait, has the optimizers set anew before they are put back."""

    def put(run: leyden.Trainer, module: leyden.LightningModule) -> None:
        run.optimizers = [torch.optim.Adam(module.parameters(), lr=0.1)]

    def trained(*more: Any, ckpt_path: Any = None) -> dict[str, Any]:
        torch.manual_seed(1)
        module = kit.Tiny()
        options: dict[str, Any] = {"accumulate_grad_batches": 2, "callbacks": [kit.Recorder(on_fit_start=put), *more]}
        kit.fit(module, kit.ones(6), ckpt_path=ckpt_path, **options)
        return module.state_dict()

    path = str(tmp_path / "a.ckpt")
    whole = trained()
    save = kit.Recorder(on_train_batch_end=lambda run, *rest: run.save_checkpoint(path) if rest[3] == 2 else None)
    assert kit.same(trained(save), whole)
    assert kit.same(trained(ckpt_path=path), whole)


@pytest.mark.parametrize("given", [3, [None], "two"])
def test_optimizers_that_are_none_are_refused(given: Any) -> None:
    def put(run: leyden.Trainer, module: leyden.LightningModule) -> None:
        run.optimizers = [torch.optim.SGD(module.parameters(), lr=1) for _ in "ab"] if given == "two" else given

    with pytest.raises(InvalidType, match=r"(?s)trainer\.optimizers=.* cannot be used: expected a list of one optimizer"):
        kit.fit(kit.Tiny(), kit.ones(3), callbacks=[kit.Recorder(on_fit_start=put)])


def test_optimizers_are_not_set_inside_an_epoch() -> None:
    def put(run: leyden.Trainer, *_: Any) -> None:
        run.optimizers = []

    with pytest.raises(Unsupported, match="set inside an epoch"):
        kit.fit(kit.Tiny(), kit.ones(3), callbacks=[kit.Recorder(on_train_batch_start=put)])


# -- what fit returns


def test_the_result_of_a_fit(tmp_path: Path) -> None:
    keeping = ModelCheckpoint(tmp_path, monitor="val_loss/dataloader_idx_0", save_last=True)
    run = trainer(keeping, enable_checkpointing=True)
    result = run.fit(Net())
    assert (result.status, result.reason, result.epochs, result.steps) == ("finished", None, 2, 6)
    assert [(row["epoch"], row["step"]) for row in result.history] == [(0, 3), (1, 6)]
    assert len(result.column("train_loss")) == len(result.column("val_loss/dataloader_idx_0")) == 2
    assert result.column("nothing") == []
    assert result.best_checkpoint == keeping.best_model_path
    assert result.best_score == pytest.approx(min(result.column("val_loss/dataloader_idx_0")), abs=1e-6)
    assert result.last_checkpoint == keeping.last_model_path
    with pytest.raises(AttributeError):
        result.status = "other"  # type: ignore[misc]  # on purpose


def test_metrics_with_the_names_of_a_row_s_own_columns_stop_no_resumed_run(tmp_path: Path) -> None:
    class Named(kit.Tiny):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log_dict({"epoch": self.current_epoch + 0.5, "step": self.current_epoch / 2}, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    def saving(epochs: int) -> leyden.Trainer:
        return kit.trainer(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True, max_epochs=epochs)

    whole = kit.fit(Named(), kit.ones(3), max_epochs=3)
    saving(2).fit(Named(), kit.ones(3))
    resumed = saving(3).fit(Named(), kit.ones(3), ckpt_path="last")
    assert [(row["epoch"], row["step"]) for row in resumed.history] == [(0, 3), (1, 6), (2, 9)]
    assert resumed.history == whole.leyden_fit.history
    assert (float(whole.callback_metrics["epoch"]), float(whole.callback_metrics["step"])) == (2.5, 1.0)


def test_the_result_without_checkpoints() -> None:
    result = trainer().fit(Net())
    assert (result.best_checkpoint, result.best_score, result.last_checkpoint) == (None, None, None)


def test_the_reason_for_a_stop() -> None:
    run = trainer(leyden.testing.Recorder(on_train_batch_end=lambda run, *_: run.stop("enough")))
    result = run.fit(Net())
    assert (result.status, result.reason, result.epochs) == ("stopped", "enough", 1)
    fresh = trainer(EarlyStopping("train_loss", stopping_threshold=1e9))
    result = fresh.fit(Net())
    assert result.status == "stopped"
    assert "train_loss" in str(result.reason)


@pytest.mark.parametrize(
    "deed",
    [
        lambda run: setattr(run.fit_loop, "val_loop", None),
        lambda run: setattr(run.fit_loop.epoch_loop, "_batches_that_stepped", 100),
        lambda run: setattr(run.fit_loop.epoch_progress.current, "completed", 1),
        lambda run: setattr(run.validate_loop, "verbose", False),
    ],
)
def test_what_is_only_read_off_a_loop_cannot_be_set(deed: Any) -> None:
    with pytest.raises(UnknownName, match=r"is only read off the run.*fit\(ckpt_path=\.\.\.\)"):
        deed(trainer())
