"""What programs of 0.7.1 ask beside steps and optimizers: flags, options, monitors, hyper-parameters, names."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor

import leyden
from leyden import Trainer
from leyden.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from leyden.errors import ConflictingOptions, MissingMonitor, NonFiniteLoss, UnknownName, Unsupported
from leyden.notices import waiting
from leyden.testing import BoringModel, Recorder, random_batches

pytestmark = [
    pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice"),
    pytest.mark.filterwarnings("ignore:.*there is no validation loader"),
]
QUIET: dict[str, Any] = {
    **kit.QUIET, "max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 1,
    "num_sanity_val_steps": 0,
}  # fmt: skip
FLAGS = ("use_dp", "use_ddp", "use_ddp2", "use_tpu", "use_amp", "single_gpu")


def without_checkpointing() -> dict[str, Any]:
    return {name: value for name, value in QUIET.items() if name != "enable_checkpointing"}


class Rising(BoringModel):
    """Its validation loss is 1, 2, 3 ... over the epochs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.step(batch)
        return {"loss": loss, "acc": torch.tensor(float(batch_idx))}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"val_loss": torch.tensor(self.current_epoch + 1.0)}

    def validation_epoch_end(self, outputs: Any) -> Any:
        return {"val_loss": torch.stack([each["val_loss"] for each in outputs]).mean()}


# Flags


