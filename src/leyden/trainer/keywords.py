"""The Trainer's keywords, each put into its checked record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.checked import check_bool
from leyden.options import Behaviour, Limits, Optimization, Options, Validation, Watching


def read_options(given: Mapping[str, Any]) -> Options:
    """Every keyword of the Trainer, checked, in its record."""
    limits = Limits.read(
        **{
            name: given[name]
            for name in (
                *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "overfit_batches", "fast_dev_run"),
                *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
            )
        }
    )
    dev = limits.fast_dev_run
    check_bool("suggest_integrations", given["suggest_integrations"])  # there are none
    return Options(
        limits=limits,
        validation=Validation.read(
            val_check_interval=given["val_check_interval"],
            check_val_every_n_epoch=given["check_val_every_n_epoch"],
            num_sanity_val_steps=given["num_sanity_val_steps"],
            dev=dev,
        ),
        optimization=Optimization.read(
            accumulate_grad_batches=given["accumulate_grad_batches"],
            gradient_clip_val=given["gradient_clip_val"],
            gradient_clip_algorithm=given["gradient_clip_algorithm"],
            stop_on_nonfinite_loss=given["stop_on_nonfinite_loss"],
        ),
        watching=Watching.read(
            log_every_n_steps=given["log_every_n_steps"],
            enable_progress_bar=given["enable_progress_bar"],
            enable_model_summary=given["enable_model_summary"],
            enable_checkpointing=given["enable_checkpointing"],
            enable_autolog_hparams=given["enable_autolog_hparams"],
            dev=dev,
        ),
        behaviour=Behaviour.read(
            **{
                name: given[name]
                for name in (
                    *("inference_mode", "detect_anomaly", "deterministic", "benchmark", "barebones"),
                    *("reload_dataloaders_every_n_epochs", "use_distributed_sampler", "sync_batchnorm"),
                )
            }
        ),
        default_root_dir=Options.read_root(given["default_root_dir"]),
        crash_capsule=Options.read_capsule(given["crash_capsule"]) and not given["barebones"] and given["crash_capsule"],
    )
