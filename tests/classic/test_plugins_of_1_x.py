"""Strategies as 1.2 to 1.9 named and passed them, and what their programs ask of the Trainer's loops."""

from __future__ import annotations

import importlib
from argparse import Namespace
from typing import Any

import kit
import pytest
import torch
from torch import nn

import leyden
from leyden.callbacks import DeviceStatsMonitor, StochasticWeightAveraging
from leyden.classic import tools
from leyden.errors import InvalidOption, InvalidType, LegacyNotice, MissingMethod, NonFiniteLoss
from leyden.loggers import CSVLogger
from leyden.plugins import TorchSyncBatchNorm
from leyden.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from leyden.testing import BoringModel, random_batches

TWO: dict[str, Any] = {"accelerator": "cpu", "devices": 2}


def plugin(name: str) -> Any:
    return getattr(importlib.import_module("leyden.plugins"), name)


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
@pytest.mark.parametrize(
    "given",
    [
        {"plugins": lambda: plugin("DDPPlugin")(find_unused_parameters=False), "accelerator": "ddp", "num_processes": 2},
        {
            "plugins": lambda: [plugin("DDPPlugin")(find_unused_parameters=False)],
            "distributed_backend": "ddp",
            "num_processes": 2,
        },
        {"plugins": lambda: [plugin("DDPPlugin")(), TorchSyncBatchNorm()], "strategy": "ddp", **TWO},
        {"plugins": lambda: plugin("DDPSpawnPlugin")(), **TWO},
        {"plugins": lambda: "ddp_spawn", **TWO},
        {"strategy": lambda: leyden.strategies.DDPSpawnStrategy(find_unused_parameters=False), **TWO},
    ],
)
def test_a_strategy_among_the_plugins(given: dict[str, Any]) -> None:
    made = {name: value() if callable(value) else value for name, value in given.items()}
    assert isinstance(kit.trainer(**made).strategy, DDPStrategy)


def test_it_is_said_what_it_is_today() -> None:
    run = kit.trainer(plugins=plugin("SingleDevicePlugin")(device="cpu"))
    assert isinstance(run.strategy, SingleDeviceStrategy)
    with pytest.warns(LegacyNotice, match=r"plugins=SingleDeviceStrategy\(\.\.\.\)\) +strategy=SingleDeviceStrategy"):
        run.fit(BoringModel())
    assert isinstance(kit.trainer(strategy="fsdp_native", **TWO).strategy, FSDPStrategy)
    with pytest.warns(LegacyNotice, match="fsdp_native"):
        kit.trainer().fit(BoringModel())


def test_plugins_that_are_none() -> None:
    with pytest.raises(InvalidType, match="expected a Precision"):
        kit.trainer(plugins="fast")
    with pytest.raises(InvalidOption, match="ddp_sharded"):
        kit.trainer(plugins="ddp_sharded", **TWO)
    with pytest.raises(InvalidType, match="expected a Precision"):  # beside another, nobody can tell which is meant
        kit.trainer(strategy=SingleDeviceStrategy("cpu"), plugins=DDPStrategy())


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
def test_averaging_by_a_flag_goes_on_at_trainings_rate() -> None:
    rates = []

    class Module(BoringModel):
        def on_train_epoch_start(self) -> None:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.03)

    run = kit.trainer(stochastic_weight_avg=True, max_epochs=5)
    run.fit(Module(), random_batches(2))
    (averaging,) = (each for each in run.callbacks if isinstance(each, StochasticWeightAveraging))
    assert rates == [pytest.approx(0.03)] * 5
    assert averaging.n_averaged is not None
    assert not any(isinstance(each, StochasticWeightAveraging) for each in kit.trainer(stochastic_weight_avg=False).callbacks)


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
def test_memory_is_watched_where_there_is_a_logger() -> None:
    run = kit.trainer(log_gpu_memory="min_max", logger=CSVLogger("logs"))
    assert any(isinstance(each, DeviceStatsMonitor) for each in run.callbacks)
    run.fit(BoringModel(), random_batches(1))
    assert not any(isinstance(each, DeviceStatsMonitor) for each in kit.trainer(log_gpu_memory="all").callbacks)


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
@pytest.mark.parametrize("load", ["self.trainer.fit_loop.setup_data()", "self.trainer.reset_train_dataloader(self)"])
def test_the_length_of_the_loader_is_known_before_training(load: str) -> None:
    found = []

    class Module(BoringModel):
        def configure_optimizers(self) -> Any:
            eval(load)
            found.append((len(self.trainer.train_dataloader), self.trainer.num_training_batches))
            return super().configure_optimizers()

    kit.trainer(limit_train_batches=2).fit(Module(), random_batches(5))
    assert found == [(5, 2)]


@pytest.mark.parametrize("by_datamodule", [True, False])
def test_a_module_without_loaders_answers_with_what_fit_was_given(by_datamodule: bool) -> None:
    """The tutorial on GLUE counts its steps so in `setup`."""
    found = []

    class Module(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 1)

        def setup(self, stage: str) -> None:
            found.append((stage, len(self.train_dataloader())))
            with pytest.raises(MissingMethod, match="Module has no `test_dataloader`"):
                self.test_dataloader()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Data(leyden.LightningDataModule):
        def train_dataloader(self) -> Any:
            return random_batches(3)

    class Own(Module):
        def train_dataloader(self) -> Any:
            return super().train_dataloader()

    with pytest.warns(LegacyNotice, match=r"self\.train_dataloader\(\) of what fit was given"):
        kit.trainer().fit(Module(), Data() if by_datamodule else random_batches(3))
    assert found == [("fit", 3)]
    for module in (Module(), Own()):
        with pytest.raises(MissingMethod, match="has no `train_dataloader`, and none was passed to fit"):
            module.train_dataloader()
    with pytest.raises(MissingMethod, match="has no `train_dataloader`"):
        kit.trainer().fit(Own())


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
def test_what_else_was_asked_of_a_trainer() -> None:
    run = kit.trainer(precision="bf16-mixed", max_epochs=2)
    run.fit(BoringModel(), random_batches(3))
    assert run.amp_backend == tools.AMPType.NATIVE == "native"
    assert run.use_native_amp
    assert kit.trainer().amp_backend is None
    assert (run.optimizer_frequencies, run.prediction_writer_callbacks, run.data_parallel_device_ids) == ([], [], None)
    assert run.should_rank_save_checkpoint
    assert run.disable_validation is not run.enable_validation