def test_flags_are_read_in_a_step_of_trainer_and_module() -> None:
    seen: list[Any] = []

    class Template(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.extend(getattr(self.trainer, name) for name in (*FLAGS, "data_parallel", "on_tpu"))
            seen.extend(getattr(self, name) for name in FLAGS)
            loss = self.step(batch)
            return {"loss": loss.unsqueeze(0) if self.trainer.use_dp else loss}

    Trainer(**QUIET).fit(Template())
    assert seen
    assert not any(seen)


def test_a_flag_of_the_module_is_its_author_s_to_set() -> None:
    module = BoringModel()
    assert module.use_amp is False
    module.use_amp = True  # type: ignore[assignment,method-assign,unused-ignore]  # an attribute of one's own
    Trainer(**QUIET).fit(module)
    assert module.use_amp is True


def test_fit_equals_1_where_training_ended_by_itself() -> None:
    class Interrupted(BoringModel):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    assert Trainer(**QUIET).fit(BoringModel()) == 1
    assert Trainer(**QUIET).fit(BoringModel()) != 0
    assert Trainer(**QUIET).fit(Interrupted()) == 0


# Processes


@pytest.mark.parametrize("gpus", [{}, {"gpus": None}, {"gpus": 0}])
@pytest.mark.parametrize("backend", ["dp", "ddp", "ddp2"])
def test_a_backend_without_gpus_is_this_process(backend: str, gpus: dict[str, Any]) -> None:
    trainer = Trainer(distributed_backend=backend, **gpus, **{**QUIET, "accelerator": "auto"})
    trainer.fit(BoringModel())
    assert (trainer.use_dp, trainer.use_ddp, trainer.num_gpus, trainer.root_gpu) == (False, False, 0, None)
    assert trainer.data_parallel_device_ids is None
    assert trainer.world_size == 1


@pytest.mark.parametrize("gpus", [{}, {"gpus": None}, {"gpus": 0}])
@pytest.mark.parametrize("backend", ["ddp", "ddp_cpu"])
def test_a_number_of_processes_of_the_cpu(backend: str, gpus: dict[str, Any]) -> None:
    trainer = Trainer(distributed_backend=backend, num_processes=2, **gpus, **{**QUIET, "accelerator": "auto"})
    assert (trainer.world_size, trainer.num_gpus, str(trainer.strategy.root_device)) == (2, 0, "cpu")


def test_a_backend_for_several_processes_stays_an_error() -> None:
    with pytest.raises(Unsupported, match="distributed_backend='ddp'"):
        Trainer(distributed_backend="dp", num_processes=2)


# What is monitored


@pytest.mark.parametrize(("top", "kept"), [(1, {0}), (2, {0, 1}), (4, {0, 1, 2})])
def test_a_checkpoint_callback_without_a_monitor_watches_the_validation_loss(top: int, kept: set[int], own_folder: Path) -> None:
    callback = ModelCheckpoint(dirpath="ck", filename="{epoch}", save_top_k=top)
    Trainer(**{**without_checkpointing(), "max_epochs": 3}, checkpoint_callback=callback).fit(Rising())
    assert {file.name for file in Path("ck").iterdir()} == {f"epoch={number}.ckpt" for number in kept}


def test_each_validation_of_an_epoch_counts(own_folder: Path) -> None:
    callback = ModelCheckpoint(dirpath="ck", save_top_k=4)
    Trainer(**without_checkpointing(), checkpoint_callback=callback, val_check_interval=0.25).fit(Rising())
    assert len(list(Path("ck").iterdir())) == 4


def test_among_callbacks_several_files_need_a_monitor_still() -> None:
    with pytest.raises(ConflictingOptions, match="save_top_k=2"):
        Trainer(**without_checkpointing(), callbacks=[ModelCheckpoint(save_top_k=2)]).fit(Rising())


def test_what_the_training_step_returns_can_be_monitored(own_folder: Path) -> None:
    best, stop = ModelCheckpoint(dirpath="ck", monitor="acc", mode="max"), EarlyStopping("loss", patience=9)
    trainer = Trainer(**without_checkpointing(), callbacks=[best, stop])
    trainer.fit(Rising())
    assert float(best.best_model_score) == 3.0  # type: ignore[arg-type]  # a file was written
    assert float(trainer.callback_metrics["loss"]) == float(stop.best_score)


def test_what_is_returned_is_kept_as_it_was_then() -> None:
    class Reuses(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.step(batch), "acc": self.acc.fill_(batch_idx)}

        def on_train_epoch_end(self) -> None:
            self.acc.fill_(-1)

    module, trainer = Reuses(), Trainer(**QUIET)
    module.register_buffer("acc", torch.zeros(()))
    trainer.fit(module)
    assert float(trainer.callback_metrics["acc"]) == trainer.num_training_batches - 1


def test_a_name_that_the_module_logs_is_not_taken_from_what_it_returns() -> None:
    class Both(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("acc", float(batch_idx), on_step=False, on_epoch=True)
            return {"loss": self.step(batch), "acc": 99.0}

    trainer = Trainer(**QUIET)
    trainer.fit(Both())
    assert float(trainer.callback_metrics["acc"]) == 1.5


@pytest.mark.parametrize("sanity", [0, 1])
def test_a_module_that_logs_itself_has_nothing_else_among_its_metrics(sanity: int) -> None:
    class Today(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", 1.0)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.step(batch)}

    shown: list[set[str]] = []
    look = Recorder(on_sanity_check_end=lambda run, module: shown.append(set(run.callback_metrics)))
    trainer = Trainer(**{**QUIET, "num_sanity_val_steps": sanity}, callbacks=[look])
    trainer.fit(Today())
    assert shown == [{"val"}] * sanity  # gone when training begins
    assert set(trainer.callback_metrics) == {"val"}
    assert trainer.progress_bar_metrics == {}
    assert "loss" in TQDMProgressBar().get_metrics(trainer, trainer.lightning_module)


def plateau(metric: str | None) -> type[BoringModel]:
    class Plateau(Rising):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 1e-3)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return [optimizer], [scheduler if metric is None else {"scheduler": scheduler, "monitor": metric}]

    return Plateau


def test_a_plateau_without_a_monitor_watches_val_loss() -> None:
    trainer = Trainer(**{**QUIET, "max_epochs": 3})
    trainer.fit(plateau(None)())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-5)
    assert trainer.lr_schedulers[0]["monitor"] == "val_loss"


@pytest.mark.filterwarnings("ignore:.*no `validation_step`")
def test_a_plateau_without_a_val_loss_is_an_error_that_names_it() -> None:
    class NoVal(plateau(None)):  # type: ignore[misc]  # made by a function
        validation_step = leyden.LightningModule.validation_step

    with pytest.raises(MissingMonitor, match="'val_loss'"):
        Trainer(**QUIET).fit(NoVal())


def test_schedulers_are_listed_as_dicts() -> None:
    class Stepped(BoringModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    trainer = Trainer(**QUIET)
    trainer.fit(Stepped())
    (listed,) = trainer.lr_schedulers
    assert {**listed, "scheduler": None} == {
        "scheduler": None, "interval": "epoch", "frequency": 1, "reduce_on_plateau": False, "monitor": "val_loss",
    }  # fmt: skip
    assert listed["scheduler"] is trainer.lr_scheduler_configs[0].scheduler


# Callbacks' arguments


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ({"filepath": "ck/{epoch}-{val_loss:.1f}", "monitor": "val_loss"}, {"epoch=0-val_loss=1.0.ckpt"}),
        ({"filepath": "ck/", "monitor": "val_loss"}, {"epoch=0.ckpt"}),
        ({"filepath": "ck/x", "prefix": "lit_", "monitor": "val_loss"}, {"lit_x.ckpt"}),
        ({"dirpath": "ck", "filename": "{epoch}", "period": 2, "save_best_only": False}, {"epoch=1.ckpt", "epoch=3.ckpt"}),
        ({"dirpath": "ck", "filename": "{epoch}", "save_best_only": True, "monitor": "val_loss"}, {"epoch=0.ckpt"}),
        ({"dirpath": "ck", "filename": "{epoch}", "monitor": "val_loss", "mode": "auto", "save_top_k": True}, {"epoch=0.ckpt"}),
        ({"dirpath": "ck", "filename": "{epoch}", "monitor": "val_acc", "mode": "auto"}, {"epoch=3.ckpt"}),
    ],
)
def test_old_arguments_of_model_checkpoint(given: dict[str, Any], files: set[str], own_folder: Path) -> None:
    class Accurate(Rising):
        def validation_epoch_end(self, outputs: Any) -> Any:
            return {**super().validation_epoch_end(outputs), "val_acc": float(self.current_epoch)}

    callback = ModelCheckpoint(**given)
    Trainer(**{**without_checkpointing(), "max_epochs": 4}, callbacks=[callback]).fit(Accurate())
    assert {file.name for file in Path("ck").iterdir()} == files


