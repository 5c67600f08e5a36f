"""What older Lightnings' trainers showed under other names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.classic.accelerator_view import AcceleratorView
from leyden.classic.arguments import TRAINER
from leyden.classic.loop_views import RunningLoss
from leyden.classic.tools import AMPType
from leyden.constructed import read_again
from leyden.distributed.environment import SLURMEnvironment
from leyden.errors import UnknownName
from leyden.former import FormerModuleHooks
from leyden.notices import notice
from leyden.state.optimizers import SchedulerPlan
from leyden.state.run import Run


def _tuning(name: str) -> Any:
    """Of a file that reads the callbacks' files: when it is asked for."""
    return getattr(importlib.import_module("leyden.classic.tuning"), name)


def amp_backend(run: Any) -> Any:
    return AMPType.NATIVE if "mixed" in str(run.precision) else None


def _callbacks(run: Any, name: str) -> list[Any]:
    kind = getattr(importlib.import_module("leyden.callbacks"), name)
    return [callback for callback in run.callbacks if isinstance(callback, kind)]


ATTRIBUTES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    # old name: (today's, in words), how it is read off a trainer
    "amp_backend": ("precision", amp_backend),
    "benchmark": ("Trainer(benchmark=...)", lambda run: bool(run.leyden_options.behaviour.benchmark)),
    "batch_idx": ("the hook's batch_idx", lambda run: max(0, run.leyden_fit.progress.batch - 1)),
    "data_parallel": ("world_size > 1", lambda run: run.world_size > 1),
    "data_parallel_device_ids": ("device_ids", lambda run: run.device_ids if run.strategy.root_device.type == "cuda" else None),
    "disable_validation": ("enable_validation", lambda run: not run.enable_validation),
    "default_save_path": ("default_root_dir", lambda run: run.default_root_dir),
    "early_stop_callback": ("early_stopping_callback", lambda run: run.early_stopping_callback),
    "get_model": ("lightning_module", lambda run: lambda: run.lightning_module),
    "gpus": ("num_devices", lambda run: run.num_devices if run.strategy.root_device.type == "cuda" else None),
    "lightning_optimizers": ("optimizers", lambda run: dict(enumerate(run.optimizers))),
    "log_gpu_memory": ("DeviceStatsMonitor", lambda run: None),
    "lr_schedulers": ("lr_scheduler_configs", lambda run: [scheduler_dict(plan) for plan in run.leyden_fit.plan.schedulers]),
    "num_gpus": ("num_devices", lambda run: run.num_devices if run.strategy.root_device.type == "cuda" else 0),
    "num_val_dataloaders": ("len(num_val_batches)", lambda run: len(run.num_val_batches)),
    "on_gpu": ("strategy.root_device", lambda run: run.strategy.root_device.type == "cuda"),
    "on_tpu": ("strategy.root_device", lambda run: False),
    "optimizer_frequencies": ("optimizers", lambda run: []),
    "prediction_writer_callbacks": ("callbacks", lambda run: _callbacks(run, "BasePredictionWriter")),
    "proc_rank": ("global_rank", lambda run: run.global_rank),
    "progress_bar_dict": ("progress_bar_metrics", lambda run: tqdm_dict(run)),
    "reset_train_dataloader": ("fit_loop.setup_data", lambda run: lambda model=None: run.fit_loop.setup_data()),
    "should_rank_save_checkpoint": ("is_global_zero", lambda run: run.is_global_zero),
    "resume_from_checkpoint": ("ckpt_path", lambda run: run.ckpt_path or run.leyden_classic.resume_from),
    "root_gpu": ("strategy.root_device", lambda run: run.strategy.root_device.index),
    "predicted_ckpt_path": ("ckpt_path", lambda run: run.ckpt_path),
    "replace_sampler_ddp": ("Trainer(use_distributed_sampler=...)", lambda run: run.leyden_options.behaviour.distributed_sampler),
    "running_loss": ("callback_metrics", RunningLoss),
    "running_sanity_check": ("sanity_checking", lambda run: run.sanity_checking),
    "slurm_job_id": ("SLURMEnvironment.job_id()", lambda run: SLURMEnvironment.job_id()),
    "terminate_on_nan": ("Trainer(stop_on_nonfinite_loss=...)", lambda run: run.leyden_options.optimization.check_finite),
    "tested_ckpt_path": ("ckpt_path", lambda run: run.ckpt_path),
    "tng_tqdm_dic": ("progress_bar_metrics", lambda run: tqdm_dict(run)),
    "total_batch_idx": ("global_step", lambda run: max(0, run.leyden_fit.progress.batches - 1)),
    "total_batches": ("num_training_batches", lambda run: run.num_training_batches),
    "tqdm_metrics": ("progress_bar_metrics", lambda run: tqdm_dict(run)),
    "train_dataloaders": ("train_dataloader", lambda run: run.train_dataloader),
    "training_tqdm_dict": ("progress_bar_metrics", lambda run: tqdm_dict(run)),
    "lr_find": ("leyden.tuner.Tuner(trainer).lr_find", lambda run: partial(_tuning("lr_find"), run)),
    "scale_batch_size": ("leyden.tuner.Tuner(trainer).scale_batch_size", lambda run: partial(_tuning("scale_batch_size"), run)),
    "tune": ("leyden.tuner.Tuner(trainer)", lambda run: partial(_tuning("tune"), run)),
    "tuner": ("leyden.tuner.Tuner(trainer)", lambda run: _tuning("FormerTuner")(run)),
    "tuning": ("leyden.tuner.Tuner(trainer)", lambda run: False),
    "use_native_amp": ("precision", lambda run: amp_backend(run) is not None),
    "validated_ckpt_path": ("ckpt_path", lambda run: run.ckpt_path),
    "weights_save_path": ("checkpoint_callback.dirpath", lambda run: getattr(run.checkpoint_callback, "dirpath", None)),
}


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    # argument of the constructor that had an attribute of its name: how today's is read off a trainer
    "train_percent_check": lambda run: run.limit_train_batches,
    "val_percent_check": lambda run: run.limit_val_batches,
    "test_percent_check": lambda run: run.limit_test_batches,
    "overfit_pct": lambda run: run.overfit_batches,
    "row_log_interval": lambda run: run.log_every_n_steps,
    "add_row_log_interval": lambda run: run.log_every_n_steps,
    "show_progress_bar": lambda run: run.leyden_options.watching.progress_bar,
    "gradient_clip": lambda run: run.gradient_clip_val or 0,
    "nb_gpu_nodes": lambda run: run.num_nodes,
    "max_nb_epochs": lambda run: run.max_epochs,
    "min_nb_epochs": lambda run: run.min_epochs,
    "nb_sanity_val_steps": lambda run: run.num_sanity_val_steps,
    "reload_dataloaders_every_epoch": lambda run: run.reload_dataloaders_every_n_epochs == 1,
    "truncated_bptt_steps": lambda run: run.leyden_classic.stretch,
    # these have nothing of today to be read off: what the constructor was given, else 0.7.1's default
    "log_save_interval": lambda run: run.leyden_classic.legacy.get("log_save_interval", 100),
    "progress_bar_refresh_rate": lambda run: run.leyden_classic.legacy.get("progress_bar_refresh_rate", 50),
    "process_position": lambda run: run.leyden_classic.legacy.get("process_position", 0),
    "auto_lr_find": lambda run: run.leyden_classic.legacy.get("auto_lr_find", False),
    "auto_scale_batch_size": lambda run: run.leyden_classic.legacy.get("auto_scale_batch_size", False),
    "weights_summary": lambda run: run.leyden_classic.legacy.get("weights_summary", "full"),
    "distributed_backend": lambda run: run.leyden_classic.legacy.get("distributed_backend"),
    "amp_level": lambda run: run.leyden_classic.legacy.get("amp_level", "O1"),
    "track_grad_norm": lambda run: run.leyden_classic.legacy.get("track_grad_norm", -1),
    "print_nan_grads": lambda run: run.leyden_classic.legacy.get("print_nan_grads", False),
    "num_tpu_cores": lambda run: None,
}
ATTRIBUTES.update({name: (TRAINER[name][0], read) for name, read in _ARGUMENTS.items()})

