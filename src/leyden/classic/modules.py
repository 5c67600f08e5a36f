"""What stands between a module or callback of any year and the core: found once, when a verb starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from leyden.callback import Callback
from leyden.classic.epoch_ends import EPOCH_ENDS, EpochEnds
from leyden.classic.notices import notice
from leyden.classic.old_hooks import (
    CALLBACKS_OLD_HOOKS,
    GONE,
    MODULES_OLD_HOOKS,
    ON_INIT,
    echo,
    own_method,
    refuse_gone,
    with_their_arguments,
)
from leyden.classic.returned import Reader
from leyden.errors import Unsupported
from leyden.hooks import fitted, overrides
from leyden.module import LightningModule
from leyden.state.run import Run
from leyden.state.stage import STAGES, TrainerFn

STEP_ENDS = {"training_step": "training_step_end", "validation_step": "validation_step_end", "test_step": "test_step_end"}
ALIASES = {
    "val_step": "validation_step",
    "configure_optimizer": "configure_optimizers",
    "configure_sharded_model": "configure_model",
}
MODULE_NAMES = frozenset(
    {*ALIASES, *EPOCH_ENDS.values(), *STEP_ENDS.values(), *MODULES_OLD_HOOKS, *GONE, "get_tqdm_dict", "get_progress_bar_dict"}
)
CALLBACK_NAMES = frozenset({*CALLBACKS_OLD_HOOKS, *ON_INIT})
RESEMBLED = frozenset(
    {"configure_optimizer", *EPOCH_ENDS.values(), *STEP_ENDS.values(), *(name for name in MODULES_OLD_HOOKS if name[:3] == "on_")}
)
"""Old names of a module with which misspelt ones are compared: those that nobody gives a method of his own."""

_MANUAL = (
    "Several optimizers are stepped by hand: set self.automatic_optimization = False in __init__, take them with "
    "self.optimizers(), and call self.manual_backward(loss), optimizer.step() and optimizer.zero_grad() for each."
)
_BPTT = (
    "Split the batch along time in training_step, with self.automatic_optimization = False in __init__, and detach the hidden "
    "state between the parts."
)
_BARS = {"get_progress_bar_dict": "ProgressBar.get_metrics", "get_tqdm_dict": "ProgressBar.get_metrics"}


@dataclass
class Adapter:
    """What a verb has to know about a module in order to run it as today's."""

    module: LightningModule
    steps: dict[str, Callable[..., Any]] = field(default_factory=dict)
    """By today's names: what to call instead of the module's own method."""
    first: list[Callback] = field(default_factory=list)
    """Callbacks that fire before the user's."""
    callbacks: list[Callback] = field(default_factory=list)
    """Callbacks that fire after the user's."""
    instead: Mapping[tuple[int, str], Callable[..., Any]] = field(default_factory=dict)
    """By owner and name: hooks whose arguments are another year's."""
    read_mapping: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = lambda stage, outputs: outputs
    """Called with the stage and every dict that a step returns."""
    bar_items: Callable[[], Mapping[str, Any]] | None = None
    """What the module wants the bar to show, where it has a say."""


