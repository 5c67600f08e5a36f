"""Where names of 0.5 to 1.9 were imported from, and what loggers, hooks and datamodules of those years bring."""

from __future__ import annotations

import importlib
import inspect
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden import Trainer
from leyden.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from leyden.core.lightning import load_hparams_from_tags_csv
from leyden.errors import DeviceUnavailable, UnknownName
from leyden.loggers import CSVLogger, Logger, LoggerCollection, TensorBoardLogger
from leyden.profiler import Profiler
from leyden.testing import BoringModel, random_batches

pytestmark = [
    pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice"),
    pytest.mark.filterwarnings("ignore:.*there is no validation loader"),
]
QUIET: dict[str, Any] = {
    **kit.QUIET, "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 1, "limit_test_batches": 1,
    "num_sanity_val_steps": 0,
}  # fmt: skip
PLACES = [
    "core.model_saving:ModelIO", "core.saving:ModelIO", "core.hooks:ModelHooks", "core.grads:GradInformation",
    "core.lightning:data_loader", "core:data_loader", "root_module.model_saving:ModelIO", "root_module.hooks:ModelHooks",
    "root_module.grads:GradInformation", "callbacks.pt_callbacks:ModelCheckpoint", "profiler.profiler:Profiler",
    "profiler.profilers:SimpleProfiler",
    "profiler:Profiler", "profiler:SimpleProfiler", "profiler:AdvancedProfiler", "profiler:BaseProfiler",
    "utilities.debugging:MisconfigurationException", "utilities.distributed:rank_zero_only",
    "utilities.apply_func:apply_to_collection", "utilities.apply_func:move_data_to_device",
    "utilities.model_helpers:is_overridden", "loggers:LightningLoggerBase", "loggers:LoggerCollection",
    "loggers:rank_zero_only", "loggers.base:LightningLoggerBase", "loggers.base:rank_zero_only",
    "loggers.base:LoggerCollection", "callbacks.base:Callback", "core.decorators:data_loader",
    "core.root_module:LightningModule", "core.memory:ModelSummary", "root_module.root_module:LightningModule",
    "root_module.decorators:data_loader", "root_module.memory:ModelSummary", "logging:TensorBoardLogger",
    "logging:LightningLoggerBase", "logging.comet:CometLogger", "logging.comet_logger:CometLogger", "logging.mlflow:MLFlowLogger",
    "logging.mlflow_logger:MLFlowLogger", "logging.neptune:NeptuneLogger", "logging.wandb:WandbLogger",
    "logging.test_tube_logger:TestTubeLogger", "overrides.override_data_parallel:LightningDataParallel",
    "pt_overrides.override_data_parallel:LightningDistributedDataParallel",
    "core.lightning:load_hparams_from_tags_csv", "utilities.device_dtype_mixin:DeviceDtypeModuleMixin",
    "core.mixins:DeviceDtypeModuleMixin", "trainer.connectors.data_connector:_DataConnector",
    "trainer.connectors.logger_connector.result:_ResultCollection", "trainer.data_loading:TrainerDataLoadingMixin",
    "trainer.call:_call_callback_hooks", "loops.fetchers:_PrefetchDataFetcher", "utilities.fetching:DataFetcher",
    "strategies.launchers:_Launcher", "tuner.auto_gpu_select:pick_multiple_gpus",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_name_is_where_it_was(place: str) -> None:
    module, name = place.split(":")
    assert getattr(importlib.import_module(f"leyden.{module}"), name) is not None


class Own(Logger):
    """As the documents of 0.7.1 told to write one."""

    name, version = "own", 3  # type: ignore[assignment]  # class attributes stand for the base's properties

    def __init__(self, folder: str = "here") -> None:
        super().__init__()
        self.save_dir = folder  # type: ignore[assignment,method-assign,misc,unused-ignore]
        self.rows: list[Any] = []
        self.saved: list[int] = []
        self.closed = False

    @property
    def experiment(self) -> Any:
        return self.rows

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def save(self) -> None:
        self.saved.append(len(self.rows))

    def close(self) -> None:
        super().close()
        self.closed = True


def test_a_logger_of_one_s_own_is_saved_after_each_row() -> None:
    class Logged(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.step(batch)
            return {"loss": loss, "log": {"x": loss}}

    logger = Own()
    Trainer(**{**QUIET, "logger": logger, "log_every_n_steps": 1}).fit(Logged())
    assert logger.rows
    assert set(range(1, len(logger.rows) + 1)) <= set(logger.saved)
    assert (logger.save_dir, logger.rank) == ("here", 0)


def test_several_loggers_as_one() -> None:
    first, second = Own("a"), Own("b")
    both = LoggerCollection([first, second])
    both.log_metrics({"x": 1})
    both.close()
    assert both[0] is first
    assert both.experiment == [first.rows, second.rows] == [[{"x": 1}]] * 2
    assert (both.name, both.version, both.save_dir, len(both)) == ("own_own", "3_3", "a", 2)
    assert first.closed
    assert second.closed


def test_one_of_several_loggers_is_not_counted_off_the_first() -> None:
    for loggers in ([CSVLogger("a"), CSVLogger("b")], [Own("a"), Own("b")]):
        trainer = Trainer(**{**QUIET, "logger": loggers})
        with pytest.raises(UnknownName, match=r"Write trainer\.loggers\[1\]\."):
            trainer.logger[1]  # type: ignore[index,unused-ignore]
        assert trainer.loggers[1] is loggers[1]


def test_meta_tags_are_written_and_read(own_folder: Path) -> None:
    class Tagged(BoringModel):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams

    trainer = Trainer(**{**QUIET, "logger": TensorBoardLogger("logs", name="")})
    trainer.fit(Tagged(Namespace(a=1, b="x")))
    tags = Path(str(trainer.log_dir)) / TensorBoardLogger.NAME_CSV_TAGS
    assert tags.read_text().splitlines() == ["key,value", "a,1", "b,x"]
    trainer.save_checkpoint("a.ckpt")
    Path("tags.csv").write_text("key,value\na,7\nb,yy\nc,0.5\nd,True\n")
    meant = Namespace(a=7, b="yy", c=0.5, d=True, on_gpu=False)
    assert load_hparams_from_tags_csv("tags.csv") == meant
    assert Tagged.load_from_checkpoint("a.ckpt", tags_csv="tags.csv").hparams == meant
    assert Tagged.load_from_metrics(weights_path="a.ckpt", tags_csv="tags.csv").hparams == meant


def test_a_root_folder_ends_without_a_slash(own_folder: Path) -> None:
    assert not TensorBoardLogger("logs", name="").root_dir.endswith("/")
    assert CSVLogger("logs", name="").root_dir == TensorBoardLogger("logs", name="").root_dir


def test_smaller_names(own_folder: Path) -> None:
    checkpoint, stopping = ModelCheckpoint(dirpath="ck", monitor="x", save_top_k=1), EarlyStopping("x")

    class Logged(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("x", 2.0)
            return self.step(batch)

    options = {name: value for name, value in QUIET.items() if name != "enable_checkpointing"}
    profiler = Profiler()
    Trainer(**options, callbacks=[checkpoint, stopping], profiler=profiler).fit(Logged())
    assert float(checkpoint.best) == 2.0  # type: ignore[arg-type]  # a file was written
    assert checkpoint.kth_best_model == checkpoint.best_model_path
    assert stopping.wait == 0
    assert len(profiler.recorded_durations["run_training_batch"]) == 3


@pytest.mark.parametrize("given", [(), ("--size", "7", "--shuffle", "true")])
def test_a_datamodule_takes_its_options_from_the_command_line(given: tuple[str, ...]) -> None:
    class Data(leyden.LightningDataModule):
        def __init__(self, size: int = 3, shuffle: bool = False, name: str = "x") -> None:
            super().__init__()
            self.given = size, shuffle, name

    parser = Data.add_argparse_args(ArgumentParser())
    parser.add_argument("--other", default=1)
    made = Data.from_argparse_args(parser.parse_args(given), name="y")
    assert made.given == ((7, True, "y") if given else (3, False, "y"))


def test_arguments_of_the_hooks_of_1_x() -> None:
    seen: list[Any] = []

    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.step(batch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}]

        def on_before_optimizer_step(self, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            seen.append(("before", optimizer_idx))

        def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:  # type: ignore[override]
            seen.append(("schedule", optimizer_idx, metric))
            scheduler.step()

        def configure_gradient_clipping(  # type: ignore[override]
            self, optimizer: Any, optimizer_idx: int, gradient_clip_val: Any, gradient_clip_algorithm: Any
        ) -> None:
            seen.append(("clip", optimizer_idx, gradient_clip_val))

        def optimizer_step(  # type: ignore[override]
            self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int, optimizer_closure: Any,
            on_tpu: bool, using_native_amp: bool, using_lbfgs: bool,
        ) -> None:  # fmt: skip
            flags = {"on_tpu": on_tpu, "using_native_amp": using_native_amp, "using_lbfgs": using_lbfgs}
            if batch_idx:
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, *flags.values())
            else:
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure=optimizer_closure, **flags)

    class Watching(leyden.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any, opt_idx: int) -> None:  # type: ignore[override]
            seen.append(("callback", opt_idx))

        def on_validation_batch_start(  # type: ignore[override]
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
        ) -> None:
            seen.append(("validates", dataloader_idx))

    options = {**QUIET, "limit_train_batches": 2}
    trainer = Trainer(**options, gradient_clip_val=0.5, callbacks=[Watching()])
    trainer.fit(Module(), random_batches(2), random_batches(1))
    batch = [("callback", 0), ("before", 0), ("clip", 0, 0.5), ("schedule", 0, None)]
    assert seen == [*batch, *batch, ("validates", 0)]
    assert trainer.global_step == 2


def test_a_datamodules_transforms_and_dims() -> None:
    class Data(leyden.LightningDataModule):
        def __init__(self, size: int = 3) -> None:
            super().__init__(train_transforms=len, dims=(1, 28, 28))
            self.save_hyperparameters()

    class Method(leyden.LightningDataModule):
        def train_transforms(self) -> str:
            return "a method of its author's"

    data = Data()
    assert (data.train_transforms, data.val_transforms) == (len, None)
    assert (data.dims, data.size(), data.size(1)) == ((1, 28, 28), (1, 28, 28), 28)
    assert dict(data.hparams) == {"size": 3}
    assert Method().train_transforms() == "a method of its author's"
    with pytest.raises(UnknownName, match="train_transforms"):
        leyden.LightningDataModule(train_transform=len)  # type: ignore[call-arg]


def test_what_is_logged_and_returned_counts_once() -> None:
    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.step(batch)
            self.log("own", 1.0)
            return {"loss": loss, "log": {"own": 2.0, "returned": float(batch_idx)}}

        def training_epoch_end(self, outputs: Any) -> Any:
            self.log("late", 3.0, prog_bar=True)
            return {"late": 4.0, "own": 5.0, "log": {"returned": 6.0}}

    trainer = Trainer(**{**QUIET, "limit_train_batches": 2})
    trainer.fit(Module(), random_batches(2))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in ("loss", "x")}
    assert metrics == {"own": 1.0, "returned": 6.0, "late": 3.0}