def test_arguments_of_model_checkpoint_that_nobody_had() -> None:
    with pytest.raises(UnknownName, match=r"'file_path'.*Did you mean 'filepath'"):
        ModelCheckpoint(file_path="x")
    with pytest.raises(ConflictingOptions, match="Leave filepath out"):
        ModelCheckpoint(filepath="x/y", dirpath="x")
    with pytest.raises(ConflictingOptions, match="Leave period out"):
        ModelCheckpoint(period=1, every_n_epochs=1)


@pytest.mark.parametrize(("monitor", "mode"), [("val_acc", "max"), ("val_loss", "min"), ("f", "min")])
def test_the_mode_of_early_stopping_goes_by_the_name(monitor: str, mode: str) -> None:
    assert EarlyStopping(monitor, mode="auto").mode == mode


# Hyper-parameters


@pytest.mark.parametrize("given", [Namespace(lr=0.1, layers=[1, 2]), {"lr": 0.1, "layers": [1, 2]}])
def test_what_is_assigned_to_hparams_stays_itself(given: Any, own_folder: Path) -> None:
    logged: list[Any] = []

    class Hparams(BoringModel):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams

    class Own(leyden.loggers.Logger):
        name, version = "own", 0  # type: ignore[assignment]

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            pass

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            logged.append(params)

    module = Hparams(given)
    assert module.hparams is given
    trainer = Trainer(**{**QUIET, "logger": Own()})
    trainer.fit(module)
    assert logged[0] is given
    if isinstance(given, Namespace):
        assert vars(module.hparams) == {"lr": 0.1, "layers": [1, 2]}
    trainer.save_checkpoint("a.ckpt")
    kept = torch.load("a.ckpt", weights_only=False)
    assert kept["hparams"] == {"lr": 0.1, "layers": [1, 2]}
    assert kept["hparams_type"] == type(given).__name__.lower()
    assert Hparams.load_from_checkpoint("a.ckpt").hparams == given
    assert type(Hparams.load_from_checkpoint("a.ckpt").hparams) is type(given)


# Hooks