def adapt(run: Run, module: LightningModule) -> Adapter:
    """Find what ``module`` and the callbacks say in an older dialect.

    Raises :class:`Unsupported` for what cannot be honoured.
    """
    refuse_gone(module)
    _refuse_arguments_gone(module)
    adapter = Adapter(module)
    for old, new in ALIASES.items():
        method = own_method(module, old)
        if method is not None and not overrides(module, getattr(LightningModule, new)):
            notice(old, new)
            adapter.steps[new] = method
    for step, end in STEP_ENDS.items():
        method = own_method(module, end)
        if method is not None:
            notice(end, step)
            count = 2 if step == "training_step" else 3
            adapter.steps[step] = _then(fitted(adapter.steps.get(step, getattr(module, step)), count), fitted(method, 1))
    for name, given in (("optimizer_step", _optimizer_step_of), ("backward", _backward_of)):
        if overrides(module, getattr(LightningModule, name)):
            adapter.steps[name] = given(module)
    for old, today in _BARS.items():
        if overrides(module, getattr(LightningModule, old)):
            notice(old, today)
            adapter.bar_items = getattr(module, old)
    methods: dict[str, Callable[..., Any]] = {}
    for stage in STAGES[TrainerFn.FITTING]:
        method = own_method(module, EPOCH_ENDS[stage.key])
        if method is not None:
            methods[stage.key] = method
            notice(EPOCH_ENDS[stage.key], f"{stage.hooks.epoch_end.__name__}, with self.log")
    if methods:
        adapter.first.append(EpochEnds(methods))
    adapter.read_mapping = Reader(run, module, set(methods)).read
    adapter.callbacks = echo(run, module, run.callbacks)
    adapter.instead = with_their_arguments([*run.callbacks, module])
    return adapter


def _then(step: Callable[..., Any], end: Callable[..., Any]) -> Callable[..., Any]:
    def stepped(*arguments: Any) -> Any:
        return end(step(*arguments))

    return stepped


def _refuse_arguments_gone(module: LightningModule) -> None:
    step: Any = module.training_step
    if step is None:
        return
    name = f"{type(module).__name__}.training_step"
    required = {
        each.name
        for each in inspect.signature(step).parameters.values()
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    }
    for argument in ("optimizer_idx", "optimizer_i"):
        if argument in required:
            raise Unsupported(f"{name} takes {argument}: one step for each of several optimizers is not offered. {_MANUAL}")
    for argument in ("hiddens", "hidden"):
        if argument in required:
            raise Unsupported(f"{name} takes {argument}: truncated backpropagation through time is not offered. {_BPTT}")
    # with manual optimization the module splits the batch by itself, and the name is its own
    if getattr(module, "truncated_bptt_steps", None) and module.automatic_optimization:
        raise Unsupported(
            f"{type(module).__name__}.truncated_bptt_steps is set, and truncated backpropagation through time is not offered. "
            f"{_BPTT}"
        )


def _optimizer_step_of(module: LightningModule) -> Callable[..., Any]:
    """``optimizer_step`` with the arguments that its author's version had."""
    names = list(inspect.signature(module.optimizer_step).parameters)
    old: dict[str, Any] = {
        "current_epoch": None,
        "batch_nb": None,
        "optimizer_idx": 0,
        "optimizer_i": 0,
        "second_order_closure": None,
        "on_tpu": False,
        "using_native_amp": False,
        "using_lbfgs": False,
    }
    found = [name for name in names if name in old]
    if not found:
        return fitted(module.optimizer_step, 4)
    notice(f"optimizer_step(..., {', '.join(found)})", "optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)")

    def step(epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> Any:
        values = {
            **old,
            "epoch": epoch,
            "current_epoch": epoch,
            "batch_idx": batch_idx,
            "batch_nb": batch_idx,
            "optimizer": optimizer,
            "optimizer_closure": closure,
        }
        return module.optimizer_step(**{name: values[name] for name in names if name in values})

    return step


def _backward_of(module: LightningModule) -> Callable[..., Any]:
    """``backward`` with the arguments that its author's version had."""
    names = list(inspect.signature(module.backward).parameters)
    found = [name for name in names if name in ("trainer", "optimizer", "optimizer_idx")]
    if not found:
        return module.backward
    notice(f"backward(..., {', '.join(found)})", "backward(loss)")

    def backward(loss: Any, *args: Any, **kwargs: Any) -> Any:
        optimizers = module.trainer.optimizers
        values = {
            "trainer": module.trainer,
            "loss": loss,
            "optimizer": optimizers[0] if optimizers else None,
            "optimizer_idx": 0,
        }
        return module.backward(**{name: values[name] for name in names if name in values}, **kwargs)

    return backward
