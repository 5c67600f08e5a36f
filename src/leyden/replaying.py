"""Run a step again that failed, from its crash capsule."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from leyden.checkpoint.files import TorchCheckpointIO, local_path
from leyden.checkpoint.format import Unwritable, decode_file
from leyden.checkpoint.random_state import set_random_state
from leyden.crash.capsule import FILE, versions
from leyden.data.generators import generators_in, kept, put_states
from leyden.errors import CheckpointForeign, CheckpointMissing, InvalidType, LeydenWarning
from leyden.module import LightningModule
from leyden.trainer.trainer import Trainer


def replay(folder: str | os.PathLike[str], module: LightningModule, *, batch: Any = None) -> Tensor | None:
    """Run the step that a crash capsule holds again, with its batch and its random state; returns its loss.

    Args:
        folder: the folder that the failed run named.
        module: the module, as it was. Where the capsule holds the weights before the step they are put into it, else its
            own are used: load them from the checkpoint before the crash. Afterwards it is as it was given.
        batch: the batch, where the capsule could not hold it.

    Raises:
        the exception that the step raised.
        CheckpointMissing, CheckpointForeign: there is no capsule in ``folder``.
    """
    path = os.path.join(local_path(os.fspath(folder)), FILE)
    if not os.path.exists(path):
        raise CheckpointMissing(f"There is no crash capsule in {os.fspath(folder)}: {FILE} is not there.")
    if not isinstance(module, LightningModule):
        raise InvalidType("module", module, "the leyden.LightningModule whose step failed")
    capsule: dict[str, Any] = decode_file(TorchCheckpointIO().load_checkpoint(path), repr(path))
    if "batch_idx" not in capsule:
        raise CheckpointForeign(f"{path} is no crash capsule.")
    given = batch is not None
    batch = capsule["batch"] if batch is None else batch
    if isinstance(batch, Unwritable):
        raise InvalidType("batch", None, f"the batch itself: the capsule could only note its type ({batch.type})")
    device = capsule.get("device", "auto")
    elsewhere = device not in ("auto", "cpu") and not getattr(torch, device).is_available()
    trainer = Trainer(
        accelerator="auto" if elsewhere else device,
        devices=1,
        precision=capsule["precision"],
        accumulate_grad_batches=capsule["accumulate"] if module.automatic_optimization else 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        crash_capsule=False,
        stop_on_nonfinite_loss=False,
    )
    different = [name for name, value in versions().items() if capsule["versions"].get(name) != value]
    if elsewhere:
        trainer.leyden_warn(f"The step failed on {device}, which is not here: bits may differ.", LeydenWarning)
    if different:
        trainer.leyden_warn(
            f"The capsule was written with other versions of {', '.join(different)}: bits may differ.", LeydenWarning
        )
    if not capsule.get("batch_as_it_was", True) and not given:
        trainer.leyden_warn(
            "The batch in the capsule was changed in place before it was written. Pass batch= to be sure.", LeydenWarning
        )
    own = generators_in(module)
    with kept(own), trainer.trial_run(module) as trial:
        if capsule["weights"] is not None:
            module.load_state_dict(capsule["weights"])
        for name, child in module.named_modules():
            child.training = capsule["modes"].get(name, child.training)
        trainer.leyden_fit.progress.epoch, trainer.leyden_fit.progress.step = capsule["epoch"], capsule["global_step"]
        set_random_state(capsule["random"])
        put_states(own, capsule.get("generators", {}))
        return trial.step(batch, capsule["batch_idx"], is_last=True)
