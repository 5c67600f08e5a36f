"""A whole checkpoint: assembled from a run in Lightning's layout, and put back into one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from leyden.callback import Callback
from leyden.checkpoint.format import encode
from leyden.checkpoint.forms import check_alike, check_optimizer, usable
from leyden.checkpoint.layout import FORMAT, OURS, name_unwritable, verified
from leyden.checkpoint.legacy import callback_states_of, progress_of
from leyden.checkpoint.legacy import lightning_loops as written_for_lightning
from leyden.checkpoint.lost import lost_named
from leyden.checkpoint.optimizer_states import describe, fitted, loadable, restore, scheduler_state
from leyden.checkpoint.pickles import Pickles
from leyden.checkpoint.settings import Settings
from leyden.datamodule import LightningDataModule
from leyden.errors import CheckpointMismatch, CheckpointPartial, InvalidReturn
from leyden.hooks import overrides
from leyden.hparams import put_hparams
from leyden.module import LightningModule
from leyden.state.optimizers import OptimizerPlan
from leyden.state.parts import put_parts, take_parts
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.upgrade import upgraded
from leyden.version import LIGHTNING, __version__

_OF_TRAINING = frozenset({"loops", "callbacks", "optimizer_states", "lr_schedulers"})


def take(run: Run, weights_only: bool = False) -> dict[str, Any]:
    """Everything of ``run`` that a file has to hold, in plain values that load without running code."""
    fit = run.leyden_fit
    module, pending = run.lightning_module, fit.pending
    if pending is not None:  # nothing has been trained yet, and not all is put back: what is there is the file's
        whole: dict[str, Any] = encode(dict(pending))
        return {name: value for name, value in whole.items() if name not in _OF_TRAINING} if weights_only else whole
    checkpoint: dict[str, Any] = {
        "epoch": fit.progress.number,
        "global_step": fit.progress.step,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": run.strategy.model_state_dict(module),
        OURS: {
            "format": FORMAT,
            "version": __version__,
            "saved": run.leyden_time_of_save(),
            "init_arguments": module._init_arguments(),
        },
    }
    if not weights_only:
        checkpoint[OURS].update(take_parts(run))
        checkpoint["loops"] = lightning_loops(run)
        checkpoint["callbacks"] = callback_states(run)
        checkpoint["optimizer_states"] = run.strategy.optimizer_states(module, fit.plan.optimizers)
        schedulers = [each.scheduler for each in fit.plan.schedulers]
        checkpoint["lr_schedulers"] = [scheduler_state(scheduler) for scheduler in schedulers]
        checkpoint[OURS]["described"] = describe(module, fit.plan.optimizers, schedulers, fit.asked)
        precision = run.strategy.precision
        state = precision.state_dict()
        if state:
            checkpoint[type(precision).__qualname__] = state
        precision.on_save_checkpoint(checkpoint)
    put_hparams(module, checkpoint, pickles := Pickles(module, checkpoint["state_dict"]))
    datamodule = run.datamodule
    if datamodule is not None:
        checkpoint[OURS]["datamodule_init_arguments"] = datamodule._init_arguments()
        put_hparams(datamodule, checkpoint, pickles, "datamodule_")
        state = datamodule.state_dict()
        if state:
            checkpoint[type(datamodule).__qualname__] = state
    for callback in run.callbacks if weights_only else ():
        callback.leyden_put_weights(module, checkpoint)
    if not weights_only and run.leyden_hooks is not None:
        run.leyden_hooks.tell_checkpoint(Callback.on_save_checkpoint, checkpoint)
    module.on_save_checkpoint(checkpoint)
    if datamodule is not None and overrides(datamodule, LightningDataModule.on_save_checkpoint):
        datamodule.on_save_checkpoint(checkpoint)
    plain: dict[str, Any] = encode(run.strategy.leyden_whole(checkpoint), pickles=pickles)
    name_unwritable(plain)
    return plain


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
    source, progress = run.leyden_loaders.train, run.leyden_fit.progress
    return written_for_lightning(
        {
            **progress.state_dict(),
            "epoch": progress.number,
            "epoch_ended": progress.done >= Done.EPOCH_ROW and progress.batch > 0,
        },
        optimizers=max(1, len(run.leyden_fit.plan.optimizers)),
        automatic=run.lightning_module.automatic_optimization,
        epoch_batches=None if source is None else source.stop,
    )


# -- back into a run
def put_weights(run: Run, checkpoint: dict[str, Any]) -> None:
    """The module's and the datamodule's state."""
    module = run.lightning_module
    with lost_named(module, checkpoint):
        module.on_load_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    try:
        run.strategy.load_model_state_dict({"state_dict": state}, strict=module.strict_loading)
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        if not run.leyden_fitting or not _rebuilds(run):
            raise _unfitting(run, error) from error  # else on_fit_start may rebuild it: see `put_weights_again`
        run.leyden_fit.weights_left = state
    datamodule = run.datamodule
    if datamodule is not None:
        if overrides(datamodule, LightningDataModule.on_load_checkpoint):
            datamodule.on_load_checkpoint(checkpoint)
        state = checkpoint.get(type(datamodule).__qualname__)
        if state is not None:
            kept: list[str] = []
            datamodule.load_state_dict(fitted(state, datamodule.state_dict, type(datamodule).__name__, kept))
            _name_kept(run, kept)


def _rebuilds(run: Run) -> bool:
    """Whether code runs in ``on_fit_start`` that may rebuild the module: the user's, or pruning."""
    ours = [callback for callback in run.callbacks if type(callback).__module__.startswith("leyden.")]
    own = [callback for callback in run.callbacks if callback not in ours or hasattr(callback, "leyden_rebuilds")]
    module = run.lightning_module
    return overrides(module, LightningModule.on_fit_start) or any(overrides(each, Callback.on_fit_start) for each in own)


