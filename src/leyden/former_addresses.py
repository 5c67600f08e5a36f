"""Modules that Lightning has, or had in 0.7 to 1.9, and that have no file here: their names are in rooms of today.

A room calls :func:`stand_in_addresses`, and ``from leyden.plugins.training_type.ddp import DDPPlugin`` finds what
``leyden.plugins`` answers to that name. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from leyden.not_offered import absent, stand_in

_LOOPS = (
    "base loop batch batch.training_batch_loop dataloader dataloader.dataloader_loop dataloader.evaluation_loop "
    "dataloader.prediction_loop epoch epoch.evaluation_epoch_loop epoch.prediction_epoch_loop epoch.training_epoch_loop "
    "evaluation_loop fetchers fit_loop optimization optimization.automatic optimization.closure optimization.manual "
    "optimization.manual_loop optimization.optimizer_loop prediction_loop training_epoch_loop utilities"
)
_TRAINING_TYPES = (
    "ddp ddp2 ddp_spawn deepspeed dp fully_sharded horovod parallel rpc rpc_sequential sharded single_device tpu_spawn"
)
_ENVIRONMENTS = "cluster_environment lightning_environment mpi slurm_environment torchelastic torchelastic_environment"
_CONNECTORS = (
    "accelerator_connector callback_connector checkpoint_connector data_connector logger_connector logger_connector.fx_validator "
    "logger_connector.result optimizer_connector signal_connector slurm_connector"
)
_TRAINERS = "call callback_hook configuration_validator data_loading logging optimizers properties training_tricks"
_SEVERAL = ("overrides.override_data_parallel",)
_FABRIC = {
    # room: what lightning.fabric has in it, under the same names as here
    "accelerators": "accelerator cpu cuda mps xla",
    "loggers": "csv_logs logger tensorboard",
    "plugins": "environments io precision",
    "plugins.environments": "cluster_environment kubeflow lightning lsf mpi slurm torchelastic xla",
    "plugins.io": "checkpoint_io torch_io xla",
    "plugins.precision": "amp bitsandbytes deepspeed double fsdp half precision transformer_engine xla",
    "strategies": "ddp deepspeed dp fsdp model_parallel parallel single_device single_xla strategy xla",
    "utilities": (
        "apply_func cloud_io consolidate_checkpoint data device_parser distributed enums exceptions imports rank_zero seed "
        "throughput types warnings"
    ),
}

ADDRESSES: dict[str, dict[str, tuple[str, ...]]] = {
    # room: module of then, below it: the rooms of today that are asked for its names, in turn
    "accelerators": {"gpu": ("accelerators",)},
    "callbacks": {
        "quantization": ("callbacks",),
        "progress.progress": ("callbacks.progress", "callbacks.progress.tqdm_progress"),
    },
    "core": {"mixins.device_dtype_mixin": ("core.mixins",)},
    "fabric": {
        "fabric": ("fabric",),
        **{room: (room,) for room in _FABRIC},
        **{f"{room}.{name}": (f"{room}.{name}", room) for room, names in _FABRIC.items() for name in names.split()},
        **dict.fromkeys((f"plugins.environments.{name}" for name in _FABRIC["plugins.environments"].split()), ("plugins",)),
        **dict.fromkeys((f"plugins.io.{name}" for name in _FABRIC["plugins.io"].split()), ("plugins",)),
        "accelerators.cuda": ("accelerators.cuda", "utilities.device_parser"),
        "utilities.device_dtype_mixin": ("core.mixins",),
        "utilities.logger": ("loggers.utilities",),
        "utilities.optimizer": ("classic.tools",),
        "utilities.spike": ("errors", "callbacks"),
    },
    "loggers": {"test_tube": ("loggers",)},
    "loops": dict.fromkeys(_LOOPS.split(), ("loops",)),
    "metrics": {
        **dict.fromkeys(("classification", "regression", "metric", "image", "nlp"), ("metrics",)),
        **{f"functional.{name}": ("metrics.functional",) for name in ("classification", "regression", "image")},
    },
    "overrides": {"data_parallel": _SEVERAL, "base": _SEVERAL},
    "plugins": {
        **{f"environments.{name}": ("plugins.environments",) for name in _ENVIRONMENTS.split()},
        **dict.fromkeys(("precision.native_amp", "precision.precision_plugin", "precision.mixed"), ("plugins.precision",)),
        **dict.fromkeys(("training_type", "ddp_plugin", "ddp_sequential_plugin", "sharded_plugin", "rpc_plugin"), ("plugins",)),
        **{f"training_type.{name}": ("plugins",) for name in ("training_type_plugin", *_TRAINING_TYPES.split())},
    },
    "profiler": dict.fromkeys(("advanced", "pytorch", "simple"), ("profiler",)),
    "strategies": dict.fromkeys(("ddp2", "fully_sharded_native", "launchers", "sharded", "strategy_registry"), ("strategies",)),
    "trainer": {
        **dict.fromkeys((*_TRAINERS.split(), "connectors"), ("trainer",)),
        **{f"connectors.{name}": ("trainer",) for name in _CONNECTORS.split()},
        "connectors.accelerator_connector": ("classic.accelerator_view", "trainer"),
    },
    "tuner": {"auto_gpu_select": ("classic.tools",)},
    "utilities": {
        "argparse_utils": ("utilities.argparse",),
        "device_dtype_mixin": ("core.mixins",),
        "fetching": ("loops",),
        "finite_checks": ("classic.tools",),
        "logger": ("loggers.utilities",),
        "metrics": ("classic.tools",),
        "model_utils": ("utilities.model_helpers",),
        "optimizer": ("classic.tools",),
    },
}


def stand_in_addresses(room: str) -> None:
    """Let ``room``, by its full name, have the modules of the table."""
    for path, rooms in ADDRESSES[room.partition(".")[2]].items():
        full = f"{room}.{path}"
        if full not in sys.modules:
            stand_in(full, _asks(full, rooms), "Names of then, from where they are today.")


def _asks(module: str, rooms: tuple[str, ...]) -> Callable[[str], Any]:
    def getattr_of_module(name: str) -> Any:
        if not name.startswith("__"):
            for room in rooms:
                with suppress(AttributeError):
                    return getattr(importlib.import_module(f"leyden.{room}"), name)
        return absent(module, name, ())

    return getattr_of_module
