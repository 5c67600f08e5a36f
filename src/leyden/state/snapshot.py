"""What stands in a checkpoint: a dict of named parts, taken from a run and put back into one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from leyden.checkpoint.format import check_parts, decode, encode, unwritable
from leyden.checkpoint.legacy import callback_states_of, progress_of
from leyden.checkpoint.legacy import lightning_loops as written_for_lightning
from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.data.generators import generators_in, put_states, states_of
from leyden.datamodule import LightningDataModule
from leyden.errors import CheckpointForeign, CheckpointMismatch, InvalidReturn, LeydenWarning
from leyden.hooks import overrides
from leyden.hparams import dump_hparams
from leyden.state.metric_objects import state_of
from leyden.state.optimizers import OptimizerPlan
from leyden.state.run import Run
from leyden.tree import tree_map
from leyden.version import __version__

LIGHTNING_VERSION = "2.6.0"  # the layout of the top level is that version's, and Lightning asks for the key
OURS = "leyden"
_named_once: set[str] = set()


def take(run: Run, weights_only: bool = False) -> dict[str, Any]:
    """Everything of ``run`` that a file has to hold, in plain values that load without running code."""
    module = run.lightning_module
    checkpoint: dict[str, Any] = {
        "epoch": run.progress.epoch,
        "global_step": run.progress.step,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": run.strategy.model_state_dict(module),
        OURS: {"version": __version__, "init_arguments": module._init_arguments()},
    }
    if not weights_only:
        checkpoint["loops"] = lightning_loops(run)
        checkpoint["callbacks"] = callback_states(run)
        checkpoint["optimizer_states"] = [run.strategy.optimizer_state(optimizer) for optimizer in run.plan.optimizers]
        checkpoint["lr_schedulers"] = [plan.scheduler.state_dict() for plan in run.plan.schedulers]
        precision = run.strategy.precision
        state = precision.state_dict()
        if state:
            checkpoint[type(precision).__qualname__] = state
        checkpoint[OURS].update(training_state(run))
    checkpoint.update(dump_hparams(module))
    datamodule = run.datamodule
    if datamodule is not None:
        checkpoint[OURS]["datamodule_init_arguments"] = datamodule._init_arguments()
        checkpoint.update(dump_hparams(datamodule, "datamodule_"))
        state = datamodule.state_dict()
        if state:
            checkpoint[type(datamodule).__qualname__] = state
    if not weights_only and run.hooks is not None:
        run.hooks.tell_checkpoint("on_save_checkpoint", checkpoint)
    module.on_save_checkpoint(checkpoint)
    if datamodule is not None and overrides(datamodule, LightningDataModule.on_save_checkpoint):
        datamodule.on_save_checkpoint(checkpoint)
    plain: dict[str, Any] = encode(checkpoint)
    _name_unwritable(plain)
    return plain


def _name_unwritable(plain: dict[str, Any]) -> None:
    unasked = (f"{OURS}.init_arguments", f"{OURS}.datamodule_init_arguments")  # nobody said to keep these; loading asks for them
    found = [(name, kind) for name, kind in unwritable(plain) if name not in _named_once and not name.startswith(unasked)]
    if not found:
        return
    _named_once.update(name for name, _ in found)
    listed = ", ".join(f"{name} ({kind})" for name, kind in found)
    warnings.warn(
        f"Some values cannot be written into a checkpoint that loads without running code, and only their names and types are: "
        f"{listed}. Pass them again when loading, or keep them out with save_hyperparameters(ignore=[...]).",
        LeydenWarning,
        stacklevel=4,
    )


def training_state(run: Run) -> dict[str, Any]:
    """What Lightning's files lack, and an exact continuation needs."""
    return {
        "progress": run.progress.state_dict(),
        "random": random_state(),
        "data": data_position(run),
        "generators": own_generators(run),
        "metrics": run.metrics.state_dict(),
        "loggers": [logger.position() for logger in run.loggers],
        "accumulate": run.accumulate_grad_batches,
        "stop": {"wished": run.should_stop and run.stop_lasts, "because": run.stop_reason},
        "history": run.history,
        "gradients": gradients(run),
        "metric_objects": metric_objects(run),
        "losses": list(run.losses),
        **run.before_validation,
    }