def test_default_attributes_are_all_old_arguments() -> None:
    defaults = Trainer.default_attributes()
    for name in ("gpus", "max_nb_epochs", "train_percent_check", "reload_dataloaders_every_epoch", "amp_level"):
        assert name in defaults
    Trainer(**{**defaults, "max_epochs": 1})


def test_the_first_argument_of_a_checkpoint_callback_was_a_pattern(tmp_path: Path) -> None:
    assert ModelCheckpoint(tmp_path / "{epoch}-{val_loss:.2f}").filename == "{epoch}-{val_loss:.2f}"
    assert ModelCheckpoint(str(tmp_path / "ck")).filename is None


def test_a_loggers_name_and_version_may_be_set() -> None:
    class Mine(leyden.loggers.LightningLoggerBase):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.name, self.version = "mine", 3

        def log_metrics(self, metrics: Any, step: Any) -> None: ...

        def log_hyperparams(self, params: Any) -> None: ...

    trainer = Trainer(**{**QUIET, "logger": Mine()})
    trainer.fit(BoringModel(), random_batches(1))
    assert (trainer.logger.name, trainer.logger.version) == ("mine", 3)  # type: ignore[union-attr]  # there is one


def test_the_other_rank_zero_only_is_told_the_rank() -> None:
    program = """
        import os, sys
        os.environ["RANK"] = "2"
        import leyden
        assert "lightning_utilities" not in sys.modules
        from lightning_utilities.core.rank_zero import rank_zero_only
        print(rank_zero_only.rank, rank_zero_only(lambda: 1)())
        from leyden.utilities.rank_zero import rank_zero_only as ours
        ours.rank = 0
        print(rank_zero_only.rank, rank_zero_only(lambda: 1)())
    """
    pytest.importorskip("lightning_utilities")
    assert kit.in_a_fresh_process(program).splitlines() == ["2 None", "0 1"]