def test_tools_of_then(capsys: pytest.CaptureFixture[str]) -> None:
    one = torch.tensor(2.0)
    assert tools.sync_ddp_if_available(one, reduce_op="mean") is one
    assert tools.all_gather_ddp_if_available(one) is one
    assert not tools.distributed_available()
    assert tools.has_len(random_batches(2))
    assert tools.metrics_to_scalars({"a": one, "b": [torch.tensor(1)]}) == {"a": 2.0, "b": [1]}
    with pytest.raises(InvalidType, match="one element"):
        tools.metrics_to_scalars(torch.zeros(2))
    assert [tools.str_to_bool_or_str(word) for word in ("yes", "Off", "gpu")] == [True, False, "gpu"]
    with pytest.raises(InvalidOption, match="'yes'"):
        tools.str_to_bool("gpu")
    layer = nn.Linear(1, 1)
    tools.detect_nan_parameters(layer)
    layer(torch.full((1, 1), torch.nan)).sum().backward()
    tools.print_nan_gradients(layer)
    assert "weight" in capsys.readouterr().out
    layer.weight.data.fill_(torch.inf)
    with pytest.raises(NonFiniteLoss, match="weight has values"):
        tools.detect_nan_parameters(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    tools.optimizers_to_device([optimizer], "cpu")


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
def test_a_bar_of_1_x_counts_batches() -> None:
    seen: list[Any] = []

    class Bar(leyden.callbacks.ProgressBar):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            seen.append(self.train_batch_idx / self.total_train_batches * 100)

        def on_test_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_test_batch_end(trainer, *args)
            seen.append((self.test_batch_idx, self.total_test_batches))

    class Module(BoringModel):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
            pass

    run = kit.trainer(Bar(), enable_progress_bar=True)
    run.fit(Module(), random_batches(2))
    run.test(Module(), [random_batches(2), random_batches(1)])
    assert seen == [50, 100, (1, 3), (2, 3), (3, 3)]
    with pytest.raises(AttributeError, match="'Bar' object has no attribute 'trian_batch_idx'"):
        Bar().trian_batch_idx  # noqa: B018  # asked for


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
@pytest.mark.parametrize(
    "base", [leyden.callbacks.ProgressBar, leyden.callbacks.TQDMProgressBar, leyden.callbacks.RichProgressBar]
)
@pytest.mark.parametrize("drawn", [True, False])
def test_a_bar_of_1_x_counts_the_batches_of_each_evaluation(base: Any, drawn: bool) -> None:
    seen: list[Any] = []

    class Bar(base):  # type: ignore[misc]  # one of three
        def on_validation_start(self, trainer: Any, *args: Any) -> None:
            super().on_validation_start(trainer, *args)
            seen.append(self.val_batch_idx)

        def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_validation_batch_end(trainer, *args)
            seen.append(self.val_batch_idx)

        def on_test_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_test_batch_end(trainer, *args)
            seen.append(self.test_batch_idx)

        def on_predict_batch_start(self, trainer: Any, *args: Any) -> None:
            seen.append(self.predict_batch_idx)

        def on_predict_batch_end(self, trainer: Any, *args: Any) -> None:
            super().on_predict_batch_end(trainer, *args)
            seen.append(self.predict_batch_idx)

    class Module(BoringModel):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    bar = Bar()
    run = kit.trainer(bar, enable_progress_bar=True, max_epochs=2)
    if not drawn:
        bar.disable()
    run.fit(Module(), random_batches(1), random_batches(2))
    run.test(Module(), [random_batches(2), random_batches(1)], verbose=False)
    run.predict(Module(), random_batches(1))
    assert seen == 3 * [0, 1, 2] + [1, 2, 3] + [0, 1]  # the sanity check is the first validation


def test_a_bar_of_1_x_that_sets_up_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    class Bar(leyden.callbacks.ProgressBar):
        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()  # type: ignore[misc]  # the base has it then
            bar.set_description("it trains")
            return bar

    assert issubclass(Bar, leyden.callbacks.TQDMProgressBar)
    with pytest.warns(LegacyNotice, match=r"class Bar\(ProgressBar\) +class Bar\(TQDMProgressBar\)"):
        kit.trainer(Bar(), enable_progress_bar=True).fit(BoringModel(), random_batches(2))
    assert "2/2" in "".join(capsys.readouterr())


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
def test_a_logger_of_1_x_brings_hyperparameters_into_shape() -> None:
    class Own(leyden.loggers.Logger):
        name, version = "own", 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            pass

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.seen = self._sanitize_params(self._flatten_dict(self._convert_params(params)))

    logger = Own()
    logger.log_hyperparams(Namespace(a={"b": 1, "c": [2]}, d=None))
    assert logger.seen == {"a/b": 1, "a/c": "[2]", "d": "None"}
    with pytest.raises(AttributeError, match="'Own' object has no attribute 'nobody'"):
        logger.nobody  # noqa: B018  # asked for