def changed_by_validation(run: Run) -> dict[str, Any]:
    """Parts of :func:`training_state` as they are before a validation: a run that is cut inside it does it again."""
    objects: dict[str, Any] = tree_map(metric_objects(run), torch.Tensor, torch.Tensor.clone)
    return {"random": random_state(), "generators": own_generators(run), "metric_objects": objects}


def data_position(run: Run) -> dict[str, Any] | None:
    """Where training is in its data, in the epoch that runs."""
    source = run.loaders.train
    if source is not None and source.cut is not None:
        return source.cut  # a resumed run that has not read on yet
    if source is None or source.position.leaves[0].opened is None:
        return None
    return {"epoch": run.progress.epoch, **source.position.state_dict(run.progress.batch)}


def generators_of(run: Run) -> dict[str, Any]:
    """Random generators among the module's attributes."""
    if run.own_generators is None:
        run.own_generators = generators_in(run.lightning_module)
    return run.own_generators


def own_generators(run: Run) -> dict[str, Any]:
    """The states of random generators that loaders, datasets and the module hold."""
    states = {"module": states_of(generators_of(run)), **run.loaders.generator_states()}
    return {owner: found for owner, found in states.items() if found}


def gradients(run: Run) -> dict[str, Any]:
    """Gradients that wait for a step: a half-filled accumulation window, or whatever manual optimization left."""
    module = run.lightning_module
    if run.progress.window == 0 and module.automatic_optimization:
        return {}
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def metric_objects(run: Run) -> dict[str, Any]:
    """The states of torchmetrics metrics inside the module: they are no part of its ``state_dict``."""
    found = {}
    for name, child in run.lightning_module.named_modules():
        states = getattr(child, "_defaults", None)
        if isinstance(states, dict) and hasattr(child, "_update_count"):
            found[name] = run.metrics.set_aside(child) or state_of(child)
    return found


def callback_states(run: Run) -> dict[str, Any]:
    states = {}
    for callback in run.callbacks:
        state = callback.state_dict()
        if state:
            if not isinstance(state, Mapping):
                raise InvalidReturn(
                    f"{type(callback).__name__}.state_dict() returned {type(state).__name__}. Expected a dict of names and "
                    f"values, which load_state_dict gets back."
                )
            states[callback.state_key] = state
    return states


def lightning_loops(run: Run) -> dict[str, Any]:
    """The loops' progress in Lightning's words, for Lightning."""
    source = run.loaders.train
    return written_for_lightning(
        run.progress.state_dict(),
        optimizers=max(1, len(run.plan.optimizers)),
        automatic=run.lightning_module.automatic_optimization,
        epoch_batches=None if source is None else source.stop,
    )


# -- back into a run
def put_weights(run: Run, checkpoint: dict[str, Any]) -> None:
    """The module's and the datamodule's state."""
    module = run.lightning_module
    module.on_load_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    try:
        run.strategy.load_model_state_dict(module, state, strict=module.strict_loading)
    except (RuntimeError, KeyError) as error:
        raise CheckpointMismatch(
            f"The weights in {run.ckpt_path} do not fit {type(module).__name__}: {error} Load it with a module built with the "
            f"same arguments, or set module.strict_loading = False to take what fits."
        ) from error
    datamodule = run.datamodule
    if datamodule is not None:
        if overrides(datamodule, LightningDataModule.on_load_checkpoint):
            datamodule.on_load_checkpoint(checkpoint)
        state = checkpoint.get(type(datamodule).__qualname__)
        if state is not None:
            datamodule.load_state_dict(state)


def put_callbacks(run: Run, checkpoint: dict[str, Any]) -> None:
    """The callbacks' states."""
    assert run.hooks is not None
    run.hooks.tell_checkpoint("on_load_checkpoint", checkpoint)
    states = callback_states_of(checkpoint)
    missing = sorted(set(states) - {callback.state_key for callback in run.callbacks})
    if not run.options.watching.checkpointing:
        missing = [key for key in missing if not key.startswith("ModelCheckpoint")]  # turned off, and not forgotten
    if missing and OURS in checkpoint:  # Lightning's callbacks have other names, and their states are taken where they fit
        run.warn(
            f"{run.ckpt_path} holds the states of callbacks that this Trainer has not, or has with other arguments, and they "
            f"are left out: {', '.join(missing)}."
        )
    for callback in run.callbacks:
        state = states.get(callback.state_key)
        if state:
            callback.load_state_dict(dict(state))