def test_a_plain_module_says_where_it_is() -> None:
    mixin = importlib.import_module("leyden.core.mixins").DeviceDtypeModuleMixin

    class Layer(mixin, torch.nn.Linear):  # type: ignore[misc, valid-type]  # found by its name
        pass

    layer = Layer(1, 1).double()
    assert (layer.device, layer.dtype) == (torch.device("cpu"), torch.float64)
    assert (mixin().device, mixin().dtype) == (torch.device("cpu"), torch.float32)
    assert isinstance(BoringModel(), mixin)


def test_what_stands_on_a_command_line() -> None:
    parse = importlib.import_module("leyden.utilities.argparse").parse_argparser
    given = Namespace(max_epochs=3)
    assert parse(Trainer, given) is given


def test_what_a_class_takes_and_what_the_environment_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net:
        def __init__(self, width: int, names: str | None = None, rate=0.5) -> None:  # type: ignore[no-untyped-def]
            pass

    Net.__init__.__annotations__.update(width=int, names=str | None)  # as where annotations are no strings
    tools = importlib.import_module("leyden.utilities.argparse")
    empty = inspect.Parameter.empty
    assert tools.get_init_arguments_and_types(Net) == [
        ("width", (int,), empty),
        ("names", (str, type(None)), None),
        ("rate", (empty,), 0.5),
    ]
    assert ("max_epochs", (int, type(None)), None) in tools.get_init_arguments_and_types(Trainer)
    for variable, word in {
        "PL_NET_WIDTH": "42",
        "PL_NET_NAMES": "a",
        "PL_NET_DEPTH": "3",
        "PL_NET_RATE": "",
        "N_WIDTH": "7",
    }.items():
        monkeypatch.setenv(variable, word)
    assert tools.parse_env_variables(Net) == Namespace(width=42, names="a")
    assert tools.parse_env_variables(Net, template="N_%(cls_argument)s") == Namespace(width=7)