def put_weights_again(run: Run) -> None:
    """After ``on_fit_start``, which may have rebuilt what the weights did not fit."""
    state, run.leyden_fit.weights_left = run.leyden_fit.weights_left, None
    if state is None:
        return
    module = run.lightning_module
    try:
        run.strategy.load_model_state_dict({"state_dict": state}, strict=module.strict_loading)
    except (RuntimeError, KeyError) as error:
        raise _unfitting(run, error) from error


def _unfitting(run: Run, error: Exception) -> CheckpointMismatch:
    return CheckpointMismatch(
        f"The weights in {run.ckpt_path} do not fit {type(run.lightning_module).__name__}: {error} Load it with a module built "
        f"with the same arguments, or set module.strict_loading = False to take what fits. Where training itself has changed the "
        f"module (pruned it, parametrized it, added layers), change it in the same way in on_load_checkpoint, configure_model or "
        f"on_fit_start: they come before the optimizers are put back."
    )


def put_callbacks(run: Run, checkpoint: dict[str, Any]) -> None:
    """Tell the callbacks of the checkpoint, and give them their states: those of ours, which are of training, in a fit only."""
    assert run.leyden_hooks is not None
    run.leyden_hooks.tell_checkpoint(Callback.on_load_checkpoint, checkpoint)
    with usable(run.ckpt_path, "callbacks"):
        states = callback_states_of(checkpoint)
    missing = sorted(set(states) - {callback.state_key for callback in run.callbacks})
    if not run.leyden_options.watching.checkpointing:
        missing = [key for key in missing if not key.startswith("ModelCheckpoint")]  # turned off, and not forgotten
    if missing and run.leyden_fitting and OURS in checkpoint:  # Lightning's have other names: what fits is taken
        run.leyden_warn(
            f"{run.ckpt_path} holds the states of callbacks that this Trainer has not, or has with other arguments, and they "
            f"are left out: {', '.join(missing)}."
        )
    kept: list[str] = []
    for callback in run.callbacks:
        state = states.get(callback.state_key)
        methods = (type(callback).state_dict, type(callback).load_state_dict)  # what the user's raise is the user's
        is_ours = all(method.__module__.startswith("leyden.callbacks.") for method in methods)
        if state and (run.leyden_fitting or not is_ours):
            with usable(run.ckpt_path, callback.state_key) if is_ours else nullcontext():
                if is_ours:
                    check_alike(run.ckpt_path, callback.state_key, state, callback.state_dict())
                callback.load_state_dict(fitted(dict(state), callback.state_dict, type(callback).__name__, kept))
    _name_kept(run, kept if run.leyden_fitting else [])


def _name_kept(run: Run, names: list[str]) -> None:
    """Say what no file could hold, and is in this run as its own code made it."""
    if names:
        run.leyden_warn(
            f"{run.ckpt_path} could not hold {', '.join(dict.fromkeys(names))}, which only pickle could write: what this process "
            f"built is kept in their place. Where training changes it, this run is not the uninterrupted one."
        )