def put_optimizers(run: Run, checkpoint: dict[str, Any], plan: OptimizerPlan) -> None:
    """The states of optimizers, schedulers and the precision's scaler."""
    states = checkpoint.get("optimizer_states")
    if states is None:
        raise CheckpointMismatch(
            f"{run.ckpt_path} holds weights only, and fit cannot continue from it. Load the weights instead: "
            f"{type(run.lightning_module).__name__}.load_from_checkpoint(...), then fit without ckpt_path."
        )
    if len(states) != len(plan.optimizers):
        raise CheckpointMismatch(
            f"{run.ckpt_path} holds the state of {len(states)} optimizers, and configure_optimizers returned "
            f"{len(plan.optimizers)}."
        )
    for optimizer, state in zip(plan.optimizers, states, strict=True):
        try:
            run.strategy.load_optimizer_state(optimizer, state)
        except ValueError as error:
            raise CheckpointMismatch(f"An optimizer's state in {run.ckpt_path} does not fit: {error}") from error
    schedules = checkpoint.get("lr_schedulers") or []
    if len(schedules) != len(plan.schedulers):
        raise CheckpointMismatch(
            f"{run.ckpt_path} holds the state of {len(schedules)} learning-rate schedulers, and configure_optimizers returned "
            f"{len(plan.schedulers)}."
        )
    for scheduled, state in zip(plan.schedulers, schedules, strict=True):
        scheduled.scheduler.load_state_dict(state)
    precision = run.strategy.precision
    state = checkpoint.get(type(precision).__qualname__, checkpoint.get("native_amp_scaling_state"))
    if state:
        precision.load_state_dict(state)


def put_training(run: Run, checkpoint: dict[str, Any]) -> None:
    """How far training was, and everything that its continuation depends on."""
    ours = checkpoint.get(OURS) or {}
    if "progress" not in ours:
        found = progress_of(checkpoint)
        run.progress.load_state_dict({**found, "rows": found["batches"], "validated": found.pop("validated_batch", 0)})
        return
    run.progress.load_state_dict(ours["progress"])
    run.random_state_to_restore = ours["random"]
    run.loaders.restore(ours["data"], ours["generators"])
    put_states(generators_of(run), ours["generators"].get("module", {}))
    run.metrics.load_state_dict(ours["metrics"])
    run.accumulate_grad_batches = ours["accumulate"]
    run.history = list(ours["history"])
    run.restore_losses(ours["losses"])
    if ours["stop"]["wished"]:
        run.stop(ours["stop"]["because"])
    parameters = dict(run.lightning_module.named_parameters())
    for name, gradient in ours["gradients"].items():
        if name in parameters:
            parameters[name].grad = gradient.to(parameters[name].device)
    children = dict(run.lightning_module.named_modules())
    for name, kept in ours["metric_objects"].items():
        child: Any = children.get(name)
        if child is None:
            continue
        for key, value in kept["states"].items():
            setattr(child, key, _on(value, child))
        child._update_count = kept["updates"]
        child._forward_cache = _on(kept["forward"], child)
        child._computed = None


def _on(value: Any, child: Any) -> Any:
    device = getattr(child, "device", None)
    if isinstance(value, list):
        return [_on(item, child) for item in value]
    return value.to(device) if isinstance(value, torch.Tensor) and device is not None else value


def put_random_state(run: Run) -> None:
    """Last of all, when nothing else will draw."""
    if run.random_state_to_restore is not None:
        set_random_state(run.random_state_to_restore)
        run.random_state_to_restore = None


def read(run: Run, path: str, weights_only: bool | None) -> dict[str, Any]:
    """The content of a checkpoint, verified."""
    checkpoint = run.strategy.load_checkpoint(path, weights_only=weights_only)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointForeign(
            f"{path} holds no checkpoint: it has no 'state_dict'. Expected a file that a Trainer wrote, or Lightning."
        )
    decoded: dict[str, Any] = decode(checkpoint)
    check_parts(decoded, path)
    return decoded