def test_no_cuda_device_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = importlib.import_module("leyden.tuner.auto_gpu_select")
    monkeypatch.setattr("leyden.classic.tools.find_usable_cuda_devices", lambda number: [0, 1][: number if number > 0 else None])
    assert tools.pick_multiple_gpus(1) == [0]
    assert tools.pick_single_gpu(exclude_gpus=[0]) == 1
    with pytest.raises(DeviceUnavailable, match=r"beside those that were excluded: \[0, 1\]"):
        tools.pick_single_gpu(exclude_gpus=[0, 1])


def test_functions_for_old_hooks() -> None:
    told: list[str] = []
    callback = LambdaCallback(on_epoch_end=lambda *_: told.append("epoch"), on_init_end=lambda *_: told.append("init"))
    Trainer(**QUIET, callbacks=[callback]).fit(BoringModel())
    assert told == ["init", "epoch"]


def test_a_progress_bar_with_a_rate_draws() -> None:
    for bar in (ProgressBar(5), ProgressBar(refresh_rate=5)):
        assert type(bar) is TQDMProgressBar
        assert bar.refresh_rate == 5

    class Own(ProgressBar):
        def __init__(self) -> None:
            super().__init__(refresh_rate=5)

    with pytest.raises(UnknownName, match=r"class Own\(TQDMProgressBar\)"):
        Own()


def test_a_logger_that_would_aggregate() -> None:
    class Aggregating(Own):
        def __init__(self) -> None:
            super(Own, self).__init__(agg_key_funcs={"loss": max}, agg_default_func=sum)

    assert Aggregating().version is not None
    with pytest.raises(TypeError, match="takes exactly one argument"):
        super(Own, Aggregating()).__init__(anything=1)


def test_a_logger_that_gives_its_base_class_something_by_place() -> None:
    class Screen(leyden.loggers.LightningLoggerBase):  # type: ignore[name-defined,misc]
        name = "screen"
        version = 0

        def __init__(self) -> None:
            super().__init__(self)

        def log_metrics(self, metrics: Any, step: Any = None) -> None: ...
        def log_hyperparams(self, params: Any) -> None: ...

    class Sized:
        def __init__(self, size: int) -> None:
            self.size = size

    class Beside(leyden.loggers.LightningLoggerBase, Sized):  # type: ignore[name-defined,misc]
        name = "beside"
        version = 0

        def log_metrics(self, metrics: Any, step: Any = None) -> None: ...
        def log_hyperparams(self, params: Any) -> None: ...

    assert Screen().name == "screen"
    assert Beside(3).size == 3
    with pytest.raises(TypeError, match="takes exactly one argument"):
        super(Screen, Screen()).__init__(1, 2, 3)