def put_optimizers(run: Run, checkpoint: dict[str, Any], plan: OptimizerPlan) -> None:
    """The states of optimizers, schedulers and the precision's scaler."""
    with usable(run.ckpt_path, "optimizer_states"):
        _put_optimizers(run, checkpoint, plan)


def _put_optimizers(run: Run, checkpoint: dict[str, Any], plan: OptimizerPlan) -> None:
    fit = run.leyden_fit
    states = checkpoint.get("optimizer_states")
    if states == [] and fit.progress.done == Done.NOTHING:
        return  # written before any fit had made its optimizers
    if states is None:
        raise CheckpointPartial(
            f"{run.ckpt_path} holds weights only, and fit cannot continue from it. Load the weights instead: "
            f"{type(run.lightning_module).__name__}.load_from_checkpoint(...), then fit without ckpt_path."
        )
    module, kept = run.lightning_module, list[str]()
    described: Mapping[str, Any] = (checkpoint.get(OURS) or {}).get("described") or {}
    schedulers, schedules = [each.scheduler for each in plan.schedulers], checkpoint.get("lr_schedulers") or []
    settings = Settings(module, plan.optimizers, schedulers, described, fit.asked, str(run.ckpt_path))
    states, schedules = settings.put_into(states, schedules)
    for text, say in ((settings.taken_said(), run.print), (settings.kept_said(), run.leyden_warn)):
        if text:
            say(text)
    both = list(zip(plan.optimizers, states, strict=True))
    whole = [fitted(state, optimizer.state_dict, type(optimizer).__name__, kept) for optimizer, state in both]
    plain = [loadable(optimizer, state) for optimizer, state in zip(plan.optimizers, whole, strict=True)]
    for optimizer, state in zip(plan.optimizers, plain, strict=True):
        check_optimizer(run.ckpt_path, optimizer, state)
    try:
        run.strategy.load_optimizer_states(module, plan.optimizers, plain)
    except (ValueError, KeyError) as error:
        raise CheckpointMismatch(f"An optimizer's state in {run.ckpt_path} does not fit: {error}") from error
    for optimizer, state in zip(plan.optimizers, whole, strict=True):
        restore(optimizer, state, described.get("dtypes") or {}, module)
    for optimizer in plan.optimizers if fit.progress.step else ():
        optimizer._opt_called = True  # type: ignore[attr-defined]  # in another process: PyTorch's schedulers ask whether it was
    for scheduler, state in zip(schedulers, schedules, strict=True):
        if hasattr(scheduler, "load_state_dict"):  # one that is stepped by hand need not have any
            if type(scheduler).__module__.startswith("torch.optim"):
                check_alike(run.ckpt_path, type(scheduler).__name__, state, scheduler.state_dict())
            scheduler.load_state_dict(fitted(state, scheduler.state_dict, type(scheduler).__name__, kept))
    _name_kept(run, kept)
    precision = run.strategy.precision
    state = checkpoint.get(type(precision).__qualname__, checkpoint.get("native_amp_scaling_state"))
    if state:
        precision.load_state_dict(state)
    precision.on_load_checkpoint(checkpoint)


def put_progress(run: Run, checkpoint: dict[str, Any]) -> None:
    """How far training was: known before configure_optimizers and on_fit_start, which may ask."""
    ours = checkpoint.get(OURS)
    saved = ours.get("saved", 0) if isinstance(ours, Mapping) else 0
    run.leyden_fit.saved = saved if type(saved) is int else 0
    with usable(run.ckpt_path, "progress"):
        parts = parts_of(checkpoint)
    put_parts(run, parts, early=True)


def put_training(run: Run, checkpoint: dict[str, Any]) -> None:
    """Everything else that the continuation depends on."""
    put_parts(run, parts_of(checkpoint), early=False)


def parts_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts in a checkpoint of any version, in today's layout."""
    ours = checkpoint.get(OURS) or {}
    if "processes" in ours:
        return ours
    return upgraded(ours if "progress" in ours else {"progress": progress_of(checkpoint)})


def read(run: Run, path: str, weights_only: bool | None) -> dict[str, Any]:
    """The content of a checkpoint, verified."""
    return verified(run.strategy.load_checkpoint(path, weights_only=weights_only), path, weights_only)
