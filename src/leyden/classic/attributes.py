"""What older Lightnings' trainers showed under other names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.classic.notices import notice
from leyden.state.run import Run

ATTRIBUTES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    # old name: (today's, in words), how it is read off a trainer
    "batch_idx": ("the hook's batch_idx", lambda run: max(0, run.progress.batch - 1)),
    "default_save_path": ("default_root_dir", lambda run: run.default_root_dir),
    "early_stop_callback": ("early_stopping_callback", lambda run: run.early_stopping_callback),
    "get_model": ("lightning_module", lambda run: lambda: run.lightning_module),
    "gpus": ("num_devices", lambda run: run.num_devices if run.strategy.root_device.type == "cuda" else None),
    "num_gpus": ("num_devices", lambda run: run.num_devices if run.strategy.root_device.type == "cuda" else 0),
    "num_val_dataloaders": ("len(num_val_batches)", lambda run: len(run.num_val_batches)),
    "on_gpu": ("strategy.root_device", lambda run: run.strategy.root_device.type == "cuda"),
    "proc_rank": ("global_rank", lambda run: run.global_rank),
    "progress_bar_dict": ("progress_bar_metrics", lambda run: run.progress_bar_metrics),
    "resume_from_checkpoint": ("ckpt_path", lambda run: run.ckpt_path or run.classic.resume_from),
    "root_gpu": ("strategy.root_device", lambda run: run.strategy.root_device.index),
    "running_sanity_check": ("sanity_checking", lambda run: run.sanity_checking),
    "total_batch_idx": ("global_step", lambda run: max(0, run.progress.batches - 1)),
    "total_batches": ("num_training_batches", lambda run: run.num_training_batches),
    "tqdm_metrics": ("progress_bar_metrics", lambda run: run.progress_bar_metrics),
    "train_dataloaders": ("train_dataloader", lambda run: run.train_dataloader),
    "use_ddp": ("strategy", lambda run: run.world_size > 1),
    "weights_save_path": ("checkpoint_callback.dirpath", lambda run: getattr(run.checkpoint_callback, "dirpath", None)),
}


def old_attribute(run: Run, name: str) -> Any:
    """What a trainer showed as ``name``. Raises :class:`AttributeError` for a name that it never had."""
    if name not in ATTRIBUTES:
        return object.__getattribute__(run, name)  # raises what reading it raised in the first place
    today, read = ATTRIBUTES[name]
    notice(f"trainer.{name}", f"trainer.{today}")
    return read(run)
