"""The Trainer's arguments of older Lightnings: what each value means, what conflicts, what is refused, and the notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

from leyden import Trainer
from leyden.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from leyden.classic.arguments import TRAINER
from leyden.errors import (
    ConflictingOptions,
    DeviceUnavailable,
    InvalidOption,
    InvalidType,
    LegacyNotice,
    UnknownName,
    Unsupported,
)
from leyden.loggers import TensorBoardLogger
from leyden.notices import waiting
from leyden.testing import BoringModel, random_batches

quiet = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")


def of_kind(trainer: Trainer, kind: type) -> Any:
    found = [callback for callback in trainer.callbacks if type(callback).__name__ == kind.__name__]
    assert len(found) <= 1
    return found[0] if found else None


MEANINGS: list[tuple[dict[str, Any], Callable[[Trainer], Any], Any]] = [
    # old arguments, what to look at, what is to be seen there
    ({"gpus": 0}, lambda t: t.strategy.root_device.type, "cpu"),
    ({"gpus": None}, lambda t: t.strategy.root_device.type, "cpu"),
    ({"gpus": []}, lambda t: t.strategy.root_device.type, "cpu"),
    ({"gpus": ""}, lambda t: t.strategy.root_device.type, "cpu"),
    ({"gpus": 0, "accelerator": "cpu"}, lambda t: t.num_devices, 1),
    ({"gpus": None, "accelerator": "cpu", "devices": 1}, lambda t: t.num_devices, 1),
    ({"resume_from_checkpoint": "some.ckpt"}, lambda t: t.leyden_classic.resume_from, "some.ckpt"),
    ({"resume_from_checkpoint": None}, lambda t: t.leyden_classic.resume_from, None),
    ({"checkpoint_callback": True}, lambda t: len(t.checkpoint_callbacks), 1),
    ({"checkpoint_callback": False}, lambda t: t.checkpoint_callbacks, []),
    ({"checkpoint_callback": None}, lambda t: t.checkpoint_callbacks, []),
    ({"checkpoint_callback": ModelCheckpoint(monitor="val_acc", mode="max")}, lambda t: t.checkpoint_callback.monitor, "val_acc"),
    ({"early_stop_callback": True}, lambda t: t.early_stopping_callback.monitor, "val_loss"),
    ({"early_stop_callback": True}, lambda t: t.early_stopping_callback.patience, 3),
    ({"early_stop_callback": True}, lambda t: t.early_stopping_callback.mode, "min"),
    ({"early_stop_callback": False}, lambda t: t.early_stopping_callbacks, []),
    ({"early_stop_callback": None}, lambda t: t.early_stopping_callbacks, []),
    ({"early_stop_callback": EarlyStopping("acc", patience=7)}, lambda t: t.early_stopping_callback.patience, 7),
    ({"default_save_path": "here"}, lambda t: Path(t.default_root_dir).name, "here"),
    ({"default_save_path": None}, lambda t: t.default_root_dir, "<cwd>"),
    ({"gradient_clip": 0.5}, lambda t: t.gradient_clip_val, 0.5),
    ({"process_position": 2}, lambda t: of_kind(t, TQDMProgressBar).process_position, 2),
    ({"process_position": 0}, lambda t: of_kind(t, TQDMProgressBar), None),
    ({"process_position": 2, "progress_bar_refresh_rate": 5}, lambda t: of_kind(t, TQDMProgressBar).refresh_rate, 5),
    ({"process_position": 2, "progress_bar_refresh_rate": 5}, lambda t: of_kind(t, TQDMProgressBar).process_position, 2),
    ({"process_position": 2, "show_progress_bar": False}, lambda t: t.progress_bar_callback, None),
    ({"nb_gpu_nodes": 1}, lambda t: t.num_nodes, 1),
    ({"num_tpu_cores": None}, lambda t: t.strategy.root_device.type, "<any>"),
    ({"tpu_cores": 0}, lambda t: t.strategy.root_device.type, "<any>"),
    ({"log_gpu_memory": None}, lambda t: t.num_nodes, 1),
    ({"show_progress_bar": False}, lambda t: t.progress_bar_callback, None),
    ({"show_progress_bar": True}, lambda t: t.progress_bar_callback is not None, True),
    ({"progress_bar_refresh_rate": 0}, lambda t: t.progress_bar_callback, None),
    ({"progress_bar_refresh_rate": 7}, lambda t: of_kind(t, RichProgressBar).refresh_rate, 7),
    ({"progress_bar_refresh_rate": 7, "show_progress_bar": False}, lambda t: t.progress_bar_callback, None),
    ({"progress_bar_refresh_rate": None}, lambda t: t.progress_bar_callback is not None, True),
    ({"overfit_pct": 0.25}, lambda t: t.overfit_batches, 0.25),
    ({"overfit_pct": 0}, lambda t: t.overfit_batches, 0.0),
    ({"track_grad_norm": -1}, lambda t: [type(c).__name__ for c in t.callbacks].count("GradNorms"), 0),
    ({"track_grad_norm": 2}, lambda t: [c.norm_type for c in t.callbacks if type(c).__name__ == "GradNorms"], [2]),
    ({"track_grad_norm": "inf"}, lambda t: [c.norm_type for c in t.callbacks if type(c).__name__ == "GradNorms"], ["inf"]),
    ({"max_nb_epochs": 4}, lambda t: t.max_epochs, 4),
    ({"max_nb_epochs": None}, lambda t: t.max_epochs, 1000),
    ({"max_nb_epochs": 4, "max_epochs": 4}, lambda t: t.max_epochs, 4),
    ({"min_nb_epochs": 2}, lambda t: t.min_epochs, 2),
    ({"train_percent_check": 0.5}, lambda t: t.limit_train_batches, 0.5),
    ({"train_percent_check": 1}, lambda t: t.limit_train_batches, 1.0),
    ({"val_percent_check": 0.5}, lambda t: t.limit_val_batches, 0.5),
    ({"test_percent_check": 0.0}, lambda t: t.limit_test_batches, 0.0),
    ({"log_save_interval": 3}, lambda t: type(t.logger), TensorBoardLogger),
    ({"log_save_interval": 3, "logger": False}, lambda t: t.logger, None),
    ({"flush_logs_every_n_steps": 9}, lambda t: type(t.logger), TensorBoardLogger),
    ({"row_log_interval": 3}, lambda t: t.log_every_n_steps, 3),
    ({"add_row_log_interval": 3}, lambda t: t.log_every_n_steps, 3),
    ({"distributed_backend": None}, lambda t: type(t.strategy).__name__, "SingleDeviceStrategy"),
    ({"use_amp": False}, lambda t: t.precision, "32-true"),
    ({"print_nan_grads": True}, lambda t: [type(c).__name__ for c in t.callbacks].count("NanGrads"), 1),
    ({"print_nan_grads": False}, lambda t: [type(c).__name__ for c in t.callbacks].count("NanGrads"), 0),
    ({"weights_summary": None}, lambda t: of_kind(t, ModelSummary), None),
    ({"weights_summary": "top"}, lambda t: of_kind(t, ModelSummary)._max_depth, 1),
    ({"weights_summary": "full"}, lambda t: of_kind(t, ModelSummary)._max_depth, -1),
    ({"weights_save_path": "weights"}, lambda t: Path(t.checkpoint_callback.dirpath).name, "weights"),
    ({"weights_save_path": None}, lambda t: t.checkpoint_callback.dirpath, None),
    ({"weights_save_path": "weights", "checkpoint_callback": False}, lambda t: t.checkpoint_callback, None),
    ({"amp_level": "O1"}, lambda t: t.precision, "32-true"),
    ({"amp_backend": "native"}, lambda t: t.precision, "32-true"),
    ({"nb_sanity_val_steps": 3}, lambda t: t.num_sanity_val_steps, 3),
    ({"truncated_bptt_steps": None}, lambda t: t.num_nodes, 1),
    ({"reload_dataloaders_every_epoch": True}, lambda t: t.reload_dataloaders_every_n_epochs, 1),
    ({"reload_dataloaders_every_epoch": False}, lambda t: t.reload_dataloaders_every_n_epochs, 0),
    ({"replace_sampler_ddp": False}, lambda t: t.leyden_options.behaviour.distributed_sampler, False),
    ({"terminate_on_nan": False}, lambda t: t.leyden_options.optimization.check_finite, False),
    ({"terminate_on_nan": True}, lambda t: t.leyden_options.optimization.check_finite, True),
    ({"terminate_on_nan": None}, lambda t: t.leyden_options.optimization.check_finite, True),
    ({"num_processes": 1}, lambda t: t.num_devices, 1),
    ({"automatic_optimization": True}, lambda t: t.num_nodes, 1),
    ({"enable_pl_optimizer": True}, lambda t: t.num_nodes, 1),
    ({"prepare_data_per_node": True}, lambda t: t.num_nodes, 1),
    ({"auto_lr_find": False}, lambda t: t.num_nodes, 1),
    ({"auto_scale_batch_size": None}, lambda t: t.num_nodes, 1),
    ({"auto_lr_find": "rate"}, lambda t: of_kind(t, LearningRateFinder)._attr_name, "rate"),
    ({"auto_lr_find": True}, lambda t: t.auto_lr_find, True),
    ({"auto_scale_batch_size": "binsearch"}, lambda t: t.callbacks[0]._mode, "binsearch"),
    ({"auto_scale_batch_size": True}, lambda t: t.callbacks[0]._mode, "power"),
    ({"auto_select_gpus": False}, lambda t: t.num_nodes, 1),
    ({"ipus": None}, lambda t: t.num_nodes, 1),
    ({"stochastic_weight_avg": False}, lambda t: t.num_nodes, 1),
    ({"move_metrics_to_cpu": False}, lambda t: t.num_nodes, 1),
    ({"enable_pl_optimizer": False}, lambda t: t.num_nodes, 1),
    ({"prepare_data_per_node": False}, lambda t: t.num_nodes, 1),
    ({"auto_select_gpus": True}, lambda t: t.num_nodes, 1),
    ({"move_metrics_to_cpu": True}, lambda t: t.num_nodes, 1),
    ({"multiple_trainloader_mode": "max_size_cycle"}, lambda t: t.num_nodes, 1),
]  # fmt: skip


def named(case: tuple[dict[str, Any], Any, Any]) -> str:
    plain = int | str | float | None
    return ",".join(f"{name}={value if isinstance(value, plain) else type(value).__name__}" for name, value in case[0].items())


@quiet
@pytest.mark.parametrize("case", MEANINGS, ids=named)
def test_an_old_argument_means_what_it_meant(case: tuple[dict[str, Any], Callable[[Trainer], Any], Any]) -> None:
    old, look, expected = case
    seen = look(Trainer(**old))
    if expected == "<cwd>":
        expected = str(Path.cwd())
    assert expected == "<any>" or seen == expected


def test_every_old_argument_has_a_meaning_that_is_tested() -> None:
    assert {name for old, _, _ in MEANINGS for name in old} >= set(TRAINER)


@quiet
@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpus", [1, -1, 2, "0", "0, 1", [0], [1, 4], "-1"])
def test_gpus_without_a_gpu(gpus: Any) -> None:
    with pytest.raises(DeviceUnavailable, match=r"gpus=.*no GPU|gpus=.* GPU"):
        Trainer(gpus=gpus)


@quiet
def test_precision_16_of_2020_is_mixed_precision() -> None:
    assert Trainer(accelerator="cpu", precision=32).precision == "32-true"
    if not torch.cuda.is_available():
        return
    assert Trainer(gpus=1, precision=16).precision == "16-mixed"


WRONG = [
    ({"gpus": True}, InvalidType, "a number of GPUs"),
    ({"gpus": 1.5}, InvalidType, "a number of GPUs"),
    ({"gpus": "one"}, InvalidOption, "a number of GPUs"),
    ({"gpus": -2}, InvalidOption, "a number of GPUs"),
    ({"gpus": [0.5]}, InvalidType, "a number of GPUs"),
    ({"resume_from_checkpoint": 3}, InvalidType, "the path of a checkpoint"),
    ({"checkpoint_callback": "yes"}, InvalidType, "True, False, or a ModelCheckpoint"),
    ({"checkpoint_callback": EarlyStopping("x")}, InvalidType, "True, False, or a ModelCheckpoint"),
    ({"early_stop_callback": 3}, InvalidType, "True, False, or an EarlyStopping"),
    ({"early_stop_callback": ModelCheckpoint()}, InvalidType, "True, False, or an EarlyStopping"),
    ({"default_save_path": 3}, InvalidType, "a path"),
    ({"gradient_clip": "much"}, InvalidType, "a positive number"),
    ({"process_position": -1}, InvalidOption, "line"),
    ({"nb_gpu_nodes": 0}, InvalidOption, "num_nodes"),
    ({"num_tpu_cores": 8}, Unsupported, "accelerator='gpu' or 'cpu'"),
    ({"tpu_cores": 1}, Unsupported, "accelerator='gpu' or 'cpu'"),
    ({"log_gpu_memory": "some"}, InvalidOption, "'min_max'"),
    ({"show_progress_bar": "no"}, InvalidType, "True or False"),
    ({"progress_bar_refresh_rate": -1}, InvalidOption, "0 for no bar"),
    ({"progress_bar_refresh_rate": "often"}, InvalidType, "0 for no bar"),
    ({"overfit_pct": 3}, InvalidOption, "overfit_batches=3"),
    ({"overfit_pct": True}, InvalidType, "a share"),
    ({"track_grad_norm": 0}, InvalidOption, "the norm's p"),
    ({"track_grad_norm": True}, InvalidOption, "the norm's p"),
    ({"track_grad_norm": "two"}, InvalidOption, "the norm's p"),
    ({"max_nb_epochs": -2}, InvalidOption, "a number of epochs"),
    ({"min_nb_epochs": "one"}, InvalidType, "a number of epochs"),
    ({"train_percent_check": 1.5}, InvalidOption, "limit_train_batches=1.5"),
    ({"val_percent_check": "half"}, InvalidType, "a share"),
    ({"test_percent_check": -0.1}, InvalidOption, "a share"),
    ({"log_save_interval": 0}, InvalidOption, "a number of batches >= 1"),
    ({"flush_logs_every_n_steps": "x"}, InvalidType, "a number of batches >= 1"),
    ({"row_log_interval": -3}, InvalidOption, "a number of steps"),
    ({"add_row_log_interval": "x"}, InvalidType, "a number of steps"),
    ({"distributed_backend": "horovod"}, InvalidOption, "horovod"),
    ({"use_amp": "yes"}, InvalidType, "True or False"),
    ({"print_nan_grads": "yes"}, InvalidType, "True or False"),
    ({"weights_summary": "half"}, InvalidOption, "'full', 'top' or None"),
    ({"weights_summary": 1}, InvalidOption, "'full', 'top' or None"),
    ({"amp_level": "O3"}, Unsupported, "precision='16-mixed'"),
    ({"amp_backend": "apex"}, Unsupported, "precision='16-mixed'"),
    ({"nb_sanity_val_steps": -2}, InvalidOption, "-1 for all"),
    ({"truncated_bptt_steps": 0}, InvalidOption, "a number of time steps"),
    ({"reload_dataloaders_every_epoch": 3}, InvalidType, "True or False"),
    ({"replace_sampler_ddp": "no"}, InvalidType, "True or False"),
    ({"terminate_on_nan": "no"}, InvalidType, "True or False"),
    ({"num_processes": 0}, InvalidOption, "devices"),
    ({"automatic_optimization": False}, Unsupported, "self.automatic_optimization = False"),
    ({"auto_lr_find": 0.1}, InvalidType, "learning rate"),
    ({"auto_scale_batch_size": "triple"}, InvalidOption, "'power' or 'binsearch'"),
    ({"ipus": 4}, Unsupported, "IPU"),
    ({"stochastic_weight_avg": "yes"}, InvalidType, "True or False"),
    ({"multiple_trainloader_mode": "shortest"}, InvalidOption, "one of 'min_size'"),
]  # fmt: skip


@quiet
@pytest.mark.parametrize("case", WRONG, ids=named)
def test_a_wrong_value_is_named(case: tuple[dict[str, Any], type[Exception], str]) -> None:
    old, kind, message = case
    with pytest.raises(kind, match=message) as caught:
        Trainer(**old)
    (given,) = old.values()
    assert repr(given) in str(caught.value) or type(given).__name__ in str(caught.value)


@quiet
@pytest.mark.parametrize(
    ("both", "left_out"),
    [
        ({"max_nb_epochs": 3, "max_epochs": 4}, "max_nb_epochs"),
        ({"min_nb_epochs": 3, "min_epochs": 4}, "min_nb_epochs"),
        ({"gpus": 0, "accelerator": "gpu"}, "gpus"),
        ({"gpus": 0, "devices": 2, "accelerator": "cpu"}, "gpus"),
        ({"default_save_path": "a", "default_root_dir": "b"}, "default_save_path"),
        ({"gradient_clip": 1.0, "gradient_clip_val": 2.0}, "gradient_clip"),
        ({"show_progress_bar": True, "enable_progress_bar": False}, "show_progress_bar"),
        ({"train_percent_check": 0.5, "limit_train_batches": 0.25}, "train_percent_check"),
        ({"val_percent_check": 0.5, "limit_val_batches": 3}, "val_percent_check"),
        ({"row_log_interval": 3, "log_every_n_steps": 4}, "row_log_interval"),
        ({"row_log_interval": 3, "add_row_log_interval": 4}, "add_row_log_interval"),
        ({"use_amp": True, "precision": 64}, "use_amp"),
        ({"distributed_backend": "ddp", "strategy": "ddp_spawn"}, "distributed_backend"),
        ({"checkpoint_callback": True, "enable_checkpointing": False}, "checkpoint_callback"),
        ({"weights_summary": "top", "enable_model_summary": False}, "weights_summary"),
        ({"weights_save_path": "a", "checkpoint_callback": ModelCheckpoint()}, "weights_save_path"),
        ({"weights_save_path": "a", "callbacks": ModelCheckpoint()}, "weights_save_path"),
        ({"nb_sanity_val_steps": 1, "num_sanity_val_steps": 2}, "nb_sanity_val_steps"),
        ({"reload_dataloaders_every_epoch": True, "reload_dataloaders_every_n_epochs": 2}, "reload_dataloaders_every_epoch"),
    ],
)
def test_an_old_and_a_new_name_that_disagree(both: dict[str, Any], left_out: str) -> None:
    with pytest.raises(ConflictingOptions, match=rf"(?i)leave {left_out} out"):
        Trainer(**both)


@pytest.mark.parametrize("name", sorted(TRAINER))
def test_each_old_name_is_noticed_once(name: str) -> None:
    old = next(old for old, _, _ in MEANINGS if name in old)
    Trainer(**old)
    assert waiting.pop(f"Trainer({name}=...)") == TRAINER[name][0]
    waiting.clear()
    Trainer(**old)
    assert not waiting


def test_a_refused_name_is_not_said_to_work() -> None:
    with pytest.raises(Unsupported):
        Trainer(num_tpu_cores=8)


@quiet
def test_the_caller_s_list_of_callbacks_stays_as_it_is() -> None:
    callbacks: list[Any] = []
    Trainer(callbacks=callbacks, early_stop_callback=True, checkpoint_callback=ModelCheckpoint(), weights_summary="full")
    assert callbacks == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("max_epoch", "max_epochs"),
        ("gpu", "gpus"),
        ("resume_from_checkpoints", "resume_from_checkpoint"),
        ("early_stopping_callback", "early_stop_callback"),
        ("acumulate_grad_batches", "accumulate_grad_batches"),
        ("train_percent", "train_percent_check"),
        ("callback", "callbacks"),
        ("loggers", "logger"),
        ("device", "devices"),
        ("max_nb_epoch", "max_epochs"),
        ("num_processs", "num_processes"),
    ],
)
def test_an_unknown_argument_is_an_error_with_a_suggestion(given: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=rf"unknown argument '{given}'.* Did you mean '{meant}'\?") as caught:
        Trainer(**{given: 1})
    assert isinstance(caught.value, TypeError)


def test_an_argument_that_resembles_nothing() -> None:
    with pytest.raises(UnknownName, match=r"unknown argument 'qqq'\.$"):
        Trainer(qqq=1)  # type: ignore[call-arg,unused-ignore]


def test_profiler_of_2020_is_a_bool() -> None:
    assert type(Trainer(profiler=True).profiler).__name__ == "SimpleProfiler"  # type: ignore[arg-type]
    Trainer(profiler=False)  # type: ignore[arg-type]
    assert set(waiting.values()) == {"profiler='simple' or None"}


@quiet
@pytest.mark.parametrize("backend", ["ddp_spawn", "ddp_cpu"])
def test_accelerator_of_1_x_names_a_strategy(backend: str) -> None:
    trainer = Trainer(accelerator=backend, num_processes=2)
    assert type(trainer.strategy).__name__ == "DDPStrategy"
    assert trainer.world_size == 2


@quiet
def test_arguments_of_2020_that_kept_their_names_and_defaults() -> None:
    trainer = Trainer(
        logger=True, callbacks=[], gradient_clip_val=0, num_nodes=1, check_val_every_n_epoch=1, fast_dev_run=False,
        accumulate_grad_batches={0: 1, 4: 2}, max_epochs=1000, min_epochs=1, max_steps=None, min_steps=None,
        val_check_interval=1.0, precision=32, num_sanity_val_steps=5, profiler=None, benchmark=False,
    )  # fmt: skip
    assert (trainer.max_steps, trainer.gradient_clip_val, trainer.num_sanity_val_steps) == (-1, None, 5)


@pytest.mark.parametrize(("mode", "batches"), [("min_size", 2), ("max_size_cycle", 4)])
def test_the_mode_of_several_training_loaders(mode: str, batches: int) -> None:
    class Several(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.step(batch["a"])

    loaders = {"a": random_batches(2), "b": random_batches(4)}
    trainer = kit.trainer(multiple_trainloader_mode=mode)
    with pytest.warns(LegacyNotice, match="multiple_trainloader_mode"):
        trainer.fit(Several(), loaders)
    assert trainer.num_training_batches == batches


@pytest.mark.parametrize(
    "name",
    [
        *("training_type_plugin", "devices", "tpu_cores", "data_connector", "_data_connector", "results", "hpc_save"),
        *("init_optimizers", "run_evaluation", "run_training_batch", "model_connector", "transfer_batch_to_gpu"),
    ],
)
def test_attributes_of_1_x_that_are_gone_name_todays(name: str) -> None:
    trainer = kit.trainer()
    with pytest.raises(UnknownName, match=rf"trainer\.{name} is gone\. .*trainer\."):
        getattr(trainer, name)
    assert not hasattr(trainer, name)


def test_attributes_of_1_x_that_have_an_answer() -> None:
    trainer = kit.trainer(use_distributed_sampler=False, stop_on_nonfinite_loss=False)
    trainer.fit(BoringModel())
    assert trainer.lightning_optimizers == {0: trainer.optimizers[0]}
    assert trainer.tuning is trainer.replace_sampler_ddp is trainer.terminate_on_nan is False
    assert trainer.slurm_job_id is None
    assert trainer.tested_ckpt_path is trainer.validated_ckpt_path is trainer.predicted_ckpt_path is None


def test_arguments_from_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="leyden")
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "7")
    monkeypatch.setenv("PL_TRAINER_LIMIT_VAL_BATCHES", "0.5")
    monkeypatch.setenv("PL_TRAINER_BLABLABLA", "1.23")
    trainer = Trainer(**kit.QUIET, limit_val_batches=2)
    assert (trainer.max_epochs, trainer.limit_val_batches) == (7, 2)
    assert "max_epochs=7 is the environment's (PL_TRAINER_MAX_EPOCHS)." in caplog.text
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "many")
    with pytest.raises(InvalidType, match="max_epochs='many'"):
        Trainer(**kit.QUIET)
