"""What is said before training because it is probably a mistake, and would be noticed an hour later."""

from __future__ import annotations

from leyden.errors import PossibleUserWarning
from leyden.options import DEFAULT_EPOCHS
from leyden.state.run import Run


def hint_before_training(run: Run) -> None:
    """Warn of submodules in eval mode, of limits that nobody set, and of more steps between rows than an epoch has batches."""
    resting = [name for name, child in run.lightning_module.named_modules() if not child.training]
    if resting:
        run.leyden_warn(
            f"{len(resting)} module(s) of {type(run.lightning_module).__name__} are in eval mode at the start of training, "
            f"such as {resting[0]!r}, and stay so. If that is not meant, call the module's train() first.",
            PossibleUserWarning,
        )
    if run.fast_dev_run:
        return
    if run.leyden_options.limits.epochs_by_default and run.max_epochs == DEFAULT_EPOCHS:
        run.leyden_warn(
            f"Trainer was given no max_epochs, max_steps or max_time: {DEFAULT_EPOCHS} epochs are meant. "
            f"Pass max_epochs=... (-1 for no limit).",
            PossibleUserWarning,
        )
    batches, every = run.num_training_batches, run.log_every_n_steps
    if run.loggers and 0 < batches < every:
        run.leyden_warn(
            f"An epoch has {batches} training batches, and Trainer(log_every_n_steps={every}) writes a row of step metrics every "
            f"{every} steps. Lower log_every_n_steps to see rows of each epoch.",
            PossibleUserWarning,
        )


def hint_other_world(run: Run, saved: int) -> None:
    """Say that a checkpoint of ``saved`` processes was taken inside a batch, of which each of them had one in hand."""
    progress = run.leyden_fit.progress
    if saved != run.world_size and progress.in_batch and not progress.closed:
        count = f"{saved} process{'es' if saved > 1 else ''}"
        run.leyden_warn(
            f"{run.ckpt_path} was saved inside a batch of epoch {progress.epoch} by {count}, and this run has {run.world_size}: "
            f"of the batches that each had in hand some come twice, or not at all. Weights and optimizers are exact. To lose "
            f"none, go on with {saved}, or from a checkpoint between two batches."
        )
