"""What is said before training because it is probably a mistake, and would be noticed an hour later."""

from __future__ import annotations

from torch import nn

from leyden.errors import PossibleUserWarning
from leyden.options import DEFAULT_EPOCHS
from leyden.state.run import Run

_TORCHS_OWN = frozenset(vars(nn.Module()))


def hint_before_training(run: Run) -> None:
    """Warn of submodules in eval mode, of weights that no optimizer has, of limits that nobody set, of rows that never come."""
    resting = [name for name, child in run.lightning_module.named_modules() if not child.training]
    if resting:
        run.leyden_warn(
            f"{len(resting)} module(s) of {type(run.lightning_module).__name__} are in eval mode at the start of training, "
            f"such as {resting[0]!r}, and stay so. If that is not meant, call the module's train() first.",
            PossibleUserWarning,
        )
    _hint_what_is_not_trained(run)
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


def _hint_what_is_not_trained(run: Run) -> None:
    """Warn of optimizers that have none of the module's parameters, and of layers in a list or dict that nobody looks into."""
    module, name = run.lightning_module, type(run.lightning_module).__name__
    own = {id(each) for each in module.parameters()}
    stepped = {id(each) for optimizer in run.optimizers for group in optimizer.param_groups for each in group["params"]}
    if stepped and own.isdisjoint(stepped) and any(each.requires_grad for each in module.parameters()):
        run.leyden_warn(
            f"No optimizer that configure_optimizers returned has a parameter of {name}: no weight of it changes. "
            f"Make it with self.parameters().",
            PossibleUserWarning,
        )
    for attribute, value in vars(module).items():
        if attribute in _TORCHS_OWN or not isinstance(value, list | tuple | dict):
            continue
        layers = [each for each in (value.values() if isinstance(value, dict) else value) if isinstance(each, nn.Module)]
        if any(each.requires_grad and id(each) not in own | stepped for layer in layers for each in layer.parameters()):
            kind = "nn.ModuleDict" if isinstance(value, dict) else "nn.ModuleList"
            run.leyden_warn(
                f"{name}.{attribute} is a {type(value).__name__} of layers, into which torch does not look: they are not "
                f"trained, moved or saved. Make it an {kind}. If they are not to be trained, call their requires_grad_(False).",
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