def test_the_names_before_0_7_act_and_win() -> None:
    seen: list[str] = []

    class Older(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {"x": self.step(batch)}

        def test_step(self, batch: Any, batch_idx: int) -> Any:
            return {"x": self.step(batch)}

        def validation_end(self, outputs: Any) -> Any:
            seen.append("validation_end")
            return {"val_loss": 7.0}

        def validation_epoch_end(self, outputs: Any) -> Any:
            raise AssertionError("validation_end counts")

        def training_end(self, output: Any) -> Any:
            return {"loss": output["loss"] * 0 + 3.0}

    module = Older()
    module.test_end = lambda outputs: {"test_x": 8.0}  # type: ignore[assignment]  # on the instance
    trainer = Trainer(**QUIET)
    trainer.fit(module)
    assert seen == ["validation_end"]
    assert float(trainer.callback_metrics["val_loss"]) == 7.0
    assert float(trainer.callback_metrics["loss"]) == 3.0
    assert trainer.test(module, verbose=False)[0]["test_x"] == 8.0


def test_old_hooks_call_their_base_s() -> None:
    seen: list[str] = []

    class Module(BoringModel):
        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            seen.append("module epoch")

        def on_batch_start(self, batch: Any) -> None:
            super().on_batch_start(batch)

        def on_pre_performance_check(self) -> None:
            super().on_pre_performance_check()
            seen.append("check")

    class Watching(leyden.Callback):
        def on_init_end(self, trainer: Any) -> None:
            super().on_init_end(trainer)
            seen.append("init")

        def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_epoch_end(trainer, pl_module)
            seen.append("callback epoch")

    class Stopping(EarlyStopping):
        def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_epoch_end(trainer, pl_module)
            seen.append("stopping epoch")

    trainer = Trainer(**QUIET, callbacks=[Watching(), Stopping("x", strict=False)])
    trainer.fit(Module())
    trainer.test(verbose=False)
    assert seen == ["init", "check", "callback epoch", "stopping epoch", "module epoch", "check"]


def test_nobody_is_told_of_hooks_that_nobody_wrote() -> None:
    Trainer(**QUIET, callbacks=[EarlyStopping("x", strict=False)]).fit(BoringModel())
    assert not waiting


# What was given, and what is shown


@pytest.mark.parametrize(
    ("given", "attribute"),
    [
        ({"train_percent_check": 0.5}, 0.5),
        ({"val_percent_check": 0.25}, 0.25),
        ({"test_percent_check": 0.25}, 0.25),
        ({"overfit_pct": 0.5}, 0.5),
        ({"row_log_interval": 7}, 7),
        ({"log_save_interval": 9}, 9),
        ({"show_progress_bar": False}, False),
        ({"progress_bar_refresh_rate": 3}, 3),
        ({"weights_summary": "top"}, "top"),
        ({"distributed_backend": None}, None),
        ({"amp_level": "O1"}, "O1"),
        ({"track_grad_norm": 2}, 2),
        ({"print_nan_grads": True}, True),
        ({"gradient_clip": 0.5}, 0.5),
        ({"nb_gpu_nodes": 1}, 1),
        ({"max_nb_epochs": 3}, 3),
        ({"min_nb_epochs": 2}, 2),
        ({"nb_sanity_val_steps": 4}, 4),
        ({"truncated_bptt_steps": 4}, 4),
        ({"reload_dataloaders_every_epoch": True}, True),
        ({"benchmark": True}, True),
    ],
)
def test_constructor_arguments_stay_readable(given: dict[str, Any], attribute: Any) -> None:
    (name,) = given
    assert getattr(Trainer(accelerator="cpu", **given), name) == attribute


def test_the_bar_s_dict_holds_plain_numbers() -> None:
    seen: list[dict[str, Any]] = []

    class Bar(BoringModel):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(self.trainer.training_tqdm_dict)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.step(batch)
            return {"loss": loss, "progress_bar": {"mine": loss * 2}}

        def test_epoch_end(self, outputs: Any) -> Any:
            return {"progress_bar": {"test_mine": 3.0}}

    trainer = Trainer(**QUIET)
    trainer.fit(Bar())
    assert all(isinstance(value, float) for value in seen[-1].values())
    assert seen[-1]["mine"] == pytest.approx(2 * seen[-1]["loss"])
    trainer.test(verbose=False)
    assert trainer.training_tqdm_dict["test_mine"] == 3.0
    assert isinstance(trainer.running_loss.mean(), Tensor)


def test_a_loss_of_manual_optimization_that_is_appended_is_shown_and_checked() -> None:
    class Manual(BoringModel):
        wrong = 1.0

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.trainer.fit_loop.running_loss.append(torch.tensor([batch_idx + 2.0]) * self.wrong)

    module, trainer = Manual(), Trainer(**QUIET)
    trainer.fit(module)
    running = trainer.fit_loop.running_loss
    assert (float(running.last()), trainer.training_tqdm_dict["loss"]) == (trainer.num_training_batches + 1.0,) * 2
    module.wrong = float("nan")
    with pytest.raises(NonFiniteLoss):
        Trainer(**QUIET).fit(module)


def test_a_loader_is_given_to_fit_by_position() -> None:
    assert Trainer(**QUIET).fit(BoringModel(), random_batches(2)) == 1