_FLAGS = {
    # a module's flag, which the trainer has too: today's
    "use_amp": "precision",
    "use_ddp": "strategy",
    "use_ddp2": "strategy",
    "use_dp": "strategy",
    "use_tpu": "strategy",
    "single_gpu": "num_devices == 1",
}
ATTRIBUTES.update({name: (today, getattr(FormerModuleHooks, name).read) for name, today in _FLAGS.items()})


def scheduler_dict(plan: SchedulerPlan) -> dict[str, Any]:
    """A scheduler as ``trainer.lr_schedulers`` listed it, up to 1.x."""
    return {
        "scheduler": plan.scheduler,
        "interval": plan.interval,
        "frequency": plan.frequency,
        "reduce_on_plateau": plan.reduce_on_plateau,
        "monitor": plan.monitor or "val_loss",
    }


def tqdm_dict(run: Run) -> dict[str, Any]:
    """Plain numbers, ``loss`` among them. Waits for the device."""
    shown: dict[str, Any] = {} if run.leyden_fit.losses.latest is None else {"loss": float(run.leyden_fit.losses.latest)}
    return {**shown, **run.progress_bar_metrics}


_LOADERS = "Loaders are made when they are due: Trainer(reload_dataloaders_every_n_epochs=...) has them made anew."
_HOOKS = "Call the method itself. Whether a class has one of its own says leyden.utilities.model_helpers.is_overridden."
_FILES = "Save with trainer.save_checkpoint, and resume with fit(ckpt_path=...)."
_GONE = {
    # attribute of 1.x that has no answer: today's way
    "training_type_plugin": "trainer.strategy is what places the module and its batches.",
    "tpu_cores": "trainer.num_devices says how many devices there are. There is no support for TPUs.",
    "ipus": "trainer.num_devices says how many devices there are. There is no support for IPUs.",
    "num_processes": "trainer.world_size says how many processes there are.",
    "devices": "trainer.num_devices says how many devices there are, trainer.device_ids which.",
    "train_loop": "It is trainer.fit_loop.",
    "evaluation_loop": "They are trainer.validate_loop and trainer.test_loop.",
    "accelerator_backend": "trainer.strategy is what places the module and its batches.",
    "data_connector": "Loaders are trainer.train_dataloader, trainer.val_dataloaders ...",
    "checkpoint_connector": "Save with trainer.save_checkpoint, and resume with fit(ckpt_path=...).",
    "logger_connector": "Metrics are trainer.callback_metrics, trainer.logged_metrics and trainer.progress_bar_metrics.",
    "accelerator_connector": "What was chosen is trainer.strategy, trainer.accelerator and trainer.precision.",
    "callback_connector": "Callbacks are trainer.callbacks.",
    "optimizer_connector": "Optimizers are trainer.optimizers, schedulers trainer.lr_scheduler_configs.",
    "signal_connector": "Signals are heeded while a verb runs.",
    "reset_val_dataloader": _LOADERS,
    "reset_test_dataloader": _LOADERS,
    "reset_predict_dataloader": _LOADERS,
    "reset_train_val_dataloaders": _LOADERS,
    "prepare_dataloader": _LOADERS,
    "request_dataloader": _LOADERS,
    "call_hook": _HOOKS,
    "call_lightning_module_hook": _HOOKS,
    "call_callback_hooks": _HOOKS,
    "is_function_implemented": _HOOKS,
    "is_overridden": _HOOKS,
    "dump_checkpoint": _FILES,
    "restore_weights": _FILES,
    "hpc_save": _FILES,
    "hpc_load": _FILES,
    "results": "Metrics are trainer.callback_metrics, trainer.logged_metrics and trainer.progress_bar_metrics.",
    "run_evaluation": "It is trainer.validate() or trainer.test(). In a fit, val_check_interval says when a validation is due.",
    "run_training_batch": "It is trainer.trial_run(module), for steps that leave no trace.",
    "init_optimizers": "Optimizers are trainer.optimizers, schedulers trainer.lr_scheduler_configs.",
    "configure_schedulers": "Optimizers are trainer.optimizers, schedulers trainer.lr_scheduler_configs.",
    "model_connector": "The module is trainer.lightning_module.",
    "move_metrics_to_cpu": "What is logged stays on its device, one value a name.",
    "multiple_trainloader_mode": "It is CombinedLoader(loaders, mode), which fit takes.",
    "flush_logs_every_n_steps": "It is CSVLogger(flush_logs_every_n_steps=...).",
    "is_slurm_managing_tasks": "SLURMEnvironment.detect() says it.",
    "transfer_batch_to_gpu": "It is trainer.strategy.batch_to_device.",
    "slurm_connector": "SLURMEnvironment is chosen where SLURM's variables are set.",
}


_OWN: dict[str, Callable[[Run], Any]] = {
    # what a subclass may have for itself: what a trainer of ours showed, and what published packages reach for
    "_accelerator_connector": AcceleratorView,
    "progress": lambda run: run.leyden_fit.progress,
    "stop_reason": lambda run: run.leyden_stop_reason,
}


def old_attribute(run: Run, name: str) -> Any:
    """What a trainer showed as ``name``. Raises :class:`AttributeError` for a name that it never had."""
    if name in _OWN:
        return _OWN[name](run)
    if name.removeprefix("_") in _GONE:
        raise UnknownName(f"trainer.{name} is gone. {_GONE[name.removeprefix('_')]}")
    if name not in ATTRIBUTES:
        return read_again(run, name)
    today, read = ATTRIBUTES[name]
    is_attribute = hasattr(Run, re.split(r"\W", today)[0]) and "=..." not in today
    notice(f"trainer.{name}", f"trainer.{today}" if is_attribute else today)
    return read(run)
